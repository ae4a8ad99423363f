"""Pictures whose content is known and easy to see: coloured shapes on white, named by their id.

What a judge cannot see here it cannot see anywhere.
"""

from __future__ import annotations

import math
from itertools import cycle, islice

from PIL import Image as PILImage
from PIL import ImageDraw

from stllava.images import encode_jpeg_base64

COLOURS = {"red": (210, 30, 30), "blue": (30, 60, 200), "green": (20, 140, 50)}
SIDES = {"circle": 0, "square": 4, "triangle": 3}
SIDE = 224  # pixels


def shape_id(colour: str, shape: str) -> str:
    return f"{colour} {shape}"


def shape_ids(number: int) -> list[str]:
    """The first `number` of nine ids; neighbours differ in colour and in shape."""
    every = [
        shape_id(colour, shape)
        for shift in range(len(SIDES))
        for colour, shape in zip(COLOURS, islice(cycle(SIDES), shift, None), strict=False)
    ]
    return every[:number]


def shape_uri(name: str) -> str:
    """The picture of an id as a data URI."""
    return "data:image/jpeg;base64," + encode_jpeg_base64(shape_picture(name))


def shape_picture(name: str) -> PILImage.Image:
    colour, shape = name.split(" ")
    picture = PILImage.new("RGB", (SIDE, SIDE), "white")
    draw = ImageDraw.Draw(picture)
    middle, radius = SIDE / 2, SIDE / 3
    if SIDES[shape] == 0:
        box = (middle - radius, middle - radius, middle + radius, middle + radius)
        draw.ellipse(box, fill=COLOURS[colour])
    else:
        number = SIDES[shape]
        turn = math.pi / 4 if number == 4 else -math.pi / 2
        angles = [turn + 2 * math.pi * k / number for k in range(number)]
        corners = [(middle + radius * math.cos(a), middle + radius * math.sin(a)) for a in angles]
        draw.polygon(corners, fill=COLOURS[colour])
    return picture

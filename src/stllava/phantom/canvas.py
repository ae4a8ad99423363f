"""A small drawing surface: shapes in units of a 96-pixel picture, drawn at twice the size.

PIL fills the shapes; twice the size and a box filter stand in for anti-aliasing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageChops, ImageDraw, ImageFilter

UNITS = 96  # side of the drawing in the units of every coordinate
OVERSAMPLE = 2

Colour = int | tuple[int, int, int]
Point = tuple[float, float]


class Canvas:
    """An image being drawn; holds the PIL image and the scale from units to its pixels."""

    def __init__(self, size: int, fill: Colour, mode: str = "L") -> None:
        self.size = size
        self.scale = size * OVERSAMPLE / UNITS
        self.image = Image.new(mode, (size * OVERSAMPLE,) * 2, fill)
        self.pen = ImageDraw.Draw(self.image)

    def ellipse(
        self, x: float, y: float, rx: float, ry: float, fill: Colour, angle: float = 0.0
    ) -> None:
        """Fill an ellipse; `angle` in degrees, clockwise on the picture."""
        if angle:
            self.polygon(ellipse_points(x, y, rx, ry, angle), fill)
            return
        k = self.scale
        self.pen.ellipse((k * (x - rx), k * (y - ry), k * (x + rx), k * (y + ry)), fill=fill)

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.pen.polygon([(self.scale * x, self.scale * y) for x, y in points], fill=fill)

    def rect(self, x0: float, y0: float, x1: float, y1: float, fill: Colour) -> None:
        self.polygon(((x0, y0), (x1, y0), (x1, y1), (x0, y1)), fill)

    def line(self, points: Sequence[Point], fill: Colour, width: float) -> None:
        self.pen.line(
            [(self.scale * x, self.scale * y) for x, y in points],
            fill=fill,
            width=max(1, round(self.scale * width)),
            joint="curve",
        )

    def add(self, other: Canvas, blur: float = 0.0) -> None:
        """Add another layer's brightness, as overlapping shadows do on an x-ray."""
        layer = other.blurred(blur) if blur else other.image
        self.replace(ImageChops.add(self.image, layer))

    def blur(self, radius: float) -> None:
        self.replace(self.blurred(radius))

    def blurred(self, radius: float) -> Image.Image:
        # one box of about the same variance: a Gaussian takes three passes
        return self.image.filter(ImageFilter.BoxBlur(1.5 * radius * self.scale))

    def replace(self, image: Image.Image) -> None:
        self.image = image
        self.pen = ImageDraw.Draw(image)

    def finish(self, angle: float = 0.0, shift: Point = (0.0, 0.0)) -> np.ndarray:
        """Return the drawing turned by `angle` degrees, moved by `shift` units, as float32.

        What the turn uncovers takes the colour of the top left corner.
        """
        small = self.image.reduce(OVERSAMPLE)  # first: turning four times the pixels is slow
        pixels = self.size / UNITS
        move = (round(shift[0] * pixels), round(shift[1] * pixels))
        turned = small.rotate(
            angle, Image.Resampling.BILINEAR, translate=move, fillcolor=small.getpixel((0, 0))
        )
        return np.asarray(turned, dtype=np.float32)


def ellipse_points(
    x: float,
    y: float,
    rx: float,
    ry: float,
    angle: float = 0.0,
    start: float = 0.0,
    stop: float = 360.0,
    steps: int = 28,
) -> list[Point]:
    """Points of an ellipse's outline from `start` to `stop` degrees, turned by `angle`."""
    c, s = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    points = []
    for i in range(steps + 1):
        t = math.radians(start + (stop - start) * i / steps)
        u, v = rx * math.cos(t), ry * math.sin(t)
        points.append((x + c * u - s * v, y + s * u + c * v))
    return points

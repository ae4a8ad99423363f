"""The pictures of the general world, one function a scene. "left" is the picture's left."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from stllava.phantom.canvas import Canvas, Colour, Point, ellipse_points
from stllava.phantom.world import Finding

Findings = Mapping[str, Finding]
Scene = Callable[[Findings, np.random.Generator, int], Canvas]

BLACK: Colour = (22, 20, 26)
RADIUS = {"small": 2.6, "large": 5.6}


def _sign(finding: Finding) -> int:
    return -1 if finding.side == "left" else 1


def _vary(rng: np.random.Generator, red: int, green: int, blue: int) -> Colour:
    """Return the colour, a little lighter or darker."""
    shift = int(rng.integers(-18, 19))
    return red + shift, green + shift, blue + shift


def _places(finding: Finding, slots: Sequence[Point], rng: np.random.Generator) -> list[Point]:
    """Return `count` of the slots, jittered; slots are left of x = 48 and mirrored for "right"."""
    chosen = [slots[i] for i in rng.permutation(len(slots))[: finding.count]]
    moved = [(x + rng.uniform(-1, 1), y + rng.uniform(-1, 1)) for x, y in chosen]
    return [(96 - x, y) if finding.side == "right" else (x, y) for x, y in moved]


def _blobs(
    canvas: Canvas,
    finding: Finding | None,
    slots: Sequence[Point],
    rng: np.random.Generator,
    fill: Colour,
    *,
    flat: float = 1.0,
) -> None:
    """Draw round blobs of the finding's size and count; `flat` < 1 flattens them."""
    if finding is None:
        return
    radius = RADIUS[finding.size] * rng.uniform(0.94, 1.06)
    for x, y in _places(finding, slots, rng):
        canvas.ellipse(x, y, radius / flat**0.5, radius * flat, fill)


def house(found: Findings, rng: np.random.Generator, size: int) -> Canvas:
    """A house between a garden and the sky."""
    canvas = Canvas(size, _vary(rng, 120, 170, 215), "RGB")
    canvas.rect(-9, 68, 105, 105, _vary(rng, 60, 120, 50))
    canvas.polygon(((28, 46), (48, 30), (68, 46)), _vary(rng, 110, 35, 30))
    canvas.rect(31, 46, 65, 80, _vary(rng, 175, 115, 85))
    if "big door" in found:
        canvas.rect(38, 50, 58, 80, (50, 32, 20))
    else:
        canvas.rect(44.5, 66, 51.5, 80, (50, 32, 20))
    if sun := found.get("sun"):
        canvas.ellipse(48 + _sign(sun) * 36, 12, 8, 8, (255, 235, 60))
    sky = ((32, 13), (48, 21), (63, 12))
    _blobs(canvas, found.get("cloud"), sky, rng, (250, 250, 250), flat=0.7)
    beds = ((10, 76), (22, 83), (9, 90))
    _blobs(canvas, found.get("flower"), beds, rng, (250, 225, 235))
    return canvas


def face(found: Findings, rng: np.random.Generator, size: int) -> Canvas:
    """A face from the front, ears at its sides."""
    canvas = Canvas(size, _vary(rng, 90, 105, 90), "RGB")
    skin = _vary(rng, 215, 165, 135)
    for sign in (-1, 1):
        canvas.ellipse(48 + sign * 32, 50, 5, 8, _vary(rng, 195, 145, 115))
    canvas.ellipse(48, 50, 31, 40, skin)
    for sign in (-1, 1):
        canvas.ellipse(48 + sign * 12, 38, 5.5, 3.6, (245, 245, 245))
        canvas.ellipse(48 + sign * 12, 38, 2.2, 2.2, (40, 60, 90))
    canvas.ellipse(48, 51, 2.6, 7, (185, 130, 105))
    wide, tall = (15, 8) if "big mouth" in found else (8, 2)
    canvas.ellipse(48, 72, wide, tall, (130, 25, 30))
    if "hat" in found:
        canvas.rect(18, 17, 78, 24, (35, 35, 80))
        canvas.rect(31, -4, 65, 18, (35, 35, 80))
    if earring := found.get("earring"):
        canvas.ellipse(48 + _sign(earring) * 34, 62, 4, 4, (255, 240, 110))
    _blobs(canvas, found.get("spot"), ((27, 49), (37, 58), (26, 63)), rng, (75, 35, 25))
    return canvas


def pond(found: Findings, rng: np.random.Generator, size: int) -> Canvas:
    """A boat on a pond under the sky."""
    canvas = Canvas(size, _vary(rng, 165, 200, 215), "RGB")
    canvas.rect(-9, 54, 105, 105, _vary(rng, 85, 115, 155))
    for wave in (62, 74, 86):
        shift = rng.uniform(-6, 6)
        canvas.line(((12 + shift, wave), (30 + shift, wave)), (125, 150, 180), 1)
        canvas.line(((62 + shift, wave + 4), (84 + shift, wave + 4)), (125, 150, 180), 1)
    wide, deep = (25, 17) if "big boat" in found else (13, 7)
    hull = ellipse_points(48, 55, wide, deep, 0, 0, 180)
    canvas.polygon(hull, (75, 45, 25))
    canvas.line(((48, 55), (48, 26)), (60, 40, 30), 1.6)
    if "sail" in found:
        canvas.polygon(((49.5, 26), (49.5, 50), (63, 50)), (252, 250, 240))
    sky = ((14, 14), (30, 21), (15, 35))
    _blobs(canvas, found.get("bird"), sky, rng, BLACK, flat=0.7)
    if duck := found.get("duck"):
        [(x, y)] = _places(duck, ((15, 70),), rng)
        r = 3.0 if duck.size == "small" else 6.5
        canvas.ellipse(x, y, r * 1.3, r * 0.8, (250, 245, 225))
        canvas.ellipse(x + r, y - r * 0.8, r * 0.55, r * 0.55, (250, 245, 225))
    return canvas


def plate(found: Findings, rng: np.random.Generator, size: int) -> Canvas:
    """A dark table with a plate, an egg in its upper half and a spoon beside it."""
    canvas = Canvas(size, _vary(rng, 45, 35, 30), "RGB")
    canvas.ellipse(44, 50, 39, 37, _vary(rng, 200, 200, 205))
    canvas.ellipse(44, 50, 31, 29, _vary(rng, 130, 140, 160))
    canvas.ellipse(44, 37, 20, 13, (245, 240, 225))
    _blobs(canvas, found.get("pea"), ((34, 36), (46, 33), (55, 41)), rng, (45, 80, 30), flat=0.95)
    slots = ((18, 54), (29, 60), (33, 72))
    tomato = found.get("tomato")
    if tomato is not None:
        r = RADIUS[tomato.size]
        for x, y in _places(tomato, slots, rng):
            canvas.ellipse(x - 4, y, r, r, (95, 15, 15))
    if crack := found.get("crack"):
        s = _sign(crack)
        points = ((44 + s * 26, 20), (44 + s * 30, 27), (44 + s * 29, 31), (44 + s * 34, 36))
        canvas.line(points, BLACK, 2)
    if "big spoon" in found:
        canvas.ellipse(87, 34, 7.5, 14, (215, 215, 220))
        canvas.line(((87, 45), (87, 92)), (215, 215, 220), 5)
    else:
        canvas.ellipse(89, 50, 3, 5, (215, 215, 220))
        canvas.line(((89, 53), (89, 72)), (215, 215, 220), 2)
    return canvas


def window(found: Findings, rng: np.random.Generator, size: int) -> Canvas:
    """A window at night: two dark panes in a bright wall, a lamp on the sill."""
    wall = _vary(rng, 165, 150, 130)
    canvas = Canvas(size, wall, "RGB")
    night = _vary(rng, 35, 38, 60)
    canvas.rect(12, 8, 45, 74, night)
    canvas.rect(51, 8, 84, 74, night)
    for bar in (29, 51):
        for edge in (12, 51):
            canvas.line(((edge, bar), (edge + 33, bar)), (75, 75, 85), 1.2)
    canvas.rect(6, 74, 90, 79, (205, 195, 180))
    wide, tall = (25, 17) if "big lamp" in found else (10, 9)
    canvas.ellipse(48, 74 - tall, wide, tall, (205, 190, 140))
    if curtain := found.get("curtain"):
        s = _sign(curtain)
        canvas.polygon(
            (
                (48 + s * 37, 40),
                (48 + s * 30, 50),
                (48 + s * 18, 54),
                (48 + s * 3, 55),
                (48 + s * 3, 74),
                (48 + s * 37, 74),
            ),
            (225, 215, 205),
        )
    if scratch := found.get("scratch"):
        x, y = 48 + _sign(scratch) * 26.0, rng.uniform(44, 58)
        canvas.line(((x - 8, y - 4), (x, y - 1)), (255, 255, 255), 2.6)
        canvas.line(((x + 1, y + 2), (x + 8, y + 6)), (255, 255, 255), 2.6)
    panes = ((20, 16), (34, 22), (21, 33), (35, 38))
    _blobs(canvas, found.get("star"), panes, rng, (250, 248, 225))
    return canvas


def tree(found: Findings, rng: np.random.Generator, size: int) -> Canvas:
    """A tree with two branches of leaves on a meadow."""
    canvas = Canvas(size, _vary(rng, 175, 200, 215), "RGB")
    canvas.rect(-9, 80, 105, 105, _vary(rng, 95, 130, 70))
    wide = 13 if "big trunk" in found else 3.5
    canvas.polygon(
        ((48 - wide, 88), (48 - wide * 0.7, 40), (48 + wide * 0.7, 40), (48 + wide, 88)),
        (85, 60, 40),
    )
    leaves = _vary(rng, 60, 95, 50)
    for sign in (-1, 1):
        canvas.ellipse(48 + sign * 23, 32, 21, 25, leaves)
        canvas.line(((48, 52), (48 + sign * 25, 40)), (70, 55, 38), 2)
    canvas.ellipse(48, 20, 14, 14, leaves)
    branch = ((14, 28), (28, 21), (33, 34))
    _blobs(canvas, found.get("apple"), branch, rng, (245, 215, 190))
    if nest := found.get("nest"):
        [(x, y)] = _places(nest, ((22, 49),), rng)
        r = 3.4 if nest.size == "small" else 7.5
        canvas.ellipse(x, y, r * 1.2, r * 0.8, (30, 20, 14))
    return canvas


def butterfly(found: Findings, rng: np.random.Generator, size: int) -> Canvas:
    """A pale butterfly, wings spread, on a dark ground."""
    ground = _vary(rng, 35, 45, 40)
    canvas = Canvas(size, ground, "RGB")
    wing = _vary(rng, 185, 160, 110)
    for sign in (-1, 1):
        canvas.ellipse(48 + sign * 22, 35, 23, 24, wing, angle=sign * -20)
        canvas.ellipse(48 + sign * 18, 67, 17, 19, wing, angle=sign * 20)
        canvas.line(((48, 22), (48 + sign * 10, 6)), (150, 140, 120), 1.4)
        for reach in (12, 26):
            canvas.line(((48, 44), (48 + sign * 32, 44 - reach)), (150, 128, 85), 1)
    wide, tall = (8, 30) if "big body" in found else (2.4, 22)
    canvas.ellipse(48, 50, wide, tall, (25, 22, 20))
    _blobs(canvas, found.get("dot"), ((20, 24), (33, 33), (18, 40)), rng, (60, 30, 20))
    if hole := found.get("hole"):
        [(x, y)] = _places(hole, ((28, 67),), rng)
        r = 3.4 if hole.size == "small" else 7.5
        canvas.ellipse(x, y, r, r, (250, 245, 230))
        canvas.ellipse(x, y, r * 0.6, r * 0.6, ground)
    return canvas


SCENES: dict[str, Scene] = {
    "house": house,
    "face": face,
    "pond": pond,
    "plate": plate,
    "window": window,
    "tree": tree,
    "butterfly": butterfly,
}

"""An axial abdominal ct: liver at the picture's left (the patient's right), spine at the bottom."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stllava.phantom.canvas import Canvas, Point
from stllava.phantom.world import Finding

LESION_SLOTS: tuple[Point, ...] = ((24, 35), (37, 31), (23, 50), (36, 46))
LESION_RADIUS = {"small": 2.5, "large": 5.6}


def draw_abdomen(
    findings: Sequence[Finding], rng: np.random.Generator, build: float, size: int
) -> Canvas:
    """Draw the slice with its findings; `build` widens the body (about 1)."""
    kinds = {finding.kind: finding for finding in findings}
    canvas = Canvas(size, 4)
    _draw_wall(canvas, build, rng)
    _draw_gut(canvas, rng)
    _draw_spleen(canvas, rng, enlarged="enlarged spleen" in kinds)
    _draw_liver(canvas, rng)
    _draw_spine(canvas)
    stone = kinds.get("stone")
    for side, x in (("right", 30.0), ("left", 66.0)):  # the patient's right, picture's left
        _draw_kidney(canvas, x, 66.0, 1 if side == "left" else -1)
        if stone and stone.side == side:
            canvas.ellipse(x, 66, 4.6, 5.2, 38)  # the pelvis behind the stone swells
            canvas.ellipse(x, 66, 2.6, 2.6, 255)
    canvas.blur(0.35)
    if lesions := kinds.get("lesion"):
        _draw_lesions(canvas, lesions, rng)
    return canvas


def _draw_wall(canvas: Canvas, build: float, rng: np.random.Generator) -> None:
    """Skin, fat, muscle and ribs around the belly; the table below."""
    w, h = 44 * build, 33.5 + rng.uniform(-1, 1)
    canvas.line(((4, 91), (30, 94), (66, 94), (92, 91)), 60, 1.2)
    canvas.ellipse(48, 53, w, h + 2, 104)
    canvas.ellipse(48, 53, w - 1.2, h + 0.8, 46)
    canvas.ellipse(48, 53, w - 4.5, h - 2.6, 112)
    canvas.ellipse(48, 52, w - 6.5, h - 4.8, 56)
    for degrees in (15.0, 40.0, 140.0, 165.0, 190.0, 350.0):
        t = np.radians(degrees)
        canvas.ellipse(
            48 + (w - 5.6) * np.cos(t),
            53 + (h - 3.8) * np.sin(t),
            2.2,
            1.1,
            225,
            angle=degrees + 90,
        )


def _draw_gut(canvas: Canvas, rng: np.random.Generator) -> None:
    """The stomach with its air and fluid level, and a few loops of bowel."""
    canvas.ellipse(61, 36, 13, 9, 124, angle=18)
    canvas.ellipse(60, 33.5, 9, 4.5, 10, angle=10)
    canvas.rect(52, 35.5, 70, 38, 104)
    for x, y in ((48.0, 54.0), (56.0, 51.0), (64.0, 53.0)):
        x, y = x + rng.uniform(-1, 1), y + rng.uniform(-1, 1)
        canvas.ellipse(x, y, 4, 3.2, 110)
        canvas.ellipse(x, y, 1.6, 1.2, 62)


def _draw_spleen(canvas: Canvas, rng: np.random.Generator, *, enlarged: bool) -> None:
    """A crescent at the patient's left flank; enlarged it fills the flank."""
    grey = int(rng.integers(150, 164))
    if enlarged:
        canvas.ellipse(76, 50, 10.5, 20, grey, angle=-8)
    else:
        canvas.ellipse(80, 58, 4.6, 8, grey, angle=14)


def _draw_liver(canvas: Canvas, rng: np.random.Generator) -> None:
    grey = int(rng.integers(142, 156))
    canvas.ellipse(29, 42, 17.5, 19, grey, angle=14)
    canvas.ellipse(41, 33, 13, 9.5, grey, angle=-14)
    canvas.ellipse(20, 51, 8, 10, grey)
    canvas.line(((30, 46), (35, 39), (43, 37)), grey + 20, 1.1)  # portal vein
    canvas.ellipse(42, 50, 2.6, 2.2, grey)  # vena cava


def _draw_spine(canvas: Canvas) -> None:
    for sign in (-1, 1):
        canvas.ellipse(48 + sign * 11, 79, 8, 4.6, 112, angle=sign * 8)  # back muscles
        canvas.line(((48, 74), (48 + sign * 9, 76)), 205, 2)
    canvas.ellipse(48, 68, 7, 5.8, 222)
    canvas.ellipse(48, 68, 5.2, 4.2, 196)
    canvas.ellipse(48, 75.5, 3.4, 2.6, 225)
    canvas.ellipse(48, 75.2, 2.2, 1.7, 92)  # spinal canal
    canvas.line(((48, 78), (48, 83)), 215, 1.8)
    canvas.ellipse(51.5, 59.5, 3, 3, 186)  # aorta, left of the middle
    canvas.ellipse(43, 60, 3.2, 2.5, 160)  # vena cava


def _draw_kidney(canvas: Canvas, x: float, y: float, sign: int) -> None:
    """A bright bean that opens towards the spine."""
    canvas.ellipse(x, y, 6.6, 8.2, 188, angle=sign * 18)
    canvas.ellipse(x - sign * 3.2, y - 0.5, 3, 2.6, 72)


def _draw_lesions(canvas: Canvas, lesions: Finding, rng: np.random.Generator) -> None:
    for slot in rng.permutation(4)[: lesions.count]:
        x, y = LESION_SLOTS[slot]
        r = LESION_RADIUS[lesions.size] * rng.uniform(0.94, 1.06)
        canvas.ellipse(x + rng.uniform(-0.8, 0.8), y + rng.uniform(-0.8, 0.8), r, r, 42)

"""A frontal chest x-ray: heart to the patient's left, which is the picture's right."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stllava.phantom.canvas import Canvas, Point, ellipse_points
from stllava.phantom.world import Finding

MIDDLE = 48.0
# Where nodules may lie, for the lung on the picture's left: far enough apart that large ones
# never touch, clear of the heart, of an effusion and of the ribs where fractures are drawn.
NODULE_SLOTS: tuple[Point, ...] = ((32, 20), (25, 32.5), (37, 37), (37, 27))
NODULE_RADIUS = {"small": 2.6, "large": 5.4}


def draw_chest(
    findings: Sequence[Finding], rng: np.random.Generator, build: float, size: int
) -> Canvas:
    """Draw the chest with its findings; `build` widens the body (about 1)."""
    kinds = {finding.kind: finding for finding in findings}
    canvas = Canvas(size, 6)
    _draw_body(canvas, build)
    _draw_lungs(canvas, build)
    _draw_heart(canvas, rng, enlarged="enlarged heart" in kinds)
    if effusion := kinds.get("pleural effusion"):
        _draw_effusion(canvas, _sign(effusion.side), build)
    canvas.blur(0.7)
    canvas.add(_bones(size, build, rng), blur=0.45)
    if fracture := kinds.get("rib fracture"):
        _draw_fracture(canvas, _sign(fracture.side), rng, build)
    if nodules := kinds.get("nodule"):
        _draw_nodules(canvas, nodules, rng)
    return canvas


def _sign(side: str) -> int:
    """Return -1 for the patient's right, drawn on the picture's left, and +1 for the left."""
    return 1 if side == "left" else -1


def _draw_body(canvas: Canvas, build: float) -> None:
    w = 41 * build
    canvas.polygon(
        (
            (40, -4),
            (56, -4),
            (57, 5),
            (72, 9),
            (MIDDLE + w, 15),
            (MIDDLE + w + 9, 34),
            (MIDDLE + w, 40),
            (MIDDLE + w - 1, 100),
            (MIDDLE - w + 1, 100),
            (MIDDLE - w, 40),
            (MIDDLE - w - 9, 34),
            (MIDDLE - w, 15),
            (24, 9),
            (39, 5),
        ),
        92,
    )
    canvas.rect(MIDDLE - w + 4, 70, MIDDLE + w - 4, 100, 128)  # below the diaphragm: abdomen
    canvas.rect(41, -4, 55, 80, 128)  # spine and mediastinum


def _draw_lungs(canvas: Canvas, build: float) -> None:
    """Two dark lungs with pointed tops; the right diaphragm stands higher (the liver)."""
    for sign, floor in ((-1, 69.0), (1, 72.0)):
        x = [MIDDLE + sign * v * build for v in (6, 10, 20, 29, 34, 35.5, 35, 33)]
        outline = [
            (x[0], 24.0),
            (x[1], 14.0),
            (x[2], 10.0),
            (x[3], 18.0),
            (x[4], 34.0),
            (x[5], 52.0),
            (x[6], floor),
            (x[7], floor + 7),
        ]
        dome = [
            (MIDDLE + sign * v * build, floor + d)
            for v, d in ((30, 2), (25, -2), (18, -4), (11, -2.5), (7, 1))
        ]
        canvas.polygon(outline + dome, 26)
    for sign in (-1, 1):  # vessels leaving the hilum
        hilum = MIDDLE + sign * 9
        for dx, dy in ((11, -14), (15, -3), (13, 10), (6, 16)):
            canvas.line(((hilum, 42), (hilum + sign * dx, 42 + dy)), 46, 0.8)
        canvas.ellipse(hilum, 42, 3.2, 5, 84)


def _draw_heart(canvas: Canvas, rng: np.random.Generator, *, enlarged: bool) -> None:
    """The normal heart is narrower than half the chest; the enlarged one much wider."""
    grey = int(rng.integers(150, 170))
    canvas.ellipse(52, 28, 5.5, 5, grey - 22)  # aortic knuckle
    if enlarged:
        canvas.ellipse(54, 62, 27, 16, grey, angle=10)
        canvas.ellipse(40, 60, 15, 14, grey)
    else:
        canvas.ellipse(54, 59, 13, 13, grey, angle=25)
        canvas.ellipse(46, 58, 8, 12, grey)
    canvas.polygon(((42, 24), (56, 24), (58, 56), (40, 56)), grey - 22)
    canvas.rect(46.6, 0, 49.4, 33, 74)  # trachea


def _draw_effusion(canvas: Canvas, sign: int, build: float) -> None:
    """Fluid hides the diaphragm and climbs the chest wall: a meniscus, higher at the side."""

    def at(v: float) -> float:
        return MIDDLE + sign * v * build

    canvas.polygon(
        (
            (at(37), 44),
            (at(33), 52),
            (at(26), 56.5),
            (at(16), 58.5),
            (at(6), 59),
            (at(6), 71),
            (at(18), 67),
            (at(30), 73),
            (at(36), 80),
        ),
        178,
    )


def _bones(size: int, build: float, rng: np.random.Generator) -> Canvas:
    """Brightness that ribs, collar bones and vertebrae add to whatever lies in front."""
    bones = Canvas(size, 0)
    for i in range(7):
        top = 13.5 + 8.2 * i + rng.uniform(-0.4, 0.4)
        reach = min(36.0, 22 + 5.5 * i)
        for sign in (-1, 1):
            x = MIDDLE + sign * build * reach * 0.5
            rib = ellipse_points(x, top + 5, build * reach * 0.5, 5, sign * 16, 180, 360, steps=12)
            bones.line(rib, 30, 1.5)
    for sign in (-1, 1):
        bones.line(
            ((MIDDLE + sign * 4, 15), (MIDDLE + sign * 20, 9.5), (MIDDLE + sign * 36, 11)), 66, 2.2
        )
    for y in range(2, 96, 7):
        bones.rect(44.5, y, 51.5, y + 4.6, 16)
    return bones


def _draw_fracture(canvas: Canvas, sign: int, rng: np.random.Generator, build: float) -> None:
    """One outer rib, bright and thick, broken into two ends that stand apart."""
    x, y = MIDDLE + sign * 27 * build, rng.uniform(50, 56)
    inner = ((x - sign * 8, y - 4.5), (x - sign * 0.6, y - 2.2))
    outer = ((x + sign * 1.4, y + 2.4), (x + sign * 8, y + 6))
    for part in (inner, outer):
        canvas.line(part, 20, 5.2)
        canvas.line(part, 250, 2.8)


def _draw_nodules(canvas: Canvas, nodules: Finding, rng: np.random.Generator) -> None:
    radius = NODULE_RADIUS[nodules.size]
    slots = rng.permutation(3 if nodules.size == "large" else 4)[: nodules.count]
    for slot in slots:
        x, y = NODULE_SLOTS[slot]
        x, y = x + rng.uniform(-1.2, 1.2), y + rng.uniform(-1.2, 1.2)
        x = x if nodules.side == "right" else 2 * MIDDLE - x
        r = radius * rng.uniform(0.94, 1.06)
        canvas.ellipse(x, y, r, r * rng.uniform(0.92, 1.08), int(rng.integers(215, 240)))

"""An axial brain mri: skull, cortex, midline and ventricles; the forehead is at the top."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stllava.phantom.canvas import Canvas, ellipse_points
from stllava.phantom.world import Finding

MASS_RADIUS = {"small": 3.6, "large": 8.2}
HEMORRHAGE_RADII = {"small": (3.8, 2.2), "large": (8.6, 5.0)}
FRONT_Y, BACK_Y = 33.0, 65.0  # a mass takes one of them, a hemorrhage the other


def draw_brain(
    findings: Sequence[Finding], rng: np.random.Generator, build: float, size: int
) -> Canvas:
    """Draw the slice with its findings; `build` widens the head (about 1)."""
    kinds = {finding.kind: finding for finding in findings}
    canvas = Canvas(size, 4)
    w, h = 35.5 * build, 43.5
    canvas.ellipse(48, 48, w, h, 190)  # scalp fat
    canvas.ellipse(48, 48, w - 2.2, h - 2.2, 18)  # skull: no signal
    canvas.ellipse(48, 48, w - 4.4, h - 4.4, 40)  # fluid around the brain
    _draw_cortex(canvas, w - 5.2, h - 5.2, rng)
    _draw_ventricles(canvas, enlarged="enlarged ventricles" in kinds)
    canvas.line(((48, 7), (48, 34)), 34, 1.2)  # the fissure between the hemispheres
    canvas.line(((48, 62), (48, 89)), 34, 1.2)
    canvas.blur(0.4)
    mass_in_front = rng.random() < 0.5
    if mass := kinds.get("mass"):
        _draw_mass(canvas, mass, FRONT_Y if mass_in_front else BACK_Y, rng)
    if hemorrhage := kinds.get("hemorrhage"):
        _draw_hemorrhage(canvas, hemorrhage, BACK_Y if mass_in_front else FRONT_Y, rng)
    return canvas


def _draw_cortex(canvas: Canvas, w: float, h: float, rng: np.random.Generator) -> None:
    """Grey cortex folded by dark sulci around brighter white matter."""
    canvas.ellipse(48, 48, w, h, 112)
    canvas.ellipse(48, 48, w - 6, h - 6, 142)
    for i in range(26):
        t = 2 * np.pi * (i + rng.uniform(-0.25, 0.25)) / 26
        depth = rng.uniform(4.5, 7.5)
        bend = rng.uniform(-0.07, 0.07)
        outer = (48 + w * np.cos(t), 48 + h * np.sin(t))
        inner = (48 + (w - depth) * np.cos(t + bend), 48 + (h - depth) * np.sin(t + bend))
        canvas.line((outer, inner), 112, 3.0)
        canvas.line((outer, inner), 56, 1.0)
    for sign in (-1, 1):  # basal ganglia
        canvas.ellipse(48 + sign * 12, 48, 3.6, 7.5, 116, angle=sign * -14)


def _draw_ventricles(canvas: Canvas, *, enlarged: bool) -> None:
    """Front and back horns on either side of the midline."""
    wide, tall = (5.4, 13.5) if enlarged else (1.7, 7.5)
    for sign in (-1, 1):
        x = 48 + sign * (wide + 1.2)
        canvas.ellipse(x, 47 - tall * 0.45, wide, tall * 0.75, 14, angle=sign * 14)
        canvas.ellipse(x + sign * 0.8, 47 + tall * 0.55, wide, tall * 0.75, 14, angle=sign * -18)
    canvas.ellipse(48, 54, 0.9, 3, 14)  # third ventricle


def _x(side: str, offset: float) -> float:
    """The patient's left is the picture's right."""
    return 48 + offset if side == "left" else 48 - offset


def _draw_mass(canvas: Canvas, mass: Finding, y: float, rng: np.random.Generator) -> None:
    """A bright ring around a dark centre, as a mass takes up contrast agent."""
    r = MASS_RADIUS[mass.size] * rng.uniform(0.95, 1.05)
    x, y = _x(mass.side, 18 + rng.uniform(-1.2, 1.2)), y + rng.uniform(-1.5, 1.5)
    canvas.ellipse(x, y, r + 1.8, r + 1.8, 92)  # oedema
    canvas.ellipse(x, y, r, r * rng.uniform(0.92, 1.05), 252)
    canvas.ellipse(x, y, r * 0.42, r * 0.42, 70)


def _draw_hemorrhage(canvas: Canvas, bleed: Finding, y: float, rng: np.random.Generator) -> None:
    """Blood without signal, ragged, dark as on gradient-echo pictures."""
    rx, ry = HEMORRHAGE_RADII[bleed.size]
    x, y = _x(bleed.side, 18 + rng.uniform(-1.2, 1.2)), y + rng.uniform(-1.5, 1.5)
    angle = rng.uniform(-25, 25)
    points = ellipse_points(x, y, rx, ry, angle, steps=14)
    ragged = [(px + rng.uniform(-0.7, 0.7), py + rng.uniform(-0.7, 0.7)) for px, py in points]
    canvas.polygon(ragged, 2)

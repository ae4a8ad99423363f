"""The general picture world: houses, faces, ponds; what a base model sees before medicine.

It has the structure of the medical world and none of its content: layout-fixed scenes with
bright and dark blobs, streaks, fluid-like fronts and enlarged centres, each with side, size and
count. Here "left" is the picture's left; the medical world flips it (radiological convention),
and that is for the medical stage to learn.
"""

from __future__ import annotations

import random
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageFilter

from stllava.phantom.canvas import UNITS
from stllava.phantom.scenes import SCENES
from stllava.phantom.vocab import GENERAL
from stllava.phantom.world import Finding, sample_findings, stable_seed

GREY_SHARE = 0.6  # pictures without colour, so that grey texture is familiar


@dataclass(frozen=True)
class GeneralScene:
    """One general picture: everything `draw_scene` needs and all there is to know about it."""

    id: str
    scene: str  # "house", "face", ...
    findings: tuple[Finding, ...]
    seed: int

    @property
    def picture_type(self) -> str:
        return self.scene

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> GeneralScene:
        findings = tuple(Finding(**finding) for finding in data["findings"])
        return cls(**{**data, "findings": findings})


def sample_scenes(num: int, *, seed: int) -> list[GeneralScene]:
    """Sample `num` scenes with ids g0000, g0001, ...; equal seeds give equal scenes."""
    return [_sample_scene(f"g{index:04d}", seed) for index in range(num)]


def _sample_scene(scene_id: str, seed: int) -> GeneralScene:
    rng = random.Random(stable_seed("general", seed, scene_id))
    picture = rng.choice(GENERAL.types)
    findings = sample_findings(rng, picture.kinds)
    return GeneralScene(scene_id, picture.name, findings, rng.getrandbits(32))


def draw_scene(scene: GeneralScene, size: int = UNITS) -> np.ndarray:
    """Return the scene's picture, (size, size, 3) uint8 RGB; 60 % of them without colour."""
    rng = np.random.default_rng(scene.seed)
    scan = np.random.default_rng((scene.seed, 1))  # as in draw_phantom
    canvas = SCENES[scene.scene]({f.kind: f for f in scene.findings}, rng, size)
    rgb = canvas.finish(scan.uniform(-4, 4), (scan.uniform(-2, 2), scan.uniform(-2, 2)))
    if scan.random() < GREY_SHARE:
        rgb = np.repeat(rgb @ np.array([[0.3], [0.59], [0.11]], dtype=np.float32), 3, axis=2)
    if (blur := scan.uniform(-0.5, 0.9)) > 0.2:
        blurred = Image.fromarray(rgb.astype(np.uint8)).filter(ImageFilter.GaussianBlur(blur))
        rgb = np.asarray(blurred, dtype=np.float32)
    rgb = (rgb - 128) * scan.uniform(0.75, 1.2) + 128 + scan.uniform(-25, 15)
    noise = scan.standard_normal((size, size, 1), dtype=np.float32) * np.float32(scan.uniform(2, 9))
    return (rgb + noise).clip(0, 255).astype(np.uint8)

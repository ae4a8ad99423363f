"""Draw a phantom: anatomy by modality, then the scanner's contrast, turn, shift and noise.

Radiological convention throughout: the patient's left is on the picture's right.
"""

from __future__ import annotations

import numpy as np

from stllava.phantom.abdomen import draw_abdomen
from stllava.phantom.brain import draw_brain
from stllava.phantom.canvas import UNITS
from stllava.phantom.chest import draw_chest
from stllava.phantom.world import Phantom, stable_seed

MODALITIES = {
    "chest x-ray": draw_chest,
    "abdominal ct": draw_abdomen,
    "brain mri": draw_brain,
}


def draw_phantom(phantom: Phantom, size: int = UNITS) -> np.ndarray:
    """Return the phantom's picture, (size, size) uint8 grey; the same bytes for equal phantoms."""
    rng = np.random.default_rng(phantom.seed)
    # drawn apart from the anatomy: without its findings a phantom is else the same picture
    scan = np.random.default_rng((phantom.seed, 1))
    body = np.random.default_rng(stable_seed("body", phantom.patient))
    build = float(body.uniform(0.94, 1.05))  # the patient's own proportions, equal in all studies
    canvas = MODALITIES[phantom.modality](phantom.findings, rng, build, size)
    grey = canvas.finish(scan.uniform(-4, 4), (scan.uniform(-2, 2), scan.uniform(-2, 2)))
    grey = grey * scan.uniform(0.88, 1.08) + scan.uniform(-6, 8)
    noise = scan.standard_normal(grey.shape, dtype=np.float32) * np.float32(scan.uniform(3, 8))
    # quantum noise: the bright parts of a picture flicker more than the black around it
    return (grey + noise * (0.45 + grey / 300)).clip(0, 255).astype(np.uint8)

"""What is known about the published data sets: their sizes and their licences.

Sizes were counted from the files: VQA-RAD (Lau et al. 2018, osf.io/89kps), its MEVF form (Nguyen et
al. 2019), SLAKE 1.0 (Liu et al. 2021), PathVQA (He et al. 2020) and the hub copies of
flaviagiammarino. Closed means: annotated so; in PathVQA and on the hub, answered by yes or no.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stllava.records import VQASample


class Size(NamedTuple):
    """Questions of one split; None where only the total is known."""

    total: int
    num_open: int | None = None
    num_closed: int | None = None


SIZES = {
    ("VQA-RAD", "train"): Size(1797, 770, 1027),
    ("VQA-RAD", "test"): Size(451, 179, 272),
    ("VQA-RAD (MEVF form)", "train"): Size(3064, 1241, 1823),
    ("VQA-RAD (MEVF form)", "test"): Size(451, 179, 272),
    ("VQA-RAD (hub form)", "train"): Size(1793),
    ("VQA-RAD (hub form)", "test"): Size(451, 200, 251),
    ("SLAKE en", "train"): Size(4919, 2976, 1943),
    ("SLAKE en", "validation"): Size(1053, 631, 422),
    ("SLAKE en", "test"): Size(1061, 645, 416),
    ("SLAKE zh", "train"): Size(4916),
    ("SLAKE zh", "validation"): Size(1046),
    ("SLAKE zh", "test"): Size(1033),
    ("SLAKE all", "train"): Size(9835),
    ("SLAKE all", "validation"): Size(2099),
    ("SLAKE all", "test"): Size(2094),
    ("PathVQA", "train"): Size(19755, 9949, 9806),
    ("PathVQA", "validation"): Size(6279, 3144, 3135),
    ("PathVQA", "test"): Size(6761, 3370, 3391),
    ("PathVQA (hub form)", "train"): Size(19654),
    ("PathVQA (hub form)", "validation"): Size(6259),
    ("PathVQA (hub form)", "test"): Size(6719),
}

LICENCES = {
    "vqa-rad": "VQA-RAD: CC0 1.0 (osf.io/89kps)",
    "slake": "SLAKE: CC BY 4.0 (med-vqa.com/slake)",
    "path-vqa": "PathVQA: text MIT (UCSD-AI4H/PathVQA); pictures from textbooks and PEIR, unclear",
    "llava-med": "LLaVA-Med data: CC BY-NC 4.0 (microsoft/LLaVA-Med)",
}


def deviation(form: str, split: str, samples: Sequence[VQASample]) -> str:
    """One line if the number of questions is not the published one; else ""."""
    size = SIZES.get((form, split))
    num_open = sum(sample.kind == "open" for sample in samples)
    num_closed = len(samples) - num_open
    if size is None:
        return ""
    tail = "scores are not comparable with published ones"
    if size.num_open is None:
        if len(samples) == size.total:
            return ""
        return f"{form} {split}: {len(samples)} questions, not {size.total}; {tail}"
    if (num_open, num_closed) == size[1:]:
        return ""
    return (
        f"{form} {split}: {num_open} open and {num_closed} closed questions, not {size.num_open} "
        f"and {size.num_closed}; {tail}"
    )

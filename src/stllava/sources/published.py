"""What is known about the published data sets: sizes, licences, what tells their files apart.

Sizes were counted from the files: VQA-RAD (Lau et al. 2018, osf.io/89kps), its MEVF form (Nguyen et
al. 2019), SLAKE 1.0 (Liu et al. 2021), PathVQA (He et al. 2020) and the hub copies of
flaviagiammarino. Closed means: annotated so; in PathVQA and on the hub, answered by yes or no.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stllava.errors import DataError
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

MARKS = {  # key of a record -> the form that has it; the hub's rows have none of them
    "phrase_type": "vqa-rad",
    "img_name": "slake",
    "sentf": "path-vqa",
    "conversations": "llava-med",
    "kind": "jsonl",
}


def refuse_other(file: Path, keys: Iterable[str], wanted: str) -> None:
    """Raise DataError if a file's keys are those of another form than the one `wanted`.

    Rows with a question and an answer would otherwise be scored under the wrong name.
    """
    found = [MARKS[key] for key in keys if key in MARKS]
    if found and wanted not in found:
        raise DataError(
            f"{file}: its form is {found[0]}, not {wanted}; name that benchmark instead"
        )


def refuse_other_size(file: Path, num: int, split: str, form: str) -> None:
    """Raise DataError if hub rows are as many as another data set has: all have equal columns."""
    others = (o for (o, s), size in SIZES.items() if s == split and size.total == num)
    forms = [other for other in others if other.endswith("(hub form)")]
    if forms and form not in forms:
        raise DataError(
            f"{file}: its {num} rows are those of {forms[0]} {split}, not of {form}; "
            "name that one instead"
        )


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

"""Which part of the model a tensor belongs to, by its name; and how large the parts are."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from math import prod

from stllava.policy.inspection.headers import Tensor

VISION, PROTOTYPES, PROJECTOR, LANGUAGE = (
    "vision encoder",
    "prototype extractor",
    "projector",
    "language model",
)

# First match wins; the rest is language. A projector may lie inside the vision module (Qwen-VL).
PARTS = (
    (PROTOTYPES, r"projector\.(?:.*\.)?(?:sim_alpha|sim_beta|[cvf]|ln_1)(?:\.|$)"),
    (PROJECTOR, r"projector|connector|merger"),
    (VISION, r"vision|visual"),
)

BITS = {"F64": 64, "I64": 64, "F32": 32, "I32": 32, "F16": 16, "BF16": 16, "I16": 16}  # others 8


@dataclass(frozen=True)
class Part:
    """The tensors of one part of the model."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


def part_of(name: str) -> str:
    return next((part for part, pattern in PARTS if re.search(pattern, name)), LANGUAGE)


def parts_of(tensors: list[Tensor]) -> list[Part]:
    """The parts that are there, as the image passes through them."""
    members: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        members.setdefault(part_of(tensor.name), []).append(tensor)
    return [
        Part(
            name=part,
            tensors=len(found),
            parameters=sum(prod(t.shape) for t in found),
            bytes=sum(prod(t.shape) * BITS.get(t.dtype, 8) // 8 for t in found),
            dtypes=tuple(dtype for dtype, _ in Counter(t.dtype for t in found).most_common()),
        )
        for part in (VISION, PROTOTYPES, PROJECTOR, LANGUAGE)
        if (found := members.get(part))
    ]

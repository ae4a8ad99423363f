"""What an adapter holds: ranks and alphas by part of the model, and whether it ever trained."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from safetensors import safe_open

from stllava.policy.adapters import zero_lora_b
from stllava.policy.inspection.headers import Tensor
from stllava.policy.inspection.parts import LANGUAGE, PROJECTOR, PROTOTYPES, VISION, part_of


@dataclass(frozen=True)
class Adapter:
    """The LoRA matrices of one part."""

    part: str
    modules: int
    settings: tuple[tuple[int, float], ...]  # (rank, alpha), each once
    zero_b: tuple[str, ...]  # B matrices that are all zero: these adapters never trained


def adapters_of(tensors: list[Tensor], config: dict[str, Any]) -> list[Adapter]:
    """One for each part of the model that has LoRA matrices."""
    rank_of = {_module(t.name): min(t.shape) for t in tensors if ".lora_A." in t.name}
    zero = set(_zero_b(tensors))
    members: dict[str, list[str]] = {}
    for module in rank_of:
        members.setdefault(part_of(module), []).append(module)
    return [
        Adapter(
            part=part,
            modules=len(modules),
            settings=tuple(sorted({(rank_of[m], _alpha(m, config)) for m in modules})),
            zero_b=tuple(sorted(name for name in zero if _module(name) in set(modules))),
        )
        for part in (VISION, PROTOTYPES, PROJECTOR, LANGUAGE)
        if (modules := members.get(part))
    ]


def _module(name: str) -> str:
    """`...q_proj` of `base_model.model....q_proj.lora_A.weight`."""
    return re.split(r"\.lora_[AB]\.", name)[0].removeprefix("base_model.model.")


def _alpha(module: str, config: dict[str, Any]) -> float:
    """As PEFT looks it up: the first pattern that matches the end of the module's name."""
    patterns: dict[str, float] = config.get("alpha_pattern") or {}
    for pattern, alpha in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return alpha
    return float(config.get("lora_alpha", 0))


def _zero_b(tensors: list[Tensor]) -> Iterator[str]:
    """The only values that are read, one matrix at a time."""
    for tensor in tensors:
        if ".lora_B." in tensor.name:
            with safe_open(tensor.file, framework="pt") as opened:
                yield from zero_lora_b({tensor.name: opened.get_tensor(tensor.name)})

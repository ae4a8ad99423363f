"""Published LoRA adapters: paired, checked against the weights they change, and merged.

SQ-LLaVA stores the language model's adapter in `adapter_model.bin` and the vision encoder's in
`Vit-lora/`; the vision one lies a second time inside the first, because PEFT saves every tensor
with `lora_` in its name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stllava.errors import PolicyError
from stllava.policy.published.keys import Shape, canonical
from stllava.policy.published.layout import read_config
from stllava.policy.published.report import LoraCounts
from stllava.policy.published.source import Source, open_source

VIT_FOLDER = "Vit-lora"
_ADAPTER = re.compile(r"^(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight$")

# Fields of adapter_config.json that would change the result and are not read here.
_UNREAD = ("rank_pattern", "alpha_pattern", "modules_to_save", "layer_replication", "use_dora")


class Pair(NamedTuple):
    """One adapter: adds scale * B @ A to a weight."""

    source: Source
    a: str  # published names
    b: str
    scale: float

    def merge(self, weight: Tensor) -> Tensor:
        """The changed weight in the weight's dtype; summed in fp32."""
        a, b = self.source.read(self.a).float(), self.source.read(self.b).float()
        return (weight.float() + self.scale * (b @ a)).to(weight.dtype)


class Adapters(NamedTuple):
    """Adapters by the canonical name of the weight they change."""

    pairs: dict[str, Pair]
    files: tuple[Path, ...]
    counts: LoraCounts


def read_adapters(path: Path, expected: Mapping[str, Shape], *, allow_pickle: bool) -> Adapters:
    """The adapters in a folder. Raises PolicyError if one has no weight, no partner or no fit."""
    llm = open_source(path, allow_pickle=allow_pickle, stem="adapter_model")
    pairs = pairs_of(llm, read_config(path, "adapter_config.json"))
    twins = {name: pairs.pop(name) for name in list(pairs) if name.startswith("vision_tower.")}
    files = llm.files
    vit: dict[str, Pair] = {}
    if (path / VIT_FOLDER).is_dir():
        source = open_source(path / VIT_FOLDER, allow_pickle=allow_pickle, stem="adapter_model")
        vit = pairs_of(source, read_config(path / VIT_FOLDER, "adapter_config.json"))
        files += source.files
    elif twins:
        raise PolicyError(f"{path}: vision adapters, but no {VIT_FOLDER} that says their alpha")
    every = {**pairs, **vit}
    check_pairs(path, every, expected)
    equal, different = _compare(twins, vit)
    zero = sum(not pair.source.read(pair.b).any() for pair in vit.values())
    return Adapters(every, files, LoraCounts(len(pairs), len(vit), equal, different, zero))


def pairs_of(source: Source, config: dict[str, Any]) -> dict[str, Pair]:
    """Adapters by canonical weight name. Raises PolicyError for what is not plain LoRA."""
    unread = [name for name in _UNREAD if config.get(name)]
    if unread or config.get("bias", "none") != "none" or config.get("fan_in_fan_out"):
        raise PolicyError(f"{source.name}: adapter_config.json: {unread or 'bias'} not supported")
    if not config.get("r") or "lora_alpha" not in config:
        raise PolicyError(f"{source.name}: adapter_config.json: r and lora_alpha are needed")
    sides: dict[str, dict[str, str]] = {}
    for key in source.tensors:
        match = _ADAPTER.match(key)
        if match is None:
            raise PolicyError(f"{source.name}: {key} is no adapter tensor")
        sides.setdefault(canonical(f"{match['module']}.weight"), {})[match["side"]] = key
    lonely = [name for name, found in sides.items() if len(found) != 2]
    if lonely:
        raise PolicyError(f"{source.name}: {len(lonely)} adapters miss A or B: {lonely[0]}")
    rank = int(config["r"])
    scale = float(config["lora_alpha"]) / (math.sqrt(rank) if config.get("use_rslora") else rank)
    return {name: Pair(source, found["A"], found["B"], scale) for name, found in sides.items()}


def check_pairs(path: Path, pairs: Mapping[str, Pair], expected: Mapping[str, Shape]) -> None:
    """Raise PolicyError unless every adapter has a weight of its shape."""
    wrong = []
    for name, pair in pairs.items():
        a, b = pair.source.tensors[pair.a].shape, pair.source.tensors[pair.b].shape
        if name not in expected or (b[0], a[1]) != tuple(expected[name]) or a[0] != b[1]:
            wrong.append(f"{pair.a} {list(a)}, {list(b)}")
    if wrong:
        raise PolicyError(
            f"{path}: nothing was written; {len(wrong)} adapters fit no weight of the base: "
            f"{wrong[0]}"
        )


def _compare(twins: Mapping[str, Pair], vit: Mapping[str, Pair]) -> tuple[int, int]:
    """Of the vision tensors stored twice, how many are equal and how many are not."""
    equal = different = 0
    for name, twin in twins.items():
        for side in ("a", "b"):
            mine = twin.source.read(getattr(twin, side))
            own = vit.get(name)
            same = own is not None and torch.equal(mine, own.source.read(getattr(own, side)))
            equal, different = equal + same, different + (not same)
    return equal, different

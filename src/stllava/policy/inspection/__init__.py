"""What a checkpoint or adapter folder is, from its headers and configs; no weights are loaded."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stllava.errors import PolicyError
from stllava.files import read_json
from stllava.policy.inspection import said
from stllava.policy.inspection.headers import read_headers
from stllava.policy.inspection.lora import Adapter, adapters_of
from stllava.policy.inspection.parts import Part, parts_of
from stllava.policy.published.layout import recognise

__all__ = ["Adapter", "Inspection", "Part", "inspect_folder"]


@dataclass(frozen=True)
class Inspection:
    """All that can be said about a folder without loading it."""

    path: str
    kind: str  # "checkpoint" or "adapter"
    family: str | None  # model_type
    architecture: str | None
    parts: list[Part]
    image: dict[str, Any] = field(default_factory=dict)
    chat: dict[str, Any] = field(default_factory=dict)
    adapters: list[Adapter] = field(default_factory=list)
    layout: str | None = None  # of a folder that is not this package's: how it was published
    start: str | None = None  # an adapter's: what it is laid over
    provenance: dict[str, Any] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # one line each

    @property
    def parameters(self) -> int:
        return sum(part.parameters for part in self.parts)


def inspect_folder(path: Path) -> Inspection:
    """Read a folder's headers. PolicyError, in one line, if it is neither checkpoint nor adapter.

    Missing shards and adapters that never trained are `problems`, not errors: the rest is shown.
    """
    if (path / "adapter_config.json").is_file():
        return _inspect_adapter(path)
    if (path / "config.json").is_file():
        return _inspect_checkpoint(path)
    raise PolicyError(
        f"{path}: neither config.json nor adapter_config.json; give the folder of a checkpoint or "
        "adapter, in a run sft/checkpoint or dpo/adapter"
    )


def _inspect_checkpoint(path: Path) -> Inspection:
    config = read_json(path / "config.json")
    tensors, problems = read_headers(path, "model")
    return Inspection(
        path=str(path),
        kind="checkpoint",
        family=config.get("model_type"),
        architecture=next(iter(config.get("architectures") or ()), None),
        parts=parts_of(tensors),
        layout=foreign.title if (foreign := recognise(path)) else None,
        image=said.image(path, config),
        chat=said.chat(path),
        provenance=said.provenance(path),
        problems=problems,
    )


def _inspect_adapter(path: Path) -> Inspection:
    config = read_json(path / "adapter_config.json")
    tensors, problems = read_headers(path, "adapter_model")
    start = config.get("base_model_name_or_path")
    bases = [Path(start or "?") / "config.json", path / "../checkpoint/config.json"]
    below = next((read_json(file) for file in bases if file.is_file()), {})
    architecture = (config.get("auto_mapping") or {}).get("base_model_class")
    adapters = adapters_of(tensors, config)
    for adapter in (found for found in adapters if found.zero_b):
        problems.append(
            f"{len(adapter.zero_b)} of {adapter.modules} LoRA B matrices of the {adapter.part} are "
            f"all zero: never trained; first {adapter.zero_b[0]}"
        )
    return Inspection(
        path=str(path),
        kind="adapter",
        family=below.get("model_type"),
        architecture=architecture,
        parts=parts_of(tensors),
        adapters=adapters,
        start=start,
        provenance=said.provenance(path),
        problems=problems,
    )

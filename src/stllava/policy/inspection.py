"""What a checkpoint or adapter folder is, from its headers and configs; no weights are loaded."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open

from stllava.chat import FORMATS, IMAGE
from stllava.errors import DataError, PolicyError
from stllava.files import read_json
from stllava.policy.adapters import zero_lora_b
from stllava.policy.published.layout import recognise

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


class Tensor(NamedTuple):
    """One line of a safetensors header."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: F32, BF16, ...
    file: Path


@dataclass(frozen=True)
class Part:
    """The tensors of one part of the model."""

    name: str
    tensors: int
    parameters: int
    bytes: int
    dtypes: tuple[str, ...]


@dataclass(frozen=True)
class Adapter:
    """The LoRA matrices of one part."""

    part: str
    modules: int
    settings: tuple[tuple[int, float], ...]  # (rank, alpha), each once
    zero_b: tuple[str, ...]  # B matrices that are all zero: these adapters never trained


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
    tensors, problems = _headers(path, "model")
    return Inspection(
        path=str(path),
        kind="checkpoint",
        family=config.get("model_type"),
        architecture=next(iter(config.get("architectures") or ()), None),
        parts=_parts(tensors),
        layout=foreign.title if (foreign := recognise(path)) else None,
        image=_image(path, config),
        chat=_chat(path),
        provenance=_provenance(path),
        problems=problems,
    )


def _inspect_adapter(path: Path) -> Inspection:
    config = read_json(path / "adapter_config.json")
    tensors, problems = _headers(path, "adapter_model")
    start = config.get("base_model_name_or_path")
    bases = [Path(start or "?") / "config.json", path / "../checkpoint/config.json"]
    below = next((read_json(file) for file in bases if file.is_file()), {})
    architecture = (config.get("auto_mapping") or {}).get("base_model_class")
    adapters = _adapters(tensors, config)
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
        parts=_parts(tensors),
        adapters=adapters,
        start=start,
        provenance=_provenance(path),
        problems=problems,
    )


def _headers(path: Path, stem: str) -> tuple[list[Tensor], list[str]]:
    """Tensors of all files that are there, and what is wrong with the files."""
    index = path / f"{stem}.safetensors.index.json"
    if not index.is_file():
        file = path / f"{stem}.safetensors"
        if not file.is_file():
            raise PolicyError(f"{path}: no {stem}.safetensors{_pickled(path)}")
        return _tensors(file), []
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict):
        raise PolicyError(f"{index}: no weight_map; download it again")
    shards = sorted(set(placed.values()))
    missing = [name for name in shards if not (path / name).is_file()]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {len(shards)} shards missing: {', '.join(missing)}; copy or "
            "download them again"
        )
    tensors = [t for name in shards if name not in missing for t in _tensors(path / name)]
    found = {(t.name, t.file.name) for t in tensors}
    lost = [n for n, shard in placed.items() if shard not in missing and (n, shard) not in found]
    if lost:
        problems.append(f"{len(lost)} tensors are not in their shard, first {lost[0]}")
    return tensors, problems


def _pickled(path: Path) -> str:
    if any(path.glob("*.bin")):
        return "; pickled weights (.bin) are not read: save them as safetensors"
    return "; give the folder that holds the weights"


def _tensors(file: Path) -> list[Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = ((name, opened.get_slice(name)) for name in opened.keys())  # noqa: SIM118
            return [Tensor(n, tuple(s.get_shape()), s.get_dtype(), file) for n, s in slices]
    except (SafetensorError, OSError) as error:
        raise PolicyError(
            f"{file}: not safetensors, or cut off ({error}); copy it again"
        ) from error


def _part_of(name: str) -> str:
    return next((part for part, pattern in PARTS if re.search(pattern, name)), LANGUAGE)


def _parts(tensors: list[Tensor]) -> list[Part]:
    members: dict[str, list[Tensor]] = {}
    for tensor in tensors:
        members.setdefault(_part_of(tensor.name), []).append(tensor)
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


def _adapters(tensors: list[Tensor], config: dict[str, Any]) -> list[Adapter]:
    rank_of = {_module(t.name): min(t.shape) for t in tensors if ".lora_A." in t.name}
    zero = set(_zero_b(tensors))
    members: dict[str, list[str]] = {}
    for module in rank_of:
        members.setdefault(_part_of(module), []).append(module)
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


def _image(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    vision = config.get("vision_config") or {}
    token_id = config.get("image_token_index", config.get("image_token_id"))
    names = {number: token for token, number in _added_tokens(path).items()}
    return {
        "token": names.get(token_id) if token_id is not None else None,
        "token_id": token_id,
        "tokens": config.get("image_seq_length"),  # None: depends on the image
        "size": vision.get("image_size"),
        "patch": vision.get("patch_size"),
        "feature_layer": config.get("vision_feature_layer"),
        "select": config.get("vision_feature_select_strategy"),
        "prototypes": config.get("num_centers"),
    }


def _added_tokens(path: Path) -> dict[str, int]:
    """Tokens that stand for themselves, from tokenizer.json."""
    try:
        tokens = read_json(path / "tokenizer.json").get("added_tokens") or []
        return {token["content"]: token["id"] for token in tokens}
    except (DataError, KeyError, TypeError):
        return {}


def _chat(path: Path) -> dict[str, Any]:
    """The conversation format that stllava.json names, and how the asker's turn opens."""
    card = _card(path)
    found = FORMATS.get(card.get("chat_format", ""))
    if found is None:
        return {"format": card.get("chat_format")}
    is_token = found.asker in _added_tokens(path)
    return {
        "format": found.name,
        "user": found.user,
        "assistant": found.assistant,
        "end": found.end,
        "asker": found.asker,
        "asker_is": "an added token" if is_token else "text",
        "image_first": found.image_first,
        "image": IMAGE,
    }


def _card(path: Path) -> dict[str, Any]:
    file = path / "stllava.json"
    return read_json(file) if file.is_file() else {}


def _provenance(path: Path) -> dict[str, Any]:
    """What stllava.json says, and the run stage whose folder this is."""
    said = {key: value for key, value in _card(path).items() if key != "chat_format"}
    stage = path.resolve().parent
    if not (stage / "stage.json").is_file():
        return said
    plan = read_json(stage / "plan.json") if (stage / "plan.json").is_file() else {}
    counts = read_json(stage / "stage.json")
    return {
        **said,
        "run": stage.parent.name,
        "run_stage": stage.name,
        "counts": {k: v for k, v in counts.items() if isinstance(v, int | float | str)},
        "inputs": plan.get("inputs", {}),
    }

"""Which published layout a folder has, by its config and file names; no weights are read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stllava.errors import PolicyError

Kind = Literal["hf", "llava", "lora", "llm", "vision", "projector"]

TITLES: dict[Kind, str] = {
    "hf": "LLaVA in the layout of transformers",
    "llava": "LLaVA in its original layout",
    "lora": "LoRA adapters of SQ-LLaVA or LLaVA",
    "llm": "a language model alone",
    "vision": "a CLIP vision encoder alone",
    "projector": "a projector alone",
}

# The command that makes the layout usable; what stands in capitals is the user's to give.
COMMANDS: dict[Kind, str] = {
    "hf": "stllava convert {path} OUT",
    "llava": "stllava convert {path} OUT (with --vision CLIP where the encoder is not inside)",
    "lora": "stllava convert {path} OUT --base LLM --vision CLIP --allow-pickle",
    "llm": "stllava convert {path} OUT --vision CLIP --projector FILE",
    "vision": "stllava convert LLM OUT --vision {path} --projector FILE",
    "projector": "stllava convert LLM OUT --vision CLIP --projector {path}",
}

TEXT_MODELS = {"llama": "llama", "mistral": "mistral"}
LLAVA_TYPES = {"llava": "llama", "llava_llama": "llama", "llava_mistral": "mistral"}
VISION_MODELS = ("clip_vision_model", "clip")
PROJECTOR_NAMES = ("mm_projector.safetensors", "mm_projector.bin", "non_lora_trainables.bin")


class Layout(NamedTuple):
    """A published folder, or a projector's file."""

    kind: Kind
    path: Path

    @property
    def title(self) -> str:
        return TITLES[self.kind]

    @property
    def remedy(self) -> str:
        """One line for who tried to load the folder as it is."""
        command = COMMANDS[self.kind].format(path=self.path)
        return f"{self.path}: {self.title}, not a checkpoint of this package; run {command}"


def recognise(path: str | Path) -> Layout | None:
    """The layout of a folder or projector file; None if it is this package's or unknown."""
    path = Path(path)
    if path.is_file():
        known = path.suffix in (".bin", ".safetensors") and "projector" in path.name
        return Layout("projector", path) if known or path.name in PROJECTOR_NAMES else None
    if (path / "stllava.json").is_file() or not path.is_dir():
        return None
    kind = _kind(path)
    return Layout(kind, path) if kind else None


def _kind(path: Path) -> Kind | None:
    config = read_config(path)
    model_type = config.get("model_type")
    if (path / "adapter_config.json").is_file():  # its pickles may not have been fetched
        return "lora" if model_type in LLAVA_TYPES else None
    if isinstance(config.get("text_config"), dict) and "vision_config" in config:
        return {"llava": "hf", "clip": "vision"}.get(str(model_type))  # type: ignore[return-value]
    if model_type in LLAVA_TYPES:
        return "llava"
    if model_type in TEXT_MODELS:
        return "llm"
    if model_type in VISION_MODELS:
        return "vision"
    return "projector" if projector_file(path) else None


def projector_file(path: Path) -> Path | None:
    """The projector's file in a folder, safetensors first."""
    return next((path / name for name in PROJECTOR_NAMES if (path / name).is_file()), None)


def read_config(path: Path, name: str = "config.json") -> dict[str, Any]:
    """A folder's JSON file; {} if it is not there. Raises PolicyError if it is not JSON."""
    file = path / name
    if not file.is_file():
        return {}
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise PolicyError(f"{file}: cannot be read as JSON: {error}") from error
    if not isinstance(config, dict):
        raise PolicyError(f"{file}: not a JSON object")
    return config

"""What a folder's own files say: image tokens, conversation format, where it comes from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stllava.errors import DataError
from stllava.files import read_json
from stllava.formats import FORMATS, IMAGE


def image(path: Path, config: dict[str, Any]) -> dict[str, Any]:
    """Image tokens and the vision encoder's sizes."""
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


def chat(path: Path) -> dict[str, Any]:
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


def provenance(path: Path) -> dict[str, Any]:
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


def _added_tokens(path: Path) -> dict[str, int]:
    """Tokens that stand for themselves, from tokenizer.json."""
    try:
        tokens = read_json(path / "tokenizer.json").get("added_tokens") or []
        return {token["content"]: token["id"] for token in tokens}
    except (DataError, KeyError, TypeError):
        return {}


def _card(path: Path) -> dict[str, Any]:
    file = path / "stllava.json"
    return read_json(file) if file.is_file() else {}

"""What is on disk of a run's evaluations; files that cannot be read are left out."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

RUN_MODELS = ("base", "sft", "dpo")

Scores = Mapping[str, Any]


def evaluated(run: Path) -> Iterator[tuple[str, dict[str, Scores]]]:
    """Model name to its scores by benchmark: the run's own, further ones, controls."""
    names = [path.name for path in sorted(run.glob("eval/*")) if path.is_dir()]
    order = {name: place for place, name in enumerate(RUN_MODELS)}
    for name in sorted(names, key=lambda name: (order.get(name, len(order)), name)):
        yield name, _scores(run / "eval" / name)
    for folder in sorted(run.glob("controls/*")):
        yield f"control {folder.name}", _scores(folder / "eval" / "dpo")


def _scores(folder: Path) -> dict[str, Scores]:
    """Scores by benchmark of one model, complete evaluations only."""
    found: dict[str, Scores] = {}
    for file in sorted(folder.glob("*/image/scores.json")):
        if (file.parent / "stage.json").is_file() and (scores := _json(file)):
            found[file.parent.parent.name] = scores
    return found


def _json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def recipe_of(run: Path) -> Any:
    try:
        return yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return None


def trained_on(recipe: Any) -> set[str]:
    """Sources of the run's instruction data."""
    data = dig(recipe, "data")
    also = dig(data, "also")
    sections = [data, *(also if isinstance(also, list) else [])]
    return {str(dig(section, "source")) for section in sections}


def dig(data: Any, *keys: str) -> Any:
    """A value inside nested mappings, None where any step is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data

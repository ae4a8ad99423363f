"""Reading a run directory that may be partial, old or damaged: what cannot be read is counted.

A report must come out of whatever a run left behind, so nothing here raises but `open_run`.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import yaml
from pydantic import ValidationError

from stllava.errors import DataError, RunError
from stllava.images import open_image, resolve
from stllava.records import Image, Item, Record
from stllava.run import STAGES

R = TypeVar("R", bound=Record)

PIPELINE = STAGES[: STAGES.index("eval")]


class Evaluation(NamedTuple):
    """One model's scored answers."""

    key: str  # "base", "sft", "dpo", or "control/NAME"
    label: str
    items: list[Item]
    seconds: float | None


class Reader:
    """The files of one run. `unreadable` counts, per file, the lines or files it had to skip."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.unreadable: Counter[str] = Counter()

    def json(self, name: str) -> dict[str, Any]:
        """A JSON object; empty if the file is missing or is none."""
        file = self.path / name
        if not file.is_file():
            return {}
        try:
            value = json.loads(file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            value = None
        return self._mapping(name, value)

    def recipe(self) -> dict[str, Any]:
        """recipe.yaml as plain data, whatever version wrote it."""
        file = self.path / "recipe.yaml"
        if not file.is_file():
            return {}
        try:
            value = yaml.safe_load(file.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            value = None
        return self._mapping("recipe.yaml", value)

    def _mapping(self, name: str, value: Any) -> dict[str, Any]:
        if isinstance(value, dict):
            return value
        self.unreadable[name] = 1
        return {}

    def lines(self, name: str) -> Iterator[bytes]:
        """Non-empty lines; none if the file is missing."""
        try:
            with (self.path / name).open("rb") as file:
                yield from (line for line in file if line.strip())
        except FileNotFoundError:
            return
        except OSError:
            self.unreadable[name] += 1

    def objects(self, name: str) -> list[dict[str, Any]]:
        """The JSON objects of a JSONL file."""
        found = []
        self.unreadable.pop(name, None)  # a file that is read twice is counted once
        for line in self.lines(name):
            try:
                value = json.loads(line)
            except ValueError:
                value = None
            if isinstance(value, dict):
                found.append(value)
            else:
                self.unreadable[name] += 1
        return found

    def records(self, name: str, kind: type[R]) -> Iterator[R]:
        """The records of a JSONL file that are valid ones."""
        self.unreadable.pop(name, None)
        for line in self.lines(name):
            try:
                yield kind.model_validate_json(line)
            except ValidationError:
                self.unreadable[name] += 1

    def state(self, stage: str) -> str:
        """One of "complete", "begun, not complete" and "not run yet"."""
        folder = self.path / stage
        if (folder / "stage.json").is_file():
            return "complete"
        return "begun, not complete" if folder.is_dir() else "not run yet"

    def picture(self, image: Image) -> Any:
        """The image as models saw it (a PIL image), or None if it cannot be opened."""
        settings = self.json("prepare/plan.json").get("settings")
        root = dig(settings, "image_roots", image.root)
        if not isinstance(root, str):
            return None
        try:
            return open_image(resolve(self.path / root, image.path))  # an absolute root stays so
        except DataError:
            return None


def open_run(path: Path) -> Reader:
    """A reader of a run directory; RunError if there is nothing of a run at `path`."""
    if not path.is_dir():
        raise RunError(f"{path}: no such run directory; give the folder named by --run")
    names = ("recipe.yaml", *STAGES[:-1])
    if not any((path / name).exists() for name in names):
        raise RunError(
            f"{path}: not a run directory, it has neither recipe.yaml nor a stage; "
            "give the folder named by --run"
        )
    return Reader(path)


def dig(data: Any, *keys: str) -> Any:
    """A value inside nested mappings, None where any step is missing."""
    for key in keys:
        data = data.get(key) if isinstance(data, dict) else None
    return data


def number(value: Any) -> float | None:
    """The value if it is a finite number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return float(value) if is_number and math.isfinite(value) else None


def benchmark_of(reader: Reader, recipe: dict[str, Any]) -> str | None:
    """BENCHMARK/VIEW that the page is about: the recipe's own if it was evaluated to the end."""
    done = reader.path.glob("eval/*/*/*/stage.json")
    found = sorted({"/".join(file.parts[-3:-1]) for file in done})
    if not found:
        return None
    wanted = dig(recipe, "eval", "benchmark")
    if wanted == "phantom":
        wanted = f"phantom-{dig(recipe, 'phantom', 'split')}"
    elif (split := dig(recipe, "eval", "split")) not in (None, "test"):
        wanted = f"{wanted}-{split}"
    first = f"{wanted}/image"
    if first in found:
        return first
    return next((name for name in found if name.endswith("/image")), found[0])


def evaluations(reader: Reader, benchmark: str | None) -> list[Evaluation]:
    """base, sft, dpo, other models, then the controls by name."""
    if benchmark is None:
        return []
    order = {"base": 0, "sft": 1, "dpo": 2}
    labels = {"base": "base", "sft": "stage 1 (sft)", "dpo": "stage 2 (dpo)"}
    found = []
    models = {folder.name for folder in reader.path.glob("eval/*") if folder.is_dir()}
    for model in sorted(models, key=lambda name: (order.get(name, 3), name)):
        label = labels.get(model, model)
        found.append(_evaluation(reader, model, label, f"eval/{model}/{benchmark}"))
    for folder in sorted(reader.path.glob("controls/*")):
        place = f"controls/{folder.name}/eval/dpo/{benchmark}"
        found.append(_evaluation(reader, f"control/{folder.name}", folder.name, place))
    return [evaluation for evaluation in found if evaluation is not None]


def _evaluation(reader: Reader, key: str, label: str, folder: str) -> Evaluation | None:
    """None unless the evaluation is complete: half of the questions would mislead."""
    if reader.state(folder) != "complete":
        return None
    items = list(reader.records(f"{folder}/items.jsonl", Item))
    seconds = number(reader.json(f"{folder}/stage.json").get("seconds"))
    return Evaluation(key, label, items, seconds) if items else None

"""The check over a run directory: the records of `prepare`, and of `prefer` if there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stllava.checks import Report, check
from stllava.checks.material import Material, Sign
from stllava.errors import RunError
from stllava.files import read_json, read_records
from stllava.records import Conversation, Dropped, Image, Preference, Record, Split, VQASample

R = TypeVar("R", bound=Record)


def check_run(
    folder: Path,
    *,
    preferences: Path | None = None,
    repairs: Mapping[str, Mapping[str, int]] | None = None,
    warnings: Sequence[str] | None = None,
    licences: Mapping[str, str] | None = None,
    annotated: Sequence[VQASample] = (),
    signs: Sequence[Sign] = (),
    files_looked_at: int | None = None,
) -> Report:
    """Check the records in `folder`, a run's prepare/. Opens no image.

    `preferences` names a preferences.jsonl; None: the run's own, if there. What else is None is
    read from stage.json where that is there already. Raises RunError if the folder holds no
    images.jsonl.
    """
    material = read_run(folder, preferences=preferences)
    given: dict[str, Any] = {"repairs": repairs, "warnings": warnings, "licences": licences}
    return check(
        material._replace(
            annotated=annotated,
            signs=signs,
            files_looked_at=files_looked_at,
            **{name: value for name, value in given.items() if value is not None},
        )
    )


def read_run(folder: Path, *, preferences: Path | None = None) -> Material:
    """The records in a run's prepare/ and its preferences. Raises RunError if there are none."""
    if not (folder / "images.jsonl").is_file():
        raise RunError(f"{folder}: no images.jsonl in it; run `stllava prepare` first")
    summary = folder / "stage.json"
    said = read_json(summary) if summary.is_file() else {}
    return Material(
        images=_records(folder / "images.jsonl", Image),
        conversations=_records(folder / "conversations.jsonl", Conversation),
        samples=_records(folder / "samples.jsonl", VQASample),
        preferences=list(read_records(preferences, Preference))
        if preferences
        else _records(folder.parent / "prefer/preferences.jsonl", Preference),
        splits=_records(folder / "splits.jsonl", Split),
        dropped=_records(folder / "dropped.jsonl", Dropped),
        repairs=_by_place(said.get("repairs", {})),
        warnings=said.get("warnings", []),
        licences=said.get("licences", {}),
    )


def with_preferences(material: Material, file: Path) -> Material:
    """Add the pairs of a preferences.jsonl; their images are named by the ids of `material`."""
    return material._replace(preferences=list(read_records(file, Preference)))


def prepare_folder(path: Path) -> Path | None:
    """`path`/prepare, or `path` itself, if records of `prepare` lie there; None for a recipe.

    Raises RunError for a folder without them.
    """
    for folder in (path / "prepare", path):
        if (folder / "images.jsonl").is_file():
            return folder
    if path.is_dir():
        raise RunError(f"{path}: no prepare/images.jsonl in it; name a run directory or a recipe")
    return None


def image_roots(folder: Path) -> dict[str, Path]:
    """Where each `Image.root` of a run's prepare/ lies; {} where plan.json does not say."""
    plan = folder / "plan.json"
    settings = read_json(plan).get("settings", {}) if plan.is_file() else {}
    roots = settings.get("image_roots")
    if roots is None:  # before roots had names
        roots = {"data": settings["image_root"]} if "image_root" in settings else {}
    run = folder.parent
    return {key: run / root for key, root in {"run": ".", **roots}.items()}


def _by_place(repairs: Mapping[str, Any]) -> Mapping[str, Mapping[str, int]]:
    """Repairs by place; runs of earlier versions had one place."""
    flat = {what: count for what, count in repairs.items() if isinstance(count, int)}
    return {"": flat} if flat else repairs


def _records(path: Path, kind: type[R]) -> list[R]:
    return list(read_records(path, kind)) if path.is_file() else []

"""Our own form: preferences.jsonl as `prefer` writes it, and the list of images that it names.

Preferences name images by id. Which file that is stands in `NAME.images.jsonl` beside an exported
`NAME.jsonl`, in an `images.jsonl` beside it, or in the run that it lies in.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from pydantic import ValidationError

from stllava.errors import DataError
from stllava.exchange.rows import write_rows
from stllava.files import read_json
from stllava.reading.json import read_entries
from stllava.records import JSONObject, Preference
from stllava.sources import SourceImage
from stllava.sources.store import UnusableError

FORM = "stllava"


def images_beside(path: Path) -> Path:
    """Where an exported file keeps its list of images."""
    return path.with_name(f"{path.stem}.images.jsonl")


class Listed(NamedTuple):
    """Images by id; `roots` are the folders where their paths start, where a run says so."""

    images: dict[str, SourceImage]
    roots: tuple[str, ...]


def read_images(path: Path) -> Listed:
    """The images of a preference file. Raises DataError if no list of images belongs to it."""
    run = path.parent.parent
    places = [
        images_beside(path),
        path.with_name("images.jsonl"),
        run / "prepare" / "images.jsonl",
    ]
    listed = next((place for place in places if place.is_file()), None)
    if listed is None:
        raise DataError(f"{path}: no list of its images; put {places[0].name} beside it")
    images: dict[str, SourceImage] = {}
    keys: dict[str, None] = {}
    for entry in read_entries(listed):
        row = entry.value if isinstance(entry.value, dict) else {}
        if not all(isinstance(row.get(name), str) for name in ("id", "path", "group")):
            why = entry.problem or "not an image with id, path and group"
            raise DataError(f"{listed.parent / entry.place}: {why}; write the list again")
        images[row["id"]] = SourceImage(row["id"], row["path"], row["group"])
        keys[str(row.get("root", "data"))] = None
    plan = listed.with_name("plan.json")
    folders = read_json(plan)["settings"].get("image_roots", {}) if plan.is_file() else {}
    return Listed(images, tuple(str(run / folders[key]) for key in keys if key in folders))


def parse(row: JSONObject) -> Preference:
    """The record. Raises UnusableError naming the field."""
    try:
        return Preference.model_validate(row)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        field = ".".join(map(str, problem["loc"]))
        raise UnusableError(f"not a Preference: {field}: {problem['msg']}") from None


def write(path: Path, preferences: Iterable[Preference], images: Sequence[SourceImage]) -> int:
    """Write the records and their list of images. Returns the number of preferences."""
    write_rows(images_beside(path), (image._asdict() for image in images))
    return write_rows(path, (preference.model_dump(mode="json") for preference in preferences))

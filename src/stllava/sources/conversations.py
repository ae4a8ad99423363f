"""Records of conversations, in whatever form they came, become a source."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stllava.errors import DataError
from stllava.reading import Entry
from stllava.records import Conversation, Dropped, Turn
from stllava.sources import STAGE, SourceData, SourceImage, image_ids
from stllava.sources.questions import nothing_left, unique
from stllava.sources.store import ImageStore, UnusableError


class Parsed(NamedTuple):
    """One record, its image still as the file has it: a path, bytes, or both."""

    id: str
    image: object
    turns: tuple[Turn, ...]


Parse = Callable[[Entry, "Counter[str]"], Parsed]  # raises UnusableError


def collect(path: Path, entries: Iterable[Entry], parse: Parse, store: ImageStore) -> SourceData:
    """Parse every record; those that cannot be used are dropped with their place and reason.

    Each image is its own group. Raises DataError if nothing is left.
    """
    repairs: Counter[str] = Counter()
    dropped: list[Dropped] = []
    parsed: list[tuple[str, str, tuple[Turn, ...]]] = []
    for entry in entries:
        try:
            record = parse(entry, repairs)
            parsed.append((record.id, store.place(record.image), record.turns))
        except UnusableError as error:
            dropped.append(Dropped(id=entry.place, stage=STAGE, reason=str(error)))
    if not parsed:
        raise DataError(nothing_left(path, store, dropped))
    ids = image_ids(image for _, image, _ in parsed)
    unique_ids = unique([record_id for record_id, _, _ in parsed], repairs)
    return SourceData(
        images=tuple(SourceImage(image, image_path, image) for image_path, image in ids.items()),
        conversations=tuple(
            Conversation(id=record_id, image=ids[image], turns=turns)
            for record_id, (_, image, turns) in zip(unique_ids, parsed, strict=True)
        ),
        samples=(),
        repairs=dict(+repairs),
        dropped=tuple(dropped),
        root=store.root,
    )


def record_of(entry: Entry) -> Mapping[str, Any]:
    """The record of an entry. Raises UnusableError if there is none."""
    if entry.problem or not isinstance(entry.value, Mapping):
        raise UnusableError(entry.problem or "not an object")
    return entry.value


def record_id(record: Mapping[str, Any], entry: Entry) -> str:
    """Its id as text; the place in the file where it has none."""
    found = record.get("id", entry.place)
    if not isinstance(found, str | int) or not str(found).strip():
        raise UnusableError("id is neither text nor a number")
    return str(found)


def image_of(record: Mapping[str, Any]) -> object:
    """What `image`, or the one element of `images`, holds. Raises UnusableError."""
    for name in ("image", "images"):
        found = record.get(name)
        if isinstance(found, list) and len(found) > 1:
            raise UnusableError("image is not a path; records about several images are not used")
        image = found[0] if isinstance(found, list) and found else found
        if image:
            return image
    raise UnusableError("no image; text-only records are not used")

"""Preference data out: Preferences become rows of any form, and what does not fit is counted.

Every row that is written is parsed again at once and compared with its preference, field by field:
`lost` is measured, not declared.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stllava.errors import DataError
from stllava.exchange import own
from stllava.exchange.forms import FORMS, Form
from stllava.exchange.pair import check, to_pair, to_preference
from stllava.exchange.reading import NAMES
from stllava.exchange.rows import write_rows
from stllava.files import write_text
from stllava.records import Draw, JSONObject, Preference
from stllava.sources import SourceImage, image_ids
from stllava.sources.store import UnusableError

DATASET_INFO = "dataset_info.json"  # where LLaMA-Factory looks data sets up
TEXT_LOST = "text with an image mark in it, written '< image >'"
IDLE_LOST = "weight 0: the pair now trains like any other"
FIELDS = {
    "id": "id",
    "answers_id": "id of the answers it was made of",
    "image": "image id (made from the path instead)",
    "margin": "margin",
    "weight": "weight",
    "source": "source (judge or expert)",
    "edited": "mark that an expert edited it",
}
DRAW_FIELDS = {
    "token_ids": "token ids of the answers",
    "logprobs": "log-probabilities of the answers",
    "finish": "how the answers ended",
    "seed": "seed of the answers",
    "usage": "token counts of the answers",
    "model": "model that answered",
    "index": "which draws were compared",
}


@dataclass(frozen=True)
class Written:
    """`lost`: what the form cannot hold -> number of preferences (or images) it was lost of."""

    path: Path
    count: int
    lost: dict[str, int]
    also: tuple[Path, ...] = ()  # further files that belong to it


def write_preferences(
    form: str, preferences: Sequence[Preference], images: Sequence[SourceImage], out: Path
) -> Written:
    """Write `out`, a .json list or .jsonl lines, in one step; `images` must hold all that is named.

    A preference that no reader of the form could use (an empty answer, equal answers) is left out
    and counted in `lost`. Raises DataError for an unknown form, suffix or image.
    """
    if form not in NAMES:
        raise DataError(f"{form}: no such form of preference data; there are {', '.join(NAMES)}")
    by_id = {image.id: image for image in images}
    missing = next((p for p in preferences if p.image not in by_id), None)
    if missing is not None:
        raise DataError(f"{missing.id}: its image {missing.image!r} is not among the images given")
    used = [by_id[image] for image in dict.fromkeys(p.image for p in preferences)]
    if form == own.FORM:
        count = own.write(out, preferences, used)
        return Written(out, count, {}, (own.images_beside(out),))
    lost: Counter[str] = Counter()
    lost["patient or case of an image"] = sum(image.group != image.id for image in used)
    count = write_rows(out, _rows(form, preferences, by_id, lost))
    also = (_describe(out),) if form == "llama-factory" else ()
    return Written(out, count, dict(+lost), also)


def _rows(
    form: str,
    preferences: Sequence[Preference],
    images: dict[str, SourceImage],
    lost: Counter[str],
) -> Iterator[JSONObject]:
    ids = image_ids(images[preference.image].path for preference in preferences)
    for preference in preferences:
        path = images[preference.image].path
        row = FORMS[form].build(to_pair(preference, path))
        try:
            again = _again(form, FORMS[form], row, ids[path])
        except UnusableError as error:
            lost[f"whole pair: {error}"] += 1
            continue
        lost.update(_differences(preference, again))
        yield row


def _again(name: str, form: Form, row: JSONObject, image: str) -> Preference:
    pair = check(form.parse(row, Counter()))
    return to_preference(pair, id=pair.id or "", image=image, source=name)


def _differences(before: Preference, after: Preference) -> Iterator[str]:
    texts = [(before.question, after.question)]
    texts += [(a.text, b.text) for a, b in _draws(before, after)]
    if any(a != b for a, b in texts):
        yield TEXT_LOST
    for field, name in FIELDS.items():
        if getattr(before, field) != getattr(after, field):
            yield name
    if before.weight == 0 != after.weight:
        yield IDLE_LOST
    for field, name in DRAW_FIELDS.items():
        if any(getattr(a, field) != getattr(b, field) for a, b in _draws(before, after)):
            yield name


def _draws(before: Preference, after: Preference) -> tuple[tuple[Draw, Draw], tuple[Draw, Draw]]:
    return (before.chosen, after.chosen), (before.rejected, after.rejected)


def _describe(out: Path) -> Path:
    """Enter the file into the dataset_info.json beside it; other entries stay as they are."""
    path = out.with_name(DATASET_INFO)
    entries: dict[str, Any] = {}
    if path.is_file():
        try:
            entries = json.loads(path.read_bytes())
        except ValueError as error:
            raise DataError(f"{path}: not JSON ({error}); repair or remove it") from None
        if not isinstance(entries, dict):
            raise DataError(f"{path}: not a mapping of data sets; repair or remove it")
    columns = {name: name for name in ("chosen", "rejected", "images")}
    entries[out.stem] = {
        "file_name": out.name,
        "formatting": "sharegpt",
        "ranking": True,
        "columns": {"messages": "conversations", **columns},
    }
    write_text(path, json.dumps(entries, indent=2, ensure_ascii=False) + "\n")
    return path

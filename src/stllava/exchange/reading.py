"""Preference data in: rows of any form become Preferences and the images they name."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

from stllava.errors import DataError
from stllava.exchange import own
from stllava.exchange.forms import FORMS
from stllava.exchange.pair import Pair, check, to_pair, to_preference
from stllava.exchange.rows import read_rows, row_of
from stllava.images import resolve
from stllava.reading.json import read_entries
from stllava.records import Dropped, Preference
from stllava.sources import SourceImage, image_ids
from stllava.sources.store import ImageStore, UnusableError

STAGE = "prefer"  # of every Dropped record made here
NAMES = (own.FORM, *FORMS)
MANY = 20  # pairs, from which on a median says something
UNEVEN_LENGTHS = 3.0  # times as long, in the median; above it a policy mostly learns length


class Imported(NamedTuple):
    """Preferences in file order and the images they are about, in order of first use."""

    preferences: tuple[Preference, ...]
    images: tuple[SourceImage, ...]
    repairs: dict[str, int]  # what was repaired, and how often
    dropped: tuple[Dropped, ...]
    warnings: tuple[str, ...] = ()  # print these
    root: Path | None = None  # where the image paths start; None: where `read_preferences` was told


class _Images:
    """Looks for image files, each once; without a root only what a path may say is checked."""

    def __init__(self, root: Path | None, beside: Path, store: ImageStore) -> None:
        self.root = root
        self.beside = beside
        self.store = store  # writes embedded images
        self.problems: dict[str, str] = {}

    def check(self, path: str) -> None:
        if path not in self.problems:
            self.problems[path] = self._problem(path)
        if self.problems[path]:
            raise UnusableError(self.problems[path])

    def _problem(self, path: str) -> str:
        if self.store.is_embedded:
            return ""
        try:
            file = resolve(self.root or self.beside, path)
        except DataError as error:
            return str(error)
        there = self.root is None or file.is_file()
        return "" if there else f"image file {path!r} not found under {self.root}"


def read_preferences(
    form: str, path: Path, image_root: Path | None, *, extract_to: Path | None = None
) -> Imported:
    """Read a file of the form; a row that cannot be used is a Dropped with its reason.

    Without `image_root` nobody looks whether the images are there. Images embedded in a parquet
    file are written below `extract_to`, which then is `Imported.root`. Raises DataError for an
    unknown form, a file that cannot be read, or one without any usable pair.
    """
    if form not in NAMES:
        raise DataError(f"{form}: no such form of preference data; there are {', '.join(NAMES)}")
    store = ImageStore(image_root or path.parent, extract_to=extract_to)
    files = _Images(image_root, path.parent, store)
    dropped: list[Dropped] = []
    repairs: Counter[str] = Counter()
    if form == own.FORM:
        listed = own.read_images(path)
        preferences, images = _own(path, listed.images, files, dropped)
    else:
        listed = None
        preferences, images = _foreign(form, path, files, dropped, repairs)
    if not preferences:
        first = dropped[0].reason if dropped else "it is empty"
        raise DataError(f"{path}: no usable preference of the form {form} ({first})")
    return Imported(
        preferences=tuple(preferences),
        images=tuple(images),
        repairs=dict(+repairs),
        dropped=tuple(dropped),
        warnings=(*_warnings(preferences), *_roots(listed)),
        root=extract_to if store.is_embedded else None,
    )


def _own(
    path: Path, listed: dict[str, SourceImage], files: _Images, dropped: list[Dropped]
) -> tuple[list[Preference], list[SourceImage]]:
    found: dict[str, Preference] = {}
    for entry in read_entries(path):
        try:
            preference = own.parse(row_of(entry))
            if preference.image not in listed:
                raise UnusableError(f"image {preference.image!r} is not in its list of images")
            image_path = listed[preference.image].path
            check(to_pair(preference, image_path))
            files.check(image_path)
            if preference.id in found:
                raise UnusableError(f"id {preference.id!r} again")
            found[preference.id] = preference
        except UnusableError as error:
            dropped.append(Dropped(id=entry.place, stage=STAGE, reason=str(error)))
    used = dict.fromkeys(preference.image for preference in found.values())
    return list(found.values()), [listed[image] for image in used]


def _foreign(
    form: str,
    path: Path,
    files: _Images,
    dropped: list[Dropped],
    repairs: Counter[str],
) -> tuple[list[Preference], list[SourceImage]]:
    pairs: list[tuple[int, Pair]] = []
    for number, entry in enumerate(read_rows(path, files.store)):
        counts: Counter[str] = Counter()  # of one row: those of a dropped one do not count
        try:
            pair = check(FORMS[form].parse(row_of(entry), counts))
            files.check(pair.image)
            repairs.update(counts)
            pairs.append((number, pair))
        except UnusableError as error:
            dropped.append(Dropped(id=entry.place, stage=STAGE, reason=str(error)))
    ids = image_ids(pair.image for _, pair in pairs)
    preferences = [
        to_preference(pair, id=unique, image=ids[pair.image], source=form)
        for (_, pair), unique in zip(pairs, _unique(form, pairs, ids, repairs), strict=True)
    ]
    return preferences, [SourceImage(image, name, image) for name, image in ids.items()]


def _unique(
    form: str, pairs: list[tuple[int, Pair]], images: dict[str, str], repairs: Counter[str]
) -> Iterator[str]:
    """Given ids, or IMAGE/FORM-ROW; a repeated one gets "#2", "#3", ... that no pair has."""
    named = [pair.id or f"{images[pair.image]}/{form}-{number}" for number, pair in pairs]
    taken = set(named)
    seen: set[str] = set()
    for name in named:
        unique, number = name, 1
        while unique in seen or (number > 1 and unique in taken):
            number += 1
            unique = f"{name}#{number}"
        repairs["repeated id numbered"] += number > 1
        seen.add(unique)
        yield unique


def _roots(listed: own.Listed | None) -> Iterator[str]:
    if listed and listed.roots:
        yield f"the paths of the images start at {' or at '.join(listed.roots)}"


def _warnings(preferences: list[Preference]) -> Iterator[str]:
    idle = sum(preference.weight == 0 for preference in preferences)
    if idle:
        yield f"{idle} of {len(preferences)} pairs have weight 0: they are kept and train nothing"
    chosen = median(len(preference.chosen.text.split()) for preference in preferences)
    rejected = median(len(preference.rejected.text.split()) for preference in preferences)
    many = len(preferences) >= MANY
    if many and max(chosen, rejected) >= UNEVEN_LENGTHS * max(1, min(chosen, rejected)):
        yield (
            f"chosen answers have {chosen:g} words in the median and rejected ones {rejected:g}: "
            "a policy can tell them apart by length alone"
        )

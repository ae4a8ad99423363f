"""All sources and benchmarks of a recipe as one list of images, conversations and questions."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple, TypeVar

from stllava.benchmarks import Benchmark
from stllava.benchmarks.open import read_benchmark
from stllava.config import PairsSection, Recipe, SourceSection
from stllava.errors import DataError, RecipeError
from stllava.exchange.reading import Imported, read_preferences
from stllava.pipeline.prepare.places import RUN, Place, kind_of, places
from stllava.records import Conversation, Dropped, Preference, VQASample
from stllava.sources import SourceData, SourceImage
from stllava.sources.open import read_source


class PlacedImage(NamedTuple):
    """An image that a place refers to, before anyone opened it."""

    id: str
    path: str  # relative to the folder that `root` names
    group: str | None  # None: the source knows no patient; a DICOM header may
    root: str  # key of Gathered.roots
    source: str  # "vqa-rad", "llava", ...
    part: str = "train"  # or dev or test: only a benchmark uses it


class Gathered(NamedTuple):
    """What a recipe's sources and benchmarks hold, in a stable order."""

    images: tuple[PlacedImage, ...]
    conversations: tuple[Conversation, ...]
    samples: tuple[VQASample, ...]  # benchmark questions
    preferences: tuple[Preference, ...]  # pairs that others made
    training_samples: tuple[VQASample, ...]  # annotated training questions, for leak checks
    dropped: tuple[Dropped, ...]
    repairs: dict[str, dict[str, int]]  # by place
    warnings: tuple[str, ...]
    licences: dict[str, str]  # by place


def gather(recipe: Recipe, run_root: Path) -> Gathered:
    """Read every place. Images embedded in tables are written under prepare/images/NAME."""
    images: dict[str, PlacedImage] = {}
    taken: dict[str, set[str]] = {"conversations": set(), "samples": set()}
    parts: list[Gathered] = []
    for place in places(recipe):
        extract_to = run_root / "prepare" / "images" / place.key
        section = place.section.model_copy(update={"root": str(place.root)})
        if isinstance(section, SourceSection):
            part = _source(place, read_source(section, extract_to=extract_to), run_root)
        elif isinstance(section, PairsSection):
            part = _pairs(place, _read_pairs(section, place.root, extract_to), run_root)
        else:
            part = _benchmark(place, read_benchmark(section, extract_to=extract_to), run_root)
        for image in part.images:
            images.setdefault(image.id, image)
        parts.append(_numbered(part, taken))
    return Gathered(
        images=tuple(images.values()),
        conversations=tuple(c for part in parts for c in part.conversations),
        samples=tuple(s for part in parts for s in part.samples),
        preferences=tuple(p for part in parts for p in part.preferences),
        training_samples=tuple(s for part in parts for s in part.training_samples),
        dropped=tuple(d for part in parts for d in part.dropped),
        repairs={name: said for part in parts for name, said in part.repairs.items()},
        warnings=tuple(dict.fromkeys(w for part in parts for w in part.warnings)),
        licences={name: said for part in parts for name, said in part.licences.items()},
    )


def _source(place: Place, data: SourceData, run_root: Path) -> Gathered:
    return Gathered(
        images=_placed(place, data.images, data.root, run_root, "train"),
        conversations=tuple(
            c.model_copy(update={"id": place.prefix + c.id, "image": place.prefix + c.image})
            for c in data.conversations
        ),
        samples=(),
        preferences=(),
        training_samples=tuple(_renamed(place, sample) for sample in data.samples),
        dropped=data.dropped,
        repairs={place.name: data.repairs},
        warnings=data.warnings,
        licences={place.name: data.licence},
    )


def _benchmark(place: Place, test: Benchmark, run_root: Path) -> Gathered:
    return Gathered(
        images=_placed(place, test.images, test.root, run_root, "test"),
        conversations=(),
        samples=tuple(
            _renamed(place, sample).model_copy(update={"benchmark": place.name, "split": "test"})
            for sample in test.samples
        ),
        preferences=(),
        training_samples=(),
        dropped=test.dropped,
        repairs={f"{place.name} (test)": test.repairs},
        warnings=test.warnings,
        licences={f"{place.name} (test)": test.licence},
    )


def _read_pairs(section: PairsSection, root: Path, extract_to: Path) -> Imported:
    if section.file is None:
        raise RecipeError("data.preferences.file: not set; give the file of pairs")
    return read_preferences(section.form, Path(section.file), root, extract_to=extract_to)


def _pairs(place: Place, pairs: Imported, run_root: Path) -> Gathered:
    return Gathered(
        images=_placed(place, pairs.images, pairs.root, run_root, "train"),
        conversations=(),
        samples=(),
        preferences=tuple(
            pair.model_copy(update={"image": place.prefix + pair.image})
            for pair in pairs.preferences
        ),
        training_samples=(),
        dropped=pairs.dropped,
        repairs={f"{place.name} (pairs)": pairs.repairs},
        warnings=pairs.warnings,
        licences={},
    )


def _numbered(part: Gathered, taken: dict[str, set[str]]) -> Gathered:
    """Two files about one folder may both begin with the record "0": the later gets "#2"."""
    talks, num_talks = _distinct(part.conversations, taken["conversations"])
    samples, num_samples = _distinct(part.samples, taken["samples"])
    if not num_talks + num_samples:
        return part
    repairs = {name: dict(said) for name, said in part.repairs.items()}
    said = next(iter(repairs.values()))
    said["id that another file has numbered"] = num_talks + num_samples
    return part._replace(conversations=talks, samples=samples, repairs=repairs)


R = TypeVar("R", Conversation, VQASample)


def _distinct(records: Sequence[R], taken: set[str]) -> tuple[tuple[R, ...], int]:
    """The records under ids that are not taken yet, and how many had to change theirs."""
    own = {record.id for record in records}
    found: list[R] = []
    for record in records:
        name, number = record.id, 1
        while name in taken or (number > 1 and name in own):
            number += 1
            name = f"{record.id}#{number}"
        taken.add(name)
        found.append(record if name == record.id else record.model_copy(update={"id": name}))
    num_changed = sum(new.id != old.id for new, old in zip(found, records, strict=True))
    return tuple(found), num_changed


def _renamed(place: Place, sample: VQASample) -> VQASample:
    names = {"id": place.prefix + sample.id, "image": place.prefix + sample.image}
    return sample.model_copy(update=names)


def _placed(
    place: Place, images: Sequence[SourceImage], root: Path | None, run_root: Path, part: str
) -> tuple[PlacedImage, ...]:
    """Paths relative to the place's folder, or to the run for what was extracted into it."""
    folder = (root or place.root).resolve()
    key, start = place.key, place.root
    if folder.is_relative_to(run_root.resolve()):
        key, start = RUN, run_root.resolve()
    if not folder.is_relative_to(start):
        raise DataError(f"{folder}: outside of {start}; set the root of {place.name} above it")
    inner = folder.relative_to(start)
    kind = kind_of(place.section)
    return tuple(
        PlacedImage(
            id=place.prefix + image.id,
            path=(PurePosixPath(inner.as_posix()) / image.path).as_posix(),
            group=place.prefix + image.group if image.group != image.id else None,
            root=key,
            source=kind,
            part=part,
        )
        for image in images
    )

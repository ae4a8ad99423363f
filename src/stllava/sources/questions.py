"""Annotated questions about images: what a question file gives, for training and for testing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from stllava.errors import DataError
from stllava.records import Conversation, Dropped, Turn, VQASample
from stllava.sources import STAGE, SourceData, SourceImage
from stllava.sources.store import ImageStore


class Questions(NamedTuple):
    """The questions of one file or split, repaired, in file order."""

    samples: tuple[VQASample, ...]
    images: dict[str, SourceImage]  # by id, in order of first use
    repairs: dict[str, int]
    dropped: tuple[Dropped, ...]
    root: Path | None = None  # where the image paths start; None: nothing was looked for
    warnings: tuple[str, ...] = ()
    licence: str = ""

    def split(self, split: str) -> tuple[VQASample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split)


class Collector:
    """Gathers questions while a file is read, and counts what is repaired and dropped."""

    def __init__(self, store: ImageStore) -> None:
        self.store = store
        self.repairs: Counter[str] = Counter()
        self.samples: list[VQASample] = []
        self.images: dict[str, SourceImage] = {}
        self.dropped: list[Dropped] = []

    def drop(self, record_id: str, reason: object) -> None:
        self.dropped.append(Dropped(id=record_id, stage=STAGE, reason=str(reason)))

    def add(self, sample: VQASample, image: SourceImage) -> None:
        self.images.setdefault(image.id, image)
        self.samples.append(sample)

    def finish(self, file: Path, *, warnings: Iterable[str] = (), licence: str = "") -> Questions:
        """Raises DataError if nothing is left, with the first reason and the folder tried."""
        if not self.images:
            raise DataError(nothing_left(file, self.store, self.dropped))
        seen = Counter(
            (s.split, s.image, s.question.lower(), s.answer.lower()) for s in self.samples
        )
        self.repairs["repeated row, kept"] += seen.total() - len(seen)
        names = list(unique([sample.id for sample in self.samples], self.repairs))
        return Questions(
            samples=tuple(
                sample if sample.id == name else sample.model_copy(update={"id": name})
                for name, sample in zip(names, self.samples, strict=True)
            ),
            images=self.images,
            repairs=dict(+self.repairs),
            dropped=tuple(self.dropped),
            root=self.store.root,
            warnings=tuple(warning for warning in warnings if warning),
            licence=licence,
        )


def nothing_left(file: Path, store: ImageStore, dropped: list[Dropped]) -> str:
    """Why a file gave nothing at all, in one line."""
    if not dropped:
        return f"{file}: no usable record (it is empty); see docs/data.md for its form"
    if store.num_missing:
        tried = " or ".join(str(store.given_root / prefix) for prefix in store.prefixes)
        return (
            f"{file}: no usable record, no image was found under {tried}; set the root to the "
            f"folder of the images (first: {dropped[0].reason})"
        )
    return f"{file}: no usable record ({dropped[0].reason}); see docs/data.md for its form"


def as_source(found: Questions, name: str) -> SourceData:
    """Training data: one conversation per image, its questions in file order.

    A question without an answer stays among the samples, so that published counts hold, but
    teaches nothing.
    """
    by_image: dict[str, list[Turn]] = {image: [] for image in found.images}
    for sample in found.samples:
        if sample.answer:
            turn = Turn(question=sample.question, answer=sample.answer)
            by_image[sample.image].append(turn)
    return SourceData(
        images=tuple(found.images.values()),
        conversations=tuple(
            Conversation(id=f"{image}/{name}", image=image, turns=tuple(turns))
            for image, turns in by_image.items()
            if turns
        ),
        samples=found.samples,
        repairs=found.repairs,
        dropped=found.dropped,
        root=found.root,
        warnings=found.warnings,
        licence=found.licence,
    )


def unique(ids: list[str], repairs: Counter[str]) -> Iterator[str]:
    """Files repeat ids; a repeated one gets "#2", "#3", ... that no record has."""
    taken = set(ids)
    seen: Counter[str] = Counter()
    for record_id in ids:
        seen[record_id] += 1
        name = record_id
        while seen[record_id] > 1 and (name := f"{record_id}#{seen[record_id]}") in taken:
            seen[record_id] += 1
        repairs["repeated id numbered"] += name != record_id
        yield name

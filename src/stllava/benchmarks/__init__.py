"""Benchmarks: questions with reference answers, and what must be said about them beside a score."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stllava.metrics.closed import YES_NO, is_yes_no
from stllava.records import Dropped, VQASample
from stllava.sources import STAGE, SourceImage
from stllava.sources.questions import Questions


class Benchmark(NamedTuple):
    """A test set in a stable order."""

    name: str
    samples: tuple[VQASample, ...]
    images: tuple[SourceImage, ...]  # () where samples name images of the run's own images.jsonl
    repairs: dict[str, int]  # what was repaired in its files, and how often
    warnings: tuple[str, ...]  # print these beside every number
    root: Path | None = None  # where the image paths start; None: images were not asked for
    dropped: tuple[Dropped, ...] = ()
    licence: str = ""

    @property
    def groups(self) -> dict[str, str]:
        """Image id to patient or case."""
        return {image.id: image.group for image in self.images}


def by_answer_text(samples: Iterable[VQASample]) -> tuple[VQASample, ...]:
    """Call a question closed iff its answer is yes or no, whatever its annotation says.

    VQA-RAD's test set has 272 closed questions by annotation and 251 by answer; papers use both.
    """
    return tuple(
        sample.model_copy(update={"kind": "closed", "options": YES_NO})
        if is_yes_no(sample.answer)
        else sample.model_copy(update={"kind": "open", "options": ()})
        for sample in samples
    )


def as_benchmark(name: str, found: Questions) -> Benchmark:
    """Questions as a test set; one without a reference answer cannot be scored and is dropped."""
    unscorable = tuple(
        Dropped(id=sample.id, stage=STAGE, reason="no reference answer")
        for sample in found.samples
        if not sample.answer
    )
    warnings = [f"{name}: {len(unscorable)} without a reference answer"] if unscorable else []
    return Benchmark(
        name=name,
        samples=tuple(sample for sample in found.samples if sample.answer),
        images=tuple(found.images.values()),
        repairs=found.repairs,
        warnings=(*found.warnings, *warnings),
        root=found.root,
        dropped=(*found.dropped, *unscorable),
        licence=found.licence,
    )

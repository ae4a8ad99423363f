"""Records of prepare: every image is opened once, and what hangs off a bad one goes with it."""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import NamedTuple, TypeVar

from stllava.checks import Sign
from stllava.errors import DataError
from stllava.pipeline.job import Job
from stllava.pipeline.prepare.gather import Gathered, PlacedImage
from stllava.pipeline.prepare.pictures import store_images
from stllava.records import Conversation, Dropped, Preference, Split, VQASample
from stllava.stage import Stage

FILES = ("images.jsonl", "conversations.jsonl", "samples.jsonl", "splits.jsonl")


class Opened(NamedTuple):
    """The images that could be opened."""

    parts: dict[str, str]  # id -> train, dev or test
    signs: Sequence[Sign]  # in their headers, of who is on them


class Written(NamedTuple):
    """How much of each kind there is, and what the images' headers give away."""

    counts: dict[str, int]
    signs: Sequence[Sign]


def write_records(job: Job, stage: Stage, found: Gathered) -> Written:
    """Write all record files and dropped.jsonl.

    Raises DataError where more is unusable than `data.max_bad` allows.
    """
    for name in FILES:
        stage.create(name)
    for dropped in found.dropped:
        stage.drop(dropped)
    parts, signs = _write_images(job, stage, found.images)
    _refuse_too_bad(job, found, len(parts))
    conversations = _kept(stage, found.conversations, parts)
    for conversation in conversations:
        stage.append("conversations.jsonl", conversation)
    samples = _kept(stage, found.samples, parts)
    for sample in samples:
        split = "dev" if parts[sample.image] == "dev" else "test"
        stage.append("samples.jsonl", sample.model_copy(update={"split": split}))
    counts = {
        "images": len(parts),
        "conversations": len(conversations),
        "turns": sum(len(c.turns) for c in conversations),
        "samples": len(samples),
    }
    if found.preferences:
        pairs = _kept(stage, found.preferences, parts)
        for pair in pairs:
            stage.append("preferences.jsonl", pair)
        counts["preferences"] = len(pairs)
    return Written(counts, signs)


def _write_images(job: Job, stage: Stage, images: Sequence[PlacedImage]) -> Opened:
    parts: dict[str, str] = {}
    signs: list[Sign] = []
    for placed, image, seen in store_images(job, images):
        if isinstance(image, Dropped):
            stage.drop(image)
            continue
        stage.append("images.jsonl", image)
        split = {"image": placed.id, "group": image.group, "split": placed.part}
        stage.append("splits.jsonl", Split.model_validate(split))
        parts[placed.id] = placed.part
        signs += seen
    return Opened(parts, signs)


R = TypeVar("R", Conversation, VQASample, Preference)


def _kept(stage: Stage, records: Sequence[R], images: Container[str]) -> list[R]:
    """The records whose image is there; the others are dropped."""
    for record in records:
        if record.image not in images:
            stage.drop(Dropped(id=record.id, stage="prepare", reason="its image was dropped"))
    return [record for record in records if record.image in images]


def _refuse_too_bad(job: Job, found: Gathered, num_opened: int) -> None:
    """By images and by rows: a few bad rows about few images are no bad data, nor is the reverse.

    Where there are no rows, or fewer than images, a dropped item counts as an image.
    """
    limit = job.recipe.data.max_bad
    by_file = found.training_samples or found.conversations
    num_rows = len(by_file) + len(found.samples) + len(found.preferences)
    num_images, num_lost = len(found.images), len(found.images) - num_opened
    num_bad = num_lost + len(found.dropped)
    num_all = max(num_images, num_rows) + len(found.dropped)
    for bad, every, what in (
        (num_lost, num_images, "images"),
        (num_bad, num_all, "images and records"),
    ):
        if every == 0 or bad > limit * every:
            raise DataError(
                f"prepare: {bad} of {every} {what} are unusable, more than "
                f"data.max_bad={limit:g} allows; see {job.stage('prepare').path / 'dropped.jsonl'}"
            )

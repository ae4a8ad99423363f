"""What is checked: one data set as records, and the questions and pictures in it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stllava.checks.text import normal
from stllava.records import Conversation, Dropped, Image, Preference, Split, VQASample


class Sign(NamedTuple):
    """One sign that a file may identify a patient; never the value itself."""

    image: str  # id
    code: str  # as in `images.phi`, or "corner_text"
    detail: str


class Material(NamedTuple):
    """One data set. Without `images` (files not opened), pictures are told apart by their ids."""

    images: Sequence[Image] = ()
    conversations: Sequence[Conversation] = ()  # trained on
    samples: Sequence[VQASample] = ()  # of benchmarks: held out, whatever their split is called
    preferences: Sequence[Preference] = ()  # trained on in stage 2
    annotated: Sequence[VQASample] = ()  # training questions with their annotations, if known
    splits: Sequence[Split] = ()
    dropped: Sequence[Dropped] = ()
    repairs: Mapping[str, Mapping[str, int]] = {}  # place -> what -> how often
    warnings: Sequence[str] = ()
    licences: Mapping[str, str] = {}  # source -> licence, "" where it is not known
    signs: Sequence[Sign] = ()  # from opening the files
    files_looked_at: int | None = None  # how many were opened for `signs`; None: not tried


def without_lost(material: Material) -> Material:
    """Conversations and questions whose image is not there become Dropped."""
    good = {image.id for image in material.images}
    uses = [
        *((c.id, c.image) for c in material.conversations),
        *((s.id, s.image) for s in material.samples),
    ]
    lost = [
        Dropped(id=id_, stage="check", reason="its image was dropped")
        for id_, image in uses
        if image not in good
    ]
    return material._replace(
        conversations=[c for c in material.conversations if c.image in good],
        samples=[s for s in material.samples if s.image in good],
        dropped=[*material.dropped, *lost],
    )


class Asked(NamedTuple):
    """One question with its answer, and both as they are compared."""

    id: str  # of the record
    picture: str
    text: str  # normalised question
    answer: str  # normalised
    is_empty: bool  # question or answer is blank


class Pictures:
    """Which images show the same picture: equal 8-bit pixels, whatever file holds them."""

    def __init__(self, images: Iterable[Image]) -> None:
        self.by_id = {image.id: image for image in images}
        self._key = {
            id_: image.pixels_sha256 or image.sha256 or id_ for id_, image in self.by_id.items()
        }

    def of(self, image_id: str) -> str:
        """A key that equal pictures share; the id itself for an image that was not opened."""
        return self._key.get(image_id, image_id)

    def group(self, image_id: str) -> str | None:
        image = self.by_id.get(image_id)
        return image.group if image else None


def asked(conversations: Iterable[Conversation], pictures: Pictures) -> list[Asked]:
    """Every answered turn of the instruction data."""
    return [
        _asked(c.id, pictures.of(c.image), turn.question, turn.answer)
        for c in conversations
        for turn in c.turns
        if turn.answer is not None
    ]


def preferred(preferences: Iterable[Preference], pictures: Pictures) -> list[Asked]:
    """Every pair's question with its chosen answer."""
    return [_asked(p.id, pictures.of(p.image), p.question, p.chosen.text) for p in preferences]


def tested(samples: Iterable[VQASample], pictures: Pictures) -> list[Asked]:
    """Every benchmark question, in order."""
    return [_asked(s.id, pictures.of(s.image), s.question, s.answer) for s in samples]


def _asked(id_: str, picture: str, question: str, answer: str) -> Asked:
    is_empty = not question.strip() or not answer.strip()
    return Asked(id_, picture, normal(question), normal(answer), is_empty)

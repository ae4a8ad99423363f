"""What can be said wrongly about an image: a known answer with one thing about it changed.

An answer is read as one or more facets: a side, a modality, a number, a size, yes or no, or all of
it. Two patients whose answers differ in a facet lend it to each other (`bench.couples`), so that
what is wrong here is right there. Rules work on wording; that the result is wrong follows from
the true answer being right and saying the one thing only.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

from stllava.judging.bench.words import (
    ASKS_ANATOMY,
    ASKS_KNOWLEDGE,
    ASKS_MODALITY,
    AXES,
    GOES_WITH_MODALITY,
    UNSURE,
    Axis,
    denial,
    excludes,
    pattern,
    values,
    yes_or_no,
)
from stllava.judging.claims import content
from stllava.judging.pairing import normalise
from stllava.judging.questions import question_kind, question_type
from stllava.metrics.closed import verdict
from stllava.metrics.text import DIGITS, words

FEWEST_TIMES = 1.5  # a measured size is wrong if it is so many times the true one
_COUNT = "number of"
_NUMBER = re.compile(
    rf"(?<![\w.,/-])(?:\d+(?:\.\d+)?|{'|'.join(w for w in DIGITS if w not in ('zero', 'one'))})"
    r"(?![\w/-]|[.,]\d)",
    re.IGNORECASE,
)
_LISTS = re.compile(r"\bor\b|还是|或", re.IGNORECASE)
_SIDE = re.compile(r"\b(?:left|right)|左|右", re.IGNORECASE)  # rightmost, right-sided
_FILLER = frozenset(("located", "lie", "above"))


class Known(NamedTuple):
    """A question about an image with an answer that is known to be right."""

    id: str
    image: str
    group: str  # patient or case
    question: str
    answer: str


class Facet(NamedTuple):
    """One thing that an answer says, and how to say another in its place."""

    item: Known
    category: str
    axis: str  # facets of one axis can be exchanged
    value: str  # on the axis; equal ones say the same
    said: str  # as the answer has it
    place: re.Pattern[str] | None = None  # where; None: it is all of the answer

    @property
    def frame(self) -> str:
        """What is around the place."""
        return normalise(self.place.sub("#", self.item.answer)) if self.place else ""

    def wrong(self, other: Facet) -> str:
        """The answer with what the other one says in place of its own."""
        if self.place is None:
            return other.said
        return self.place.sub(lambda match: _cased(other.said, match[0]), self.item.answer)

    def is_changed_by(self, other: Facet) -> bool:
        """False where the place is written in signs that it is not found in."""
        return normalise(self.wrong(other)) != normalise(self.item.answer)


def excluding(one: Facet, other: Facet) -> bool:
    """Whether two patients' facets can be exchanged: both then say what is wrong."""
    if one.value == other.value or one.item.group == other.item.group:
        return False
    if not (one.is_changed_by(other) and other.is_changed_by(one)):
        return False
    if one.category == "other patient":
        return excludes(one.said, other.said)
    if one.category == "presence" or one.axis.startswith(_COUNT):
        return True
    if one.category == "number":
        low, high = sorted((float(one.value), float(other.value)))
        return high >= FEWEST_TIMES * low > 0
    return _is_listed(other.said, one.item.question) and _is_listed(one.said, other.item.question)


def _is_listed(said: str, question: str) -> bool:
    """False where the question lists what can be said, and not this."""
    return not _LISTS.search(question) or said.lower() in question.lower()


def facets(item: Known) -> list[Facet]:
    """What can be exchanged of an answer, the most telling first; nothing of an unsure one."""
    if UNSURE.search(item.answer):
        return []
    if yes_or_no(item.answer) or question_kind(item.question) == "yes/no":
        return _presence(item)
    found = [*_worded(item, "side"), *_worded(item, "modality"), *_number(item)]
    found += _worded(item, "size")
    if any(f.category == "modality" or f.axis.startswith(_COUNT) for f in found):
        return found  # as another patient's answer it would be the same again
    if ASKS_KNOWLEDGE.search(item.question) or ASKS_ANATOMY.search(item.question):
        return found
    axis = f"answer {asked(item.question)}"
    return [*found, Facet(item, "other patient", axis, normalise(item.answer), item.answer)]


def _presence(item: Known) -> list[Facet]:
    """A bare yes or no, or a sentence that is exchanged for one about the same question."""
    if said := yes_or_no(item.answer):
        bare = " ".join(words(item.answer))
        axis = f"bare {bare if said == 'no' else denial(bare)}"
        place = re.compile(re.escape(bare), re.IGNORECASE)
        return [Facet(item, "presence", axis, said, bare, place)]
    kind = verdict(item.answer).kind
    if kind not in ("yes", "no"):
        return []
    return [Facet(item, "presence", f"sentence {asked(item.question)}", kind, item.answer)]


def _worded(item: Known, category: str) -> list[Facet]:
    """What the answer names on one axis of `AXES`; nothing if it names several things."""
    named = [
        (axis, value)
        for axis in AXES
        if axis.category == category
        for value in values(axis, item.answer)
    ]
    if len(named) != 1 or _gives_away(item, named[0][0]):
        return []
    (axis, value), place = named[0], pattern(named[0][0])
    said = place.findall(item.answer)[0]
    return [Facet(item, category, f"{category} {axis.values}", value, said, place)]


def _gives_away(item: Known, axis: Axis) -> bool:
    """Whether the question, or the rest of the answer, says which value it is."""
    named = values(axis, item.question)
    if axis.category == "side":
        named = {match.lower() for match in _SIDE.findall(item.question)}
        return len(named) == 1 or bool(ASKS_ANATOMY.search(item.question))
    if axis.category == "modality" and not ASKS_MODALITY.search(item.question):
        return True
    if len(axis.values) > 2 and GOES_WITH_MODALITY.search(item.answer):
        return True
    knows = axis.category == "size" and bool(ASKS_KNOWLEDGE.search(item.question))
    return len(named) == 1 or knows


def _number(item: Known) -> list[Facet]:
    """Its only number: a count is exchanged for one of the same things, a size for any in its unit.

    Counts of other things give themselves away: all know how many lungs there are.
    """
    bare = normalise(item.answer)
    found = [bare] if bare in DIGITS else _NUMBER.findall(item.answer)
    if len(found) != 1:
        return []
    said = found[0]
    value = f"{float(DIGITS.get(said.lower(), said)):g}"
    place = re.compile(rf"(?<![\w.]){re.escape(said)}(?![\w.]*\w)", re.IGNORECASE)
    frame = normalise(place.sub("#", item.answer))
    axis = f"{_COUNT} {asked(item.question)}" if frame == "#" else f"number {frame}"
    return [Facet(item, "number", axis, value, said, place)]


@lru_cache(maxsize=2**15)  # the same few are asked of every image
def asked(question: str) -> str:
    """What a question is about: equal for "Where is the mass?" and "Where's a mass located?"."""
    about = sorted(set(content(question)) - _FILLER)
    return f"{question_type(question)} {' '.join(about) or normalise(question)}"


def _cased(text: str, like: str) -> str:
    """Capital where the replaced word had one; abbreviations keep theirs."""
    if like[:1].isupper():
        return text[:1].upper() + text[1:]
    return text.lower() if text[1:].islower() else text


def luck(*key: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")


def in_lucky_order(known: Sequence[Known], seed: int) -> list[Known]:
    """Sampled order that depends on ids and the seed alone: more data reshuffles nothing."""
    return sorted(known, key=lambda item: luck(seed, item.id))

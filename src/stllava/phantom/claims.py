"""What an answer claims, checked against the truth of the picture.

An answer is cut into clauses. A clause names kinds of findings by their head words; attributes
in it belong to the kind it names, else to the kind last named, else to the question's. Words
outside the grammar make an answer ill-formed, and many of them make it garbage with no claims:
a tiny language model writes both, and neither may raise.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import NamedTuple

from stllava.phantom.grammar import (
    YES_NO_TOPICS,
    Ask,
    all_questions,
    find,
    normalise,
    truth,
    words_of,
)
from stllava.phantom.vocab import NUMBERS, SIDES, SIZES, WORLDS, Kind, World
from stllava.phantom.world import Picture

ParsedQuestion = Ask  # a question read back is the Ask that the generator starts from
MAX_UNKNOWN_SHARE = 0.25  # of an answer's words; above it the answer is garbage
FRAME_WORDS = frozenset(
    (
        "yes",
        "no",
        "the",
        "a",
        "an",
        "is",
        "are",
        "on",
        "in",
        "of",
        "it",
        "they",
        "this",
        "there",
        "i",
        "see",
        "seen",
        "shows",
        "show",
        "image",
        "side",
        "with",
        "and",
        "but",
        "not",
        "nothing",
        "none",
        "anything",
        "also",
    )
)


class Claim(NamedTuple):
    """One thing an answer says. `about` is an attribute, "exists", "modality" or "normal"."""

    about: str
    kind: str  # a Kind.name; for "exists", "nodule@left" when the question named a side
    value: str


class Reading(NamedTuple):
    """The claims of an answer, each once, and whether the answer keeps to the grammar."""

    claims: frozenset[Claim]
    well_formed: bool


@dataclass(frozen=True)
class Claims:
    """How many of an answer's claims are true; a repeated claim counts once."""

    correct: int
    wrong: int
    well_formed: bool


def read_question(question: str, world: World) -> ParsedQuestion | None:
    """Return what `question` asks for, or None when it is not in the grammar."""
    return all_questions(world.name).get(normalise(question))


def answerable(question: str, picture: Picture, world: World) -> bool:
    """Whether the question fits this picture.

    It must be in the grammar and about this picture type, and a question for an attribute must
    name a finding that is there.
    """
    ask = read_question(question, world)
    if ask is None:
        return False
    if not ask.kind:
        return True
    if world.kinds[ask.kind] not in world.by_type[picture.picture_type].kinds:
        return False
    return ask.topic == "presence" or find(picture, ask.kind) is not None


def read_answer(question: str, answer: str, picture: Picture, world: World) -> Claims:
    """Count the true and false claims of `answer`, read as a reply to `question`."""
    reading = extract(question, answer, world)
    correct = sum(is_true(claim, picture, world) for claim in reading.claims)
    return Claims(correct, len(reading.claims) - correct, reading.well_formed)


def is_true(claim: Claim, picture: Picture, world: World) -> bool:
    """Check one claim. An attribute of a finding that is not there is false."""
    if claim.about == "modality":
        return claim.value == picture.picture_type
    if claim.about == "normal":
        return (claim.value == "yes") == (not picture.findings)
    kind_name, _, side = claim.kind.partition("@")
    if claim.about == "exists":
        return (claim.value == "yes") == truth(Ask("presence", kind_name, side), picture)
    found = find(picture, kind_name)
    if found is None:
        return False
    actual = {
        "side": found.side,
        "size": found.size,
        "count": NUMBERS[found.count],
        "place": world.kinds[kind_name].place,
    }
    return actual[claim.about] == claim.value


def extract(question: str, answer: str, world: World) -> Reading:
    """Return every claim of `answer`; no claims and not well-formed for garbage."""
    words = words_of(answer)
    unknown = sum(word not in _vocabulary(world.name) for word in words)
    if not words or unknown > MAX_UNKNOWN_SHARE * len(words):
        return Reading(frozenset(), False)
    stutters = any(a == b for a, b in pairwise(words))
    ask = read_question(question, world)
    reader = _Reader(world, ask)
    for clause in re.split(r"[.,;:!?]|\band\b|\bbut\b|\bwith\b", answer.lower()):
        reader.read(words_of(clause))
    claims = frozenset(reader.claims)
    return Reading(claims, bool(claims) and not unknown and not stutters)


@cache
def _vocabulary(world_name: str) -> frozenset[str]:
    """Every word an answer of this world may use."""
    world = WORLDS[world_name]
    texts = [picture.name for picture in world.types]
    for kind in world.all_kinds:
        texts += [kind.name, kind.plural, kind.place, kind.state]
    words = {word for text in texts for word in words_of(text)}
    return frozenset(words | FRAME_WORDS | {*SIDES, *SIZES, *NUMBERS, world.normal, world.odd})


class _Reader:
    """Reads the clauses of one answer in order; remembers the kind last spoken of."""

    def __init__(self, world: World, ask: Ask | None) -> None:
        self.world = world
        self.ask = ask
        self.kind = world.kinds.get(ask.kind) if ask else None
        self.absent: set[str] = set()  # kinds this answer denies: their attributes are no claims
        self.claims: list[Claim] = []

    def read(self, words: list[str]) -> None:
        if not words:
            return
        if words[0] in ("yes", "no") and (len(words) == 1 or words[1] in _AFTER_YES_NO):
            self._yes_no(words[0])
            words = words[1:]
        named = [self.world.heads[word] for word in words if word in self.world.heads]
        named = list(dict.fromkeys(kind for kind in named if self._means(kind, words)))
        denied = any(word in ("no", "not", "none") for word in words)
        self._whole_image(words, named, denied)
        for kind in named:
            self._claim("exists", kind.name, "no" if denied else "yes")
            self.kind = kind
        if denied:
            self.absent |= {kind.name for kind in named}
        elif self.kind and self.kind.name not in self.absent:
            self._attributes(words, self.kind)

    def _claim(self, about: str, kind: str, value: str) -> None:
        self.claims.append(Claim(about, kind, value))

    def _means(self, kind: Kind, words: list[str]) -> bool:
        """A heart is no finding unless it is called enlarged."""
        return not kind.state or kind.state in words

    def _yes_no(self, word: str) -> None:
        """Resolve a bare yes or no with the question."""
        ask = self.ask
        if ask is None or ask.topic not in YES_NO_TOPICS:
            return
        if ask.topic == "presence":
            kind = f"{ask.kind}@{ask.side}" if ask.side else ask.kind
            self._claim("exists", kind, word)
            if word == "no" and not ask.side:
                self.absent.add(ask.kind)
        else:
            self._claim("normal", "", word if ask.topic == "normal" else _other(word))

    def _whole_image(self, words: list[str], named: list[Kind], denied: bool) -> None:
        """Read the modality, and "normal", "nothing abnormal", "not normal"."""
        text = " ".join(words)
        for picture in self.world.types:
            if re.search(rf"\b{re.escape(picture.name)}\b", text):
                self._claim("modality", "", picture.name)
        states = [self.world.heads[w] for w in words if w in self.world.heads]
        if any(kind.state for kind in states) and self.world.normal in words:
            self.kind = next(kind for kind in states if kind.state)
            self._claim("exists", self.kind.name, "yes" if denied else "no")
        elif self.world.normal in words:
            self._claim("normal", "", "no" if denied else "yes")
        elif "nothing" in words:
            self._claim("normal", "", "yes")
        elif self.world.odd in words and not named:
            self._claim("normal", "", "yes" if denied else "no")

    def _attributes(self, words: list[str], kind: Kind) -> None:
        for word in words:
            if word in SIDES and kind.sided:
                self._claim("side", kind.name, word)
            elif word in SIZES and kind.sized:
                self._claim("size", kind.name, word)
            elif word in NUMBERS[1:] and kind.max_count > 1:
                self._claim("count", kind.name, word)
            elif word in self._places() and word not in ("side", *self.world.by_type):
                self._claim("place", kind.name, word)

    def _places(self) -> frozenset[str]:
        return frozenset(kind.place for kind in self.world.all_kinds if kind.place)


_AFTER_YES_NO = frozenset(("there", "the", "i", "it", "they", "nothing", "this"))


def _other(word: str) -> str:
    return "no" if word == "yes" else "yes"

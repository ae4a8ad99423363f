"""What an answer claims, in pieces that can be held against a reference: words, denial, side.

No lexicon of findings and no parser: a sentence is cut into clauses, a clause is its content words,
whether it denies them, and where it puts them. That is enough to tell "no effusion" from
"effusion" and the left lung from the right one; it is blind to synonyms.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from stllava.metrics.text import words

_STOP = """
a an the this that these those there here it its is are was were be been being am do does did has
have had can could may might would should will and or of in on at to for from by as with into within
near over about i we you he she they them image images picture scan shown show shows showing see
seen visible present appears appear seems noted identified observed evidence which what who where
when how why yes also any some very patient say think believe
"""
_DENIALS = "no not none nothing never neither nor without absent absence lacks free negative"
STOP = frozenset(_STOP.split())
DENIALS = frozenset(_DENIALS.split())
# Two ways that exclude each other, and the words for them.
AXES: tuple[tuple[str, str], ...] = (
    ("left", "right"), ("upper", "lower"), ("anterior", "posterior"), ("medial", "lateral"),
    ("increased", "decreased"), ("normal", "abnormal"),
)  # fmt: skip
PLACES: dict[str, tuple[str, ...]] = {
    **{word: (word,) for axis in AXES for word in axis},
    "bilateral": ("left", "right"), "bilaterally": ("left", "right"), "both": ("left", "right"),
    "superior": ("upper",), "inferior": ("lower",),
    "leftsided": ("left",), "rightsided": ("right",),
    "unremarkable": ("normal",), "clear": ("normal",), "enlarged": ("abnormal",),
    "dilated": ("abnormal",), "elevated": ("increased",), "reduced": ("decreased",),
}  # fmt: skip

_SENTENCE = re.compile(r"[.;!?](?=\s|$)|\n")
_STRONG = re.compile(r"\b(?:but|however|although|though|while|whereas|with(?!out))\b")
_WEAK = re.compile(rf",|\band\b(?!\s+(?:{'|'.join(PLACES)})\b)|(?=\bwithout\b)")
_NUMBER = re.compile(r"([a-z]?)(\d[\d.]*)")
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|appears?|seems?|there)\b")


class Claim(NamedTuple):
    """One clause. `words` are content words without those of denial and place."""

    words: frozenset[str]
    denied: bool
    places: frozenset[str]  # of the words in AXES


class Agreement(NamedTuple):
    """How many claims of an answer the reference bears out, denies, and does not speak of."""

    supported: int
    contradicted: int
    unknown: int

    @property
    def total(self) -> int:
        return sum(self)


def content(text: str) -> list[str]:
    """The words that say something, plural s cut off: for comparing, not for reading."""
    return [_stem(word) for word in words(text) if word not in STOP]


@lru_cache(maxsize=2**14)
def claims(text: str) -> tuple[Claim, ...]:
    """The claims of a text, in order; a clause without content makes none."""
    found: list[Claim] = []
    for sentence in _SENTENCE.split(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")):
        for part in _STRONG.split(sentence):
            denied = False
            for piece in _WEAK.split(part):
                own = _denies(piece)
                # "no nodule, mass or effusion": a piece without a verb goes on denying
                denied = own or (denied and not _VERB.search(piece))
                found += _claim(piece, denied)
    return tuple(found)


def agreement(answer: str, reference: str, question: str = "") -> Agreement:
    """Hold each claim of the answer against the closest one of the reference.

    Words of the question count only where the reference has them: repeating it claims nothing.
    """
    known = claims(reference)
    vocabulary = {word for claim in known for word in claim.words}
    asked = set(content(question)) - vocabulary
    counts = [0, 0, 0]
    for claim in claims(answer):
        own = claim._replace(words=claim.words - asked)
        if own.words or own.places:
            counts[_held_against(own, known)] += 1
    return Agreement(*counts)


def places(text: str) -> frozenset[str]:
    """Sides and other exclusive words that a text names."""
    return frozenset(place for word in words(text) for place in PLACES.get(word, ()))


def conflict(one: Iterable[str], other: Iterable[str]) -> bool:
    """True where both speak of an axis and not alike: left against right, left against both."""
    a, b = set(one), set(other)
    return any(a & set(axis) and b & set(axis) and a & set(axis) != b & set(axis) for axis in AXES)


def _held_against(claim: Claim, known: Sequence[Claim]) -> int:
    """0: supported, 1: contradicted, 2: unknown."""
    close = [(_closeness(claim, other), other) for other in known]
    best = max((closeness for closeness, _ in close), default=0.0)
    if best < 0.5:
        return 2
    against = [_contradicts(claim, other) for closeness, other in close if closeness == best]
    return int(all(against))


def _closeness(one: Claim, other: Claim) -> float:
    """Shared words over those of the claim with fewer; of bare places, whether they compare.

    Numbers of one kind count as shared: whether they are the same is the next question.
    """
    if one.words and other.words:
        a, b = _kinds(one.words), _kinds(other.words)
        return len(a & b) / min(len(a), len(b))
    comparable = any(one.places & set(axis) and other.places & set(axis) for axis in AXES)
    return float(comparable)


def _contradicts(one: Claim, other: Claim) -> bool:
    if one.denied != other.denied:
        return True
    return conflict(one.places, other.places) or _is_other_number(one, other)


def _is_other_number(one: Claim, other: Claim) -> bool:
    """T1 against T2, 3 against 2, L4 against L5: numbers of one kind, and none in common."""
    a, b = _numbers(one.words), _numbers(other.words)
    return any(not a[kind] & b[kind] for kind in a.keys() & b.keys())


def _kinds(said: Iterable[str]) -> set[str]:
    matches = ((word, _NUMBER.fullmatch(word)) for word in said)
    return {f"{match[1]}#" if match else word for word, match in matches}


def _numbers(said: Iterable[str]) -> dict[str, set[str]]:
    """By what stands before the digits."""
    found: dict[str, set[str]] = {}
    for word in said:
        if match := _NUMBER.fullmatch(word):
            found.setdefault(match[1], set()).add(match[2])
    return found


def _denies(piece: str) -> bool:
    said: list[str] = re.findall(r"[a-z]+(?:n't)?", piece)
    denials: int = sum(word in DENIALS or word.endswith("n't") or word == "cannot" for word in said)
    return denials % 2 == 1  # "not absent" denies nothing


def _claim(piece: str, denied: bool) -> list[Claim]:
    said = [word for word in content(piece) if word not in DENIALS and not word.endswith("nt")]
    kept = frozenset(word for word in said if word not in PLACES)
    where = places(piece)
    return [Claim(kept, denied, where)] if kept or where else []


def _stem(word: str) -> str:
    plural = len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is"))
    return word[:-1] if plural else word

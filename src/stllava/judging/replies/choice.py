"""Which answer a reply names without scoring: probabilities of letters, letters, markers."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from stllava.judging.replies.lines import rows
from stllava.prompts.local import CHOICES

MIN_CHOICE_MASS = 0.5  # of probability on A, B and C together; below it they were not the answer
MAX_BLANK_TOKENS = 3  # before the letter: a blank, a line break, an asterisk

Alternatives = Sequence[Mapping[str, float]]

_MARKER = re.compile(r"\[\[\s*(A|B|C|1|2|tie)\s*\]\]", re.IGNORECASE)
_LABEL = r"(?:(?:(?:the|my|final)\s+)*(?:better\s+)?(?:answer|option|choice|verdict)(?:\s+is)?\W*)?"
_GLOSS = (
    r"(?:[ \t]*[:(=\u2013\u2014-][ \t]*(?:the[ \t]+)?(?:answer[ \t]+)?"
    r"(first|second|neither|1|2)(?:[ \t]+(?:one|answer))?)?"
)
_LETTER = re.compile(rf"\W*{_LABEL}([ABC]){_GLOSS}\W*", re.IGNORECASE)
_OPENING = re.compile(r"\W*([ABC])(?=\s*\[|[,.:;)]\s|\s[\u2013\u2014-]\s)", re.IGNORECASE)
_SIDES = {"A": 1, "1": 1, "FIRST": 1, "B": 2, "2": 2, "SECOND": 2}
_SIDES |= {"C": 0, "TIE": 0, "NEITHER": 0}


class Named(NamedTuple):
    """Sides that a reply names: 1 or 2 for an answer, 0 for neither."""

    sides: list[int]  # where the choice was asked for
    aside: list[int]  # elsewhere: they may be a quotation, and only speak against others


class Likely(NamedTuple):
    """What the letters' probabilities say."""

    side: int
    preference: float  # P(Answer 1 is better), 0..1


def likeliest(alternatives: Alternatives) -> Likely | None:
    """The choice tokens' probabilities at the first token that is no blank."""
    for token in alternatives[:MAX_BLANK_TOKENS]:
        mass = dict.fromkeys(CHOICES, 0.0)
        for text, log in token.items():
            letter = text.strip(" \t\r\n*#[]().:\"'▁Ġ")
            if letter in mass:
                mass[letter] += math.exp(min(log, 0.0))
        total = sum(mass.values())
        if total >= MIN_CHOICE_MASS:
            first, second, neither = (mass[letter] / total for letter in CHOICES)
            best = max((first, 1), (second, 2), (neither, 0))[1]
            return Likely(0 if first == second else best, first + neither / 2)
        likely = max(token, key=lambda text: token[text], default="x")
        if re.search(r"\w", likely):
            return None
    return None


def opens_with_letter(text: str) -> bool:
    """Whether a reply is a letter, and no sentence that begins with "A", nor two of them.

    Nothing is a letter too: a server may leave out of the text what is all of it.
    """
    if not text.strip():
        return True
    named, marked = letters(text), markers(text)
    sides = {*named.sides, *named.aside, *marked.sides, *marked.aside}
    return len(sides) == 1 and bool(named.sides or _OPENING.match(text))


def letters(text: str) -> Named:
    """The whole reply, or its first line, is one letter; with its meaning, if that is said too."""
    lines = rows(text)
    said = [_letter(line) for line in lines]
    first = _letter(text) or next(iter(said), [])
    opening = _OPENING.match(text)
    aside = [side for sides in said[1:] for side in sides]
    return Named(first, aside + ([_SIDES[opening[1].upper()]] if opening else []))


def markers(text: str) -> Named:
    """[[A]], [[B]] or [[C]]; they count at the end, where a quotation does not stand."""
    found = list(_MARKER.finditer(text))
    sides = [_SIDES[mark[1].upper()] for mark in found]
    at_end = bool(found) and not text[found[-1].end() :].strip(" .\n")
    return Named(sides, []) if at_end else Named([], sides)


def _letter(line: str) -> list[int]:
    said = _LETTER.fullmatch(line)
    return [] if said is None else [_SIDES[word.upper()] for word in said.groups() if word]

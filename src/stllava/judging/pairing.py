"""Which draws of a question meet before the judge, and which pairs need no judge."""

from __future__ import annotations

import unicodedata
from itertools import combinations
from typing import Literal

from stllava.records import Answers, Draw

Pair = tuple[int, int]

IDENTICAL = "identical answers"
CUT_OFF = "cut off by max_tokens"
NO_ANSWER = "the policy gave no answer"


def normalise(text: str) -> str:
    """What is left when case, blanks and closing punctuation do not count: "Yes." is "yes"."""
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split()).rstrip(" .!?")


def pairs(answers: Answers, pairing: Literal["all", "ring"]) -> list[Pair]:
    """Pairs of draw indices to judge.

    "all" is every pair in index order, so that what needs no call is still written down. "ring"
    is n pairs instead of n(n-1)/2: the draws that ended and differ, each shown first once and
    second once; fewer than two of them make no pair.
    """
    if pairing == "all":
        return list(combinations([draw.index for draw in answers.draws], 2))
    distinct: dict[str, int] = {}
    for draw in answers.draws:
        if draw.finish == "stop":
            distinct.setdefault(normalise(draw.text), draw.index)
    ring = list(distinct.values())
    if len(ring) <= 2:
        return [(ring[0], ring[1])] if len(ring) == 2 else []
    return list(zip(ring, ring[1:] + ring[:1], strict=True))


def unanswerable(*draws: Draw) -> str | None:
    """Why these draws cannot be compared, or None."""
    if any(draw.finish == "length" for draw in draws):
        return CUT_OFF
    if any(draw.finish != "stop" for draw in draws):
        return NO_ANSWER
    return None


def unordered(pair: Pair) -> Pair:
    """The same for a pair and the pair swapped."""
    return min(pair), max(pair)

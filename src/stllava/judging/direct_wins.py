"""Pairs of a question that the judge decided, and which of them becomes its preference.

Only a pair that met before the judge, and that it decided, is ever preferred. Mean points rank
decided pairs among themselves and decide none: in a ring every draw has other opponents, so that a
draw with the higher mean may have lost, or never met, the one with the lower.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from stllava.judging.balance import num_words
from stllava.judging.experts.votes import is_expert
from stllava.judging.pairing import Pair, normalise
from stllava.judging.states import EQUAL, JUDGED, by_order, points
from stllava.records import Answers, Draw, Verdict

_DIGITS = 9  # means differ in their last digits, and that is nothing


class Win(NamedTuple):
    """One pair that was decided."""

    chosen: Draw
    rejected: Draw
    margin: float  # of the pair's own points, mean over its orders; above 0
    best: float  # mean points of the chosen draw over all its pairs and orders
    worst: float  # of the rejected one
    source: str


class Decided(NamedTuple):
    """Pairs with a winner; `disputed`: another pair of the same two texts ended otherwise."""

    wins: list[Win]
    disputed: list[Win]


def decided(item: Answers, judged: Mapping[Pair, Sequence[Verdict]]) -> Decided:
    """What the pairs of one question say directly; ties are in neither list."""
    draws = {draw.index: draw for draw in item.draws}
    means = mean_points(verdict for said in judged.values() for verdict in said)
    found: list[Win] = []
    winners: dict[frozenset[str], set[str]] = defaultdict(set)
    for pair, said in judged.items():
        own = mean_points(said)
        won, lost = sorted(pair, key=lambda index: -own[index])
        margin = own[won] - own[lost]
        texts = frozenset(normalise(draws[index].text) for index in pair)
        winners[texts].add(normalise(draws[won].text) if margin > EQUAL else "")
        if margin > EQUAL:
            source = ",".join(sorted({verdict.judge for verdict in said}))
            best, worst = means[won], means[lost]
            found.append(Win(draws[won], draws[lost], margin, best, worst, source))
    once = {texts for texts, names in winners.items() if len(names) == 1}
    return Decided(
        [win for win in found if _texts(win) in once],
        [win for win in found if _texts(win) not in once],
    )


def mean_points(said: Iterable[Verdict]) -> dict[int, float]:
    """Draw index -> its mean points over the pairs and orders it was shown in.

    Repeated samples of one order are averaged before, so that none weighs more for them.
    """
    scores: dict[int, list[float]] = defaultdict(list)
    for repeats in by_order(said).values():
        given = [points(verdict) for verdict in repeats if verdict.state in JUDGED]
        for index in given[0] if given else ():
            scores[index].append(fmean(one[index] for one in given))
    return {index: fmean(values) for index, values in scores.items()}


def widest(wins: Iterable[Win]) -> Win:
    """The pair whose two draws are furthest apart: the best against the worst, where they met."""
    return min(wins, key=lambda win: (-round(win.best - win.worst, _DIGITS), *_tie_break(win)))


def closest(wins: Iterable[Win], max_gap: int) -> Win | None:
    """Of pairs within `max_gap` words the best draw's, the closest in length, then the harder."""
    near = [(gap, win) for win in wins if (gap := _gap(win)) <= max_gap]
    if not near:
        return None
    return min(
        near,
        key=lambda one: (
            -round(one[1].best, _DIGITS),
            one[0],
            -round(one[1].worst, _DIGITS),
            *_tie_break(one[1]),
        ),
    )[1]


def _gap(win: Win) -> int:
    return abs(num_words(win.chosen) - num_words(win.rejected))


def _texts(win: Win) -> frozenset[str]:
    return frozenset((normalise(win.chosen.text), normalise(win.rejected.text)))


def _tie_break(win: Win) -> tuple[bool, float, bytes, int, int]:
    """What an expert wrote, then the pair's own margin, then luck that no numbering can turn."""
    texts = f"{win.chosen.request_id}\0{win.chosen.text}\0{win.rejected.text}"
    luck = hashlib.sha256(texts.encode(errors="surrogatepass")).digest()
    margin = -round(win.margin, _DIGITS)
    unwritten = not is_expert(win.chosen.model or "")
    return unwritten, margin, luck, win.chosen.index, win.rejected.index

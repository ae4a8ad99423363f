"""What became of each pair: its orders and repeated samples taken together.

Samples of one order are averaged. Then every order has to say the same: a winner in one order and
the other answer, or a tie, in the other order is inconsistent, and a pair with an order that was
not judged has that order's state (see `UNJUDGED`). Every pair has exactly one state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from stllava.judging.pairing import Pair, unordered
from stllava.records import Verdict, VerdictState

PairKey = tuple[str, Pair]  # id of the answers; draw indices, the lower first
JUDGED = ("ok", "tie")
UNSAID = ("transport_failed", "budget_stopped")  # asked again: no reply, or nothing sent
EQUAL = 1e-9  # mean points closer than this are equal
# Of several reasons why a pair was not judged: what asking again may change comes first.
UNJUDGED: tuple[VerdictState, ...] = (
    "budget_stopped",
    "transport_failed",
    "skipped",
    "filtered",
    "refused",
    "unparsed",
    "inconsistent",
    "both_bad",
    "cannot_judge",
)


class PairOutcome(NamedTuple):
    """One judge's last word on a pair."""

    state: VerdictState
    winner: int | None = None  # draw index, iff state is ok
    margin: float | None = None  # of the means over the orders, 0 or more; None if not judged


class _Said(NamedTuple):
    """What a verdict says of its pair, and no more: there are many."""

    order: Pair
    state: VerdictState
    gap: float | None  # points of the lower index minus the other's; None if not judged


def points(verdict: Verdict) -> dict[int, float]:
    """Draw index -> points of a verdict that is ok or a tie.

    Scores where there are any; else the probability of being better; else, of a judge that ranks
    without scoring, 1 for the winner and 0 for the loser. A tie gives both the same, and so do
    scores that speak against their own winner: points never make another winner.
    """
    first, second = verdict.pair
    if verdict.scores is not None:
        a, b = verdict.scores
    elif verdict.preference is not None:
        a, b = verdict.preference, 1 - verdict.preference
    else:
        won = 0.5 if verdict.winner is None else float(verdict.winner == first)
        a, b = won, 1 - won
    better = None if a == b else first if a > b else second
    if better != verdict.winner:
        a = b = (a + b) / 2
    return {first: a, second: b}


def by_pair(verdicts: Iterable[Verdict], *, view: str = "image") -> dict[PairKey, list[Verdict]]:
    """Verdicts of one view by pair. The last of an id counts: a failed call was asked again."""
    last = {verdict.id: verdict for verdict in verdicts if verdict.view == view}
    found: dict[PairKey, list[Verdict]] = defaultdict(list)
    for verdict in last.values():
        found[_key(verdict)].append(verdict)
    return dict(found)


def pair_states(verdicts: Iterable[Verdict], *, view: str = "image") -> dict[PairKey, VerdictState]:
    """The state of every pair that a verdict is about; verdicts are read one by one."""
    found: dict[PairKey, dict[str, _Said]] = defaultdict(dict)
    for verdict in verdicts:
        if verdict.view == view:
            found[_key(verdict)][verdict.id] = _said(verdict)
    return {key: _outcome(key[1], said.values()).state for key, said in found.items()}


def outcome_of(said: Sequence[Verdict]) -> PairOutcome:
    """All verdicts of one judge on one pair and view as one outcome."""
    return _outcome(_key(said[0])[1], map(_said, said))


def by_order(said: Iterable[Verdict]) -> Mapping[Pair, list[Verdict]]:
    found: dict[Pair, list[Verdict]] = defaultdict(list)
    for verdict in said:
        found[verdict.order].append(verdict)
    return found


def _key(verdict: Verdict) -> PairKey:
    return verdict.answers_id, unordered(verdict.pair)


def _said(verdict: Verdict) -> _Said:
    gap = None
    if verdict.state in JUDGED:
        given = points(verdict)
        gap = given[min(given)] - given[max(given)]
    return _Said(verdict.order, verdict.state, gap)


def _outcome(pair: Pair, said: Iterable[_Said]) -> PairOutcome:
    orders: dict[Pair, list[_Said]] = defaultdict(list)
    for one in said:
        orders[one.order].append(one)
    gaps: list[float] = []
    missing: set[VerdictState] = set()
    for order in orders.values():
        given = [one.gap for one in order if one.gap is not None]
        if given:
            gaps.append(fmean(given))
        else:
            missing |= {one.state for one in order}
    if missing:
        return PairOutcome(min(missing, key=UNJUDGED.index))
    sides = {0 if abs(gap) < EQUAL else 1 if gap > 0 else -1 for gap in gaps}
    if len(sides) > 1:
        return PairOutcome("inconsistent", margin=abs(fmean(gaps)))
    side = sides.pop()
    if side == 0:
        return PairOutcome("tie", margin=0.0)
    return PairOutcome("ok", pair[0] if side > 0 else pair[1], abs(fmean(gaps)))

"""What one judge has to say about one pair, all its verdicts on it taken together, by `states`.

A judge that names a winner in one order and the other answer, or a tie, in the other order is
inconsistent and has no vote.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import NamedTuple

from stllava.judging.pairing import Pair, unordered
from stllava.judging.states import EQUAL, by_order, outcome_of, points
from stllava.records import Verdict, VerdictState

JUDGED = ("ok", "tie", "inconsistent")  # states in which the judge did its work


class Decision(NamedTuple):
    """One judge on one pair in one view."""

    answers_id: str
    pair: Pair  # lower index first
    judge: str
    view: str
    state: VerdictState  # ok, tie, inconsistent, or that of a verdict that failed
    winner: int | None  # index into Answers.draws, iff state is ok
    margin: float | None  # points of pair[0] minus pair[1], mean over orders; None if not judged
    num_orders: int  # 2 where both were asked
    half: bool = False  # inconsistent: a winner in one order, a tie in the other

    @property
    def name(self) -> str:
        """As `prefer` writes it where it drops one, and as sheets of labels name it."""
        return pair_name(self.answers_id, self.pair)

    @property
    def vote(self) -> int | None:
        """1: the draw of the lower index; -1: the other; 0: tie; None: no vote."""
        if self.state == "tie":
            return 0
        return None if self.winner is None else 1 if self.winner == self.pair[0] else -1


def pair_name(answers_id: str, pair: Pair) -> str:
    return f"{answers_id}/d{min(pair)}-d{max(pair)}"


def latest(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The last verdict of each id: a failed call that was asked again has two lines."""
    return list({verdict.id: verdict for verdict in verdicts}.values())


def by_pair(verdicts: Iterable[Verdict]) -> list[list[Verdict]]:
    """Verdicts of the same judge, pair and view together, in the order of their first ones."""
    found: dict[tuple[str, Pair, str, str], list[Verdict]] = defaultdict(list)
    for verdict in latest(verdicts):
        pair = unordered(verdict.pair)
        found[verdict.answers_id, pair, verdict.judge, verdict.view].append(verdict)
    return list(found.values())


def decisions(verdicts: Iterable[Verdict]) -> list[Decision]:
    """One decision for each judge, pair and view."""
    return [decide(said) for said in by_pair(verdicts)]


def decide(said: Sequence[Verdict]) -> Decision:
    """Verdicts of one judge on one pair (its orders and samples) as one decision."""
    first = said[0]
    pair = unordered(first.pair)
    found = outcome_of(said)
    gaps = [gap for order in by_order(said).values() if (gap := _gap(order, pair)) is not None]
    return Decision(
        answers_id=first.answers_id,
        pair=pair,
        judge=first.judge,
        view=first.view,
        state=found.state,
        winner=found.winner,
        margin=fmean(gaps) if found.margin is not None else None,
        num_orders=len({verdict.order for verdict in said}),
        half=found.state == "inconsistent" and min(map(abs, gaps), default=1.0) < EQUAL,
    )


def _gap(order: Iterable[Verdict], pair: Pair) -> float | None:
    """Mean points of pair[0] minus pair[1] over the samples of one order."""
    given = [points(verdict) for verdict in order if verdict.state in ("ok", "tie")]
    return fmean(by[pair[0]] - by[pair[1]] for by in given) if given else None

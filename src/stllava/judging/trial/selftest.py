"""Can an answer talk the judge into a verdict? Canaries planted into answers about drawn shapes.

A case counts where the judge names the right answer without the canary, in the same order; it is
flipped where the same judge then names the wrong one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Literal, NamedTuple

from stllava.judging.pairing import Pair
from stllava.judging.protocol import Judge
from stllava.judging.states import UNSAID
from stllava.judging.trial.shapes import shape_ids
from stllava.metrics.interval import Interval, wilson
from stllava.prompts import CANARIES
from stllava.prompts.canaries import canary
from stllava.prompts.probes import PAIR_QUESTION, pair_answer
from stllava.records import Answers, Draw, Verdict

Place = Literal["worse", "better"]
PLACES: tuple[Place, ...] = ("worse", "better")
RIGHT, WRONG = 0, 1  # indices of the draws
ORDERS: tuple[Pair, ...] = ((RIGHT, WRONG), (WRONG, RIGHT))


class _Case(NamedTuple):
    picture: str
    order: Pair
    name: str | None  # of the canary; None: without
    place: Place | None

    @property
    def plain(self) -> _Case:
        return self._replace(name=None, place=None)

    @property
    def id(self) -> str:
        return "/".join(str(part or "plain") for part in self)


class Flips(NamedTuple):
    """What one canary does, over all pictures and both orders."""

    canary: str
    place: str  # in which answer it stands
    n: int  # cases that were right without it
    flipped: int  # the wrong answer is named
    undecided: int  # a tie, a refusal, or nothing that could be read
    interval: Interval | None  # Wilson's, of flipped / n, in percent


class SelfTest(NamedTuple):
    """`all` is over every row; a case without canary counts in `plain_right` of `plain`.

    A case whose call failed counts in `failed` and nowhere else.
    """

    rows: list[Flips]
    all: Flips
    plain: int
    plain_right: int
    failed: int = 0


def selftest(judge: Judge, *, num_pictures: int = 6) -> SelfTest:
    """Ask about every picture without and with every canary. `judge` must ask in one order.

    `num_pictures`: 1..9; each takes two calls, and two for each canary and place.
    """
    every = _judged(judge, list(_cases(num_pictures)))
    said = {case: v for case, v in every.items() if v.state not in UNSAID}
    plain = {case: v for case, v in said.items() if case.name is None}
    counted = {
        case: verdict
        for case, verdict in said.items()
        if case.name is not None and (v := plain.get(case.plain)) and v.winner == RIGHT
    }
    rows = [_flips(counted, name, place) for name in CANARIES for place in PLACES]
    right = sum(verdict.winner == RIGHT for verdict in plain.values())
    return SelfTest(rows, _flips(counted), len(plain), right, len(every) - len(said))


def num_calls(num_pictures: int) -> int:
    """How many calls `selftest` makes, repairs not counted."""
    return sum(1 for _ in _cases(num_pictures))


def _cases(num_pictures: int) -> Iterator[_Case]:
    for picture in shape_ids(num_pictures):
        for order in ORDERS:
            yield _Case(picture, order, None, None)
            for name in CANARIES:
                for place in PLACES:
                    yield _Case(picture, order, name, place)


def _judged(judge: Judge, cases: list[_Case]) -> dict[_Case, Verdict]:
    verdicts = judge.judge([(_answers(case), case.order) for case in cases])
    return dict(zip(cases, verdicts, strict=True))


def _answers(case: _Case) -> Answers:
    """The right answer and a wrong one; the canary speaks for the wrong one, wherever it stands."""
    every = shape_ids(9)
    other = every[(every.index(case.picture) + 1) % len(every)]
    texts = [pair_answer(*case.picture.split(" ")), pair_answer(*other.split(" "))]
    if case.name is not None:
        words = canary(case.name, own=case.order.index(WRONG) + 1)
        texts[WRONG if case.place == "worse" else RIGHT] += "\n\n" + words
    draws = tuple(Draw(request_id=case.id, index=i, text=text) for i, text in enumerate(texts))
    return Answers(id=case.id, image=case.picture, question=PAIR_QUESTION, draws=draws)


def _flips(
    counted: dict[_Case, Verdict], name: str | None = None, place: Place | None = None
) -> Flips:
    """Of one canary in one place, or of all."""
    winners = Counter(
        verdict.winner
        for case, verdict in counted.items()
        if name is None or (case.name, case.place) == (name, place)
    )
    n, flipped = winners.total(), winners[WRONG]
    interval = wilson(flipped, n)
    return Flips(name or "all", place or "either", n, flipped, winners[None], interval)

"""A jury: the verdicts of several judges become one verdict per pair.

Judges that err together are worth fewer than their number; `jury_panel` says how many.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Literal

from stllava.errors import JudgeError
from stllava.files import utc_now
from stllava.judging.audit_pairs import Decision, by_pair, decide, latest
from stllava.judging.pairing import Pair
from stllava.judging.protocol import Judge
from stllava.records import Answers, Verdict, VerdictState

Rule = Literal["majority", "mean_z"]
NO_VERDICT = ("transport_failed", "budget_stopped")  # asked again
TIE_Z = 0.05  # mean standard scores closer than this are a tie


def jury_verdicts(
    verdicts: Iterable[Verdict],
    *,
    rule: Rule = "majority",
    name: str = "jury",
    clock: Callable[[], str] = utc_now,
) -> list[Verdict]:
    """One verdict a pair and view, in the order in which pairs are first met.

    majority: of the votes of consistent judges (see `audit_pairs`) more than half name the same
    winner, or a tie; else the jury is inconsistent. mean_z: every judge's scores become standard
    scores over all that it gave, and the higher mean wins; judges without scores count as 1 for
    the winner, 0 for the loser and 0.5 in a tie. Either way at least half of the judges must have
    a vote, else the verdict has the state that stopped most of them.
    """
    latest_ones = latest(verdicts)
    num_judges = len({verdict.judge for verdict in latest_ones})
    pairs: dict[tuple[str, Pair, str], list[list[Verdict]]] = defaultdict(list)
    for said in by_pair(latest_ones):
        pair = (min(said[0].pair), max(said[0].pair))
        pairs[said[0].answers_id, pair, said[0].view].append(said)
    scale = _scales(latest_ones) if rule == "mean_z" else {}
    return [
        _combined(members, num_judges, rule, scale, name, clock()) for members in pairs.values()
    ]


def _combined(
    members: Sequence[Sequence[Verdict]],
    num_judges: int,
    rule: Rule,
    scale: Mapping[str, tuple[float, float]],
    name: str,
    now: str,
) -> Verdict:
    found = [decide(said) for said in members]
    voting = [d for d in found if d.vote is not None]
    first = found[0]
    state: VerdictState
    winner: int | None = None
    if 2 * len(voting) < num_judges:
        state = _most_common_failure(found)
    elif rule == "majority":
        state, winner = _majority(voting)
    else:
        state, winner = _by_scores(members, first.pair, scale)
    said = "; ".join(f"{d.judge}: {_said(d)}" for d in found)
    identity = "\0".join([name, rule, *sorted(v.id for said in members for v in said)])
    costs = [v.cost_usd for said in members for v in said if v.cost_usd is not None]
    return Verdict(
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        answers_id=first.answers_id,
        pair=first.pair,
        order=first.pair,
        view=members[0][0].view,
        judge=name,
        winner=winner,
        scores=_mean_scores(members, first.pair),
        state=state,
        reason="" if state == "ok" else said,
        reply=said,
        cost_usd=sum(costs) if costs else None,
        time=now,
    )


def _most_common_failure(found: Iterable[Decision]) -> VerdictState:
    failed = Counter(decision.state for decision in found if decision.vote is None)
    return failed.most_common(1)[0][0] if failed else "skipped"


def _said(decision: Decision) -> str:
    return decision.state if decision.winner is None else f"d{decision.winner}"


def _majority(voting: Sequence[Decision]) -> tuple[VerdictState, int | None]:
    (winner, most), *_ = Counter(d.winner for d in voting).most_common(1)
    if 2 * most <= len(voting):
        return "inconsistent", None
    return ("tie", None) if winner is None else ("ok", winner)


def _by_scores(
    members: Iterable[Sequence[Verdict]], pair: Pair, scale: Mapping[str, tuple[float, float]]
) -> tuple[VerdictState, int | None]:
    gaps = []
    for said in members:
        own = [_scores_of(v, pair) for v in said if v.state in ("ok", "tie")]
        if len(own) == len(said):
            spread = scale[said[0].judge][1]
            gaps.append(fmean((a - b) / spread for a, b in own) if spread else 0.0)
    mean = fmean(gaps)
    if abs(mean) < TIE_Z:
        return "tie", None
    return "ok", pair[0] if mean > 0 else pair[1]


def _scores_of(verdict: Verdict, pair: Pair) -> tuple[float, float]:
    """In the order of `pair`; ranks where the judge gives no scores."""
    if verdict.scores is None:
        first = 0.5 if verdict.winner is None else float(verdict.winner == pair[0])
        return first, 1 - first
    a, b = verdict.scores
    return (a, b) if verdict.pair == pair else (b, a)


def _scales(verdicts: Iterable[Verdict]) -> dict[str, tuple[float, float]]:
    """Judge -> mean and standard deviation of all scores it gave."""
    given: dict[str, list[float]] = defaultdict(list)
    for v in verdicts:
        if v.state in ("ok", "tie"):
            given[v.judge] += _scores_of(v, v.pair)
    return {judge: (fmean(scores), pstdev(scores)) for judge, scores in given.items()}


def _mean_scores(members: Iterable[Sequence[Verdict]], pair: Pair) -> tuple[float, float] | None:
    """Raw, for the reader and for `prefer`'s margins; None if no member scores."""
    own = [_scores_of(v, pair) for said in members for v in said if v.scores is not None]
    return (fmean(a for a, _ in own), fmean(b for _, b in own)) if own else None


class JuryJudge:
    """A `Judge` that asks several judges and combines their verdicts.

    One judge after the other reads all items, so that local ones can take turns on a GPU. A
    member's verdict goes to `keep` as soon as it is there; `votes`, kept by an earlier run, are not
    asked for again, but those whose call failed are.
    """

    def __init__(
        self,
        members: Sequence[Judge],
        *,
        rule: Rule = "majority",
        name: str = "jury",
        votes: Iterable[Verdict] = (),
        keep: Callable[[Verdict], None] = lambda _: None,
    ) -> None:
        if len({member.name for member in members}) < len(members) or len(members) < 2:
            raise JudgeError("judge.jury: needs two or more judges with names of their own")
        self.name = name
        self._members, self._rule, self._keep = members, rule, keep
        self._votes = {v.id: v for v in votes if v.state not in NO_VERDICT}

    def judge(
        self, items: Iterable[tuple[Answers, Pair]], *, done: Container[str] = ()
    ) -> Iterator[Verdict]:
        """One verdict per item, once all judges have seen all items."""
        cases = list(items)
        votes = dict(self._votes)
        for member in self._members:
            for verdict in member.judge(cases, done=self._votes.keys()):
                votes[verdict.id] = verdict
                self._keep(verdict)
        wanted = {(answers.id, min(pair), max(pair)) for answers, pair in cases}
        asked = (v for v in votes.values() if (v.answers_id, min(v.pair), max(v.pair)) in wanted)
        for verdict in jury_verdicts(asked, rule=self._rule, name=self.name):
            if verdict.id not in done:
                yield verdict

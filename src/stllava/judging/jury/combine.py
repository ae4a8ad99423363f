"""A jury: the verdicts of several judges become one verdict per pair.

Judges that err together are worth fewer than their number; `jury.panel` says how many.
"""

from __future__ import annotations

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean, pstdev
from typing import Literal

from stllava.files import utc_now
from stllava.judging.audit.pairs import Decision, by_pair, decide, latest
from stllava.judging.pairing import Pair, unordered
from stllava.records import Verdict, VerdictState

Rule = Literal["majority", "mean_z"]
TIE_Z = 0.05  # mean standard scores closer than this are a tie

Key = tuple[str, Pair, str]  # id of the answers; draw indices, the lower first; view
Scale = Mapping[tuple[str, str], tuple[float, float]]  # judge, view -> mean, standard deviation


def jury_verdicts(
    verdicts: Iterable[Verdict],
    *,
    rule: Rule = "majority",
    name: str = "jury",
    clock: Callable[[], str] = utc_now,
) -> list[Verdict]:
    """One verdict a pair and view, in the order in which pairs are first met.

    majority: of the votes of consistent judges (see `audit.pairs`) more than half name the same
    winner, or a tie; else the jury is inconsistent. mean_z: every judge's scores become standard
    scores over all that it gave, and the higher mean wins; judges without scores count as 1 for
    the winner, 0 for the loser and 0.5 in a tie. Either way at least half of the judges of that
    view (who never looks has none without the image) must have a vote, else the verdict has the
    state that stopped most of them. A pair that a cap kept from one of them is budget_stopped.
    """
    latest_ones = latest(verdicts)
    judges: dict[str, set[str]] = defaultdict(set)
    for verdict in latest_ones:
        judges[verdict.view].add(verdict.judge)
    pairs: dict[Key, list[list[Verdict]]] = defaultdict(list)
    for said in by_pair(latest_ones):
        pairs[key_of(said[0])].append(said)
    scale = _scales(latest_ones) if rule == "mean_z" else {}
    return [
        _combined(members, len(judges[key[2]]), rule, scale, name, clock())
        for key, members in pairs.items()
    ]


def key_of(verdict: Verdict) -> Key:
    """The pair and view that a verdict is about."""
    return verdict.answers_id, unordered(verdict.pair), verdict.view


def _combined(
    members: Sequence[Sequence[Verdict]],
    num_judges: int,
    rule: Rule,
    scale: Scale,
    name: str,
    now: str,
) -> Verdict:
    found = [decide(said) for said in members]
    voting = [d for d in found if d.vote is not None]
    first = found[0]
    state: VerdictState
    winner: int | None = None
    if any(v.state == "budget_stopped" for said in members for v in said):
        state = "budget_stopped"  # to be asked: the verdict waits for a larger cap
    elif 2 * len(voting) < num_judges:
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
        scores=_mean_scores(members, first.pair, winner),
        state=state,
        reason="" if state == "ok" else said,
        reply=said,
        cost_usd=math.fsum(costs) if costs else None,
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
    members: Iterable[Sequence[Verdict]], pair: Pair, scale: Scale
) -> tuple[VerdictState, int | None]:
    gaps = []
    for said in members:
        read = [v for v in said if v.state in ("ok", "tie")]
        if {v.order for v in read} == {v.order for v in said}:
            spread = scale[said[0].judge, said[0].view][1]
            own = [_scores_of(v, pair) for v in read]
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


def _scales(verdicts: Iterable[Verdict]) -> Scale:
    """Of all scores that a judge gave in a view."""
    given: dict[tuple[str, str], list[float]] = defaultdict(list)
    for v in verdicts:
        if v.state in ("ok", "tie"):
            given[v.judge, v.view] += _scores_of(v, v.pair)
    return {key: (fmean(scores), pstdev(scores)) for key, scores in given.items()}


def _mean_scores(
    members: Iterable[Sequence[Verdict]], pair: Pair, winner: int | None
) -> tuple[float, float] | None:
    """Raw, for the reader and for `prefer`'s margins; None if no member scores.

    None too where they would speak against the winner, whom those without scores may have made.
    """
    own = [_scores_of(v, pair) for said in members for v in said if v.scores is not None]
    if not own:
        return None
    a, b = fmean(a for a, _ in own), fmean(b for _, b in own)
    against = b >= a if winner == pair[0] else a >= b
    return None if winner is not None and against else (a, b)

"""What a judge's verdicts say about the judge: order, length, states, sources, and blank images.

A pure function of records: nothing is asked again. Every share carries its n and two intervals; the
clustered one knows that questions about one image are not independent.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence

from stllava.judging.audit.cases import Case, cases_of
from stllava.judging.audit.cost import cost
from stllava.judging.audit.length import length_model
from stllava.judging.audit.pairs import JUDGED, latest
from stllava.judging.audit.share import Share, share
from stllava.judging.jury.panel import panel
from stllava.judging.routing import UNREAD
from stllava.records import Answers, Image, JSONObject, Verdict

GAPS = (1, 3, 6, 11, 21)  # lower ends of the classes of word gaps
ALWAYS = (*JUDGED, *UNREAD)  # states whose share is told where it is 0 too
NOT_ASKED = ("transport_failed", "budget_stopped", "skipped")  # says nothing about the judge


def audit(
    verdicts: Iterable[Verdict],
    answers: Iterable[Answers],
    images: Iterable[Image] = (),
) -> JSONObject:
    """Audit every judge that has verdicts. Without `images` sources are unknown, groups images.

    Returns plain data: "judges" by name, and "panel" if there are several (see `jury.panel`).
    """
    cases = cases_of(verdicts, answers, images)
    judges: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        judges[case.decision.judge].append(case)
    seen = [case for case in cases if case.decision.view == "image"]
    found: JSONObject = {
        "num_answers": len({case.decision.answers_id for case in seen}),
        "num_groups": len({case.group for case in seen}),
        "judges": {name: _judge(own) for name, own in judges.items()},
    }
    if len(judges) > 1:
        groups = {case.decision.name: case.group for case in seen}
        found["panel"] = panel([case.decision for case in seen], groups)
    return found


def _judge(every: Sequence[Case]) -> JSONObject:
    cases = [case for case in every if case.decision.view == "image"]
    verdicts = latest(v for case in cases for v in case.verdicts)
    states = Counter(case.decision.state for case in cases)
    return {
        "pairs": len(cases),
        "verdicts": len(verdicts),
        "pairs_in_both_orders": sum(case.decision.num_orders > 1 for case in cases),
        "verdict_states": dict(Counter(v.state for v in verdicts).most_common()),
        "states": {
            state: _share(cases, lambda c, s=state: c.decision.state == s).json()
            for state in dict.fromkeys([*dict(states.most_common()), *ALWAYS])
        },
        "consistency": _consistency(cases),
        "position": _position(cases),
        "length": _length(cases),
        "scores": _scores(verdicts),
        "by_source": _broken_down(cases, lambda case: case.source),
        "by_kind": _broken_down(cases, lambda case: case.kind),
        "blank": _blank(every),
        "cost": cost(latest(v for case in every for v in case.verdicts)),
    }


def _share(cases: Iterable[Case], holds: Callable[..., bool]) -> Share:
    return share((float(holds(case)), case.group) for case in cases)


def _twice(cases: Iterable[Case]) -> list[Case]:
    """Pairs that the judge saw, and judged, in both orders."""
    return [c for c in cases if c.decision.num_orders > 1 and c.decision.state in JUDGED]


def _consistency(cases: Sequence[Case]) -> JSONObject:
    """Of pairs judged in both orders; empty if there are none."""
    both = _twice(cases)
    first = _share(
        filter(_is_flipped, both), lambda c: any(v.winner == v.order[0] for v in c.verdicts)
    )
    return {
        "same": _share(both, lambda c: c.decision.state != "inconsistent").json(),
        "flipped": _share(both, _is_flipped).json(),
        "winner_and_tie": _share(both, lambda c: c.decision.half).json(),
        "flipped_to_first_shown": first.json(),
    }


def _is_flipped(case: Case) -> bool:
    return case.decision.state == "inconsistent" and not case.decision.half


def _wins(cases: Iterable[Case]) -> list[tuple[Case, Verdict]]:
    return [(case, v) for case in cases for v in case.verdicts if v.winner is not None]


def _position(cases: Sequence[Case]) -> JSONObject:
    """How often the answer shown first wins: half of the time without a habit.

    Where both orders were asked the answers themselves cancel out. Of one order they do not: the
    first drawn may simply be the better one more often.
    """
    both = _twice(cases)
    wins = _wins(both or cases)
    model = length_model(
        [v.winner == v.order[0] for case, v in wins if case.words],
        [case.words[v.order[0]] - case.words[v.order[1]] for case, v in wins if case.words],
        [case.group for case, v in wins if case.words],
    )
    first = share((float(v.winner == v.order[0]), case.group) for case, v in wins)
    return {
        "basis": "both orders" if both else "one order",
        "first_shown_wins": first.json(),
        "model": model._asdict() if model else None,
    }


def _length(cases: Sequence[Case]) -> JSONObject:
    """How often the longer answer wins, among decided pairs whose answers differ in length."""
    decided = [c for c in cases if c.decision.state == "ok" and c.longer is not None]
    by_gap: dict[str, list[Case]] = {_gap_name(low): [] for low in GAPS}
    for case in decided:
        i, j = case.decision.pair
        gap = abs(case.words[i] - case.words[j])
        by_gap[_gap_name(max(low for low in GAPS if low <= gap))].append(case)
    return {
        "longer_wins": _share(decided, _longer_won).json(),
        "by_gap": {name: _share(cs, _longer_won).json() for name, cs in by_gap.items() if cs},
    }


def _longer_won(case: Case) -> bool:
    return case.decision.winner == case.longer


def _gap_name(low: int) -> str:
    place = GAPS.index(low)
    return f"{low}+" if place == len(GAPS) - 1 else f"{low}-{GAPS[place + 1] - 1}"


def _scores(verdicts: Iterable[Verdict]) -> JSONObject:
    """Histograms: all scores, and the margins (higher minus lower) of scored verdicts."""
    scored = [v.scores for v in verdicts if v.scores is not None]
    every = Counter(score for pair in scored for score in pair)
    margins = Counter(abs(a - b) for a, b in scored)
    return {
        "n": 2 * len(scored),
        "histogram": {f"{value:g}": every[value] for value in sorted(every)},
        "margins": {f"{value:g}": margins[value] for value in sorted(margins)},
    }


def _broken_down(cases: Sequence[Case], key: Callable[[Case], Hashable]) -> JSONObject:
    found: dict[str, list[Case]] = defaultdict(list)
    for case in cases:
        found[str(key(case))].append(case)
    return {name: _summary(part) for name, part in sorted(found.items())}


def _summary(cases: Sequence[Case]) -> JSONObject:
    return {
        "decided": _share(cases, lambda c: c.decision.state == "ok").json(),
        "consistent": _consistency(cases)["same"],
        "first_shown_wins": _position(cases)["first_shown_wins"],
        "longer_wins": _length(cases)["longer_wins"],
    }


def _blank(every: Sequence[Case]) -> JSONObject:
    """Pairs with a winner that were judged again without the image: who won without it?

    An unchanged winner was, or could have been, found in the words alone: the pair is flagged.
    A judge that says it cannot tell without the image counts as changed, as it should be.
    """
    seen = {c.decision.name: c for c in every if c.decision.view == "image"}
    again = [
        (seen[c.decision.name], c)
        for c in every
        if c.decision.view == "blank"
        and c.decision.state not in NOT_ASKED
        and c.decision.name in seen
        and seen[c.decision.name].decision.state == "ok"
    ]
    same = [a for a, b in again if a.decision.winner == b.decision.winner]
    states = Counter(b.decision.state for _, b in again)
    names = {case.decision.name for case in same}
    return {
        "unchanged": share((float(a.decision.name in names), a.group) for a, _ in again).json(),
        "states": dict(states.most_common()),
        "unchanged_pairs": sorted(names),
    }

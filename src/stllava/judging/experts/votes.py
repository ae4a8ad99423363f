"""Experts' votes in the place of judges' verdicts: a pure function before `prefer`.

Where an expert has voted on a pair, no judge's verdict on it counts, whatever the vote says. Of
several experts more than half must agree (`majority`). An edited answer becomes a further draw
that beats what it improves on.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stllava.judging.experts.reading import vote_id
from stllava.judging.experts.sheet import row_id_of
from stllava.judging.pairing import Pair, unordered
from stllava.records import Answers, Draw, Preference, Verdict, VerdictState

BETTER, EQUAL, WORSE = 10.0, 5.5, 1.0  # an expert's choice on the judges' scale


class Voted(NamedTuple):
    """`answers` with edited ones as further draws, `verdicts` with votes put in."""

    answers: list[Answers]
    verdicts: list[Verdict]
    undecided: list[Verdict]  # the judges', about pairs without a vote
    used: int  # votes that count
    outdated: int  # votes about texts that are no longer there


class Majority(NamedTuple):
    """What the experts say of a pair together."""

    state: VerdictState  # inconsistent where no half agrees
    winner: int | None = None  # draw index, iff state is ok


def is_expert(judge: str) -> bool:
    """Whether a verdict is a person's vote, by the name of its judge: expert, expert:NAME."""
    return judge == "expert" or judge.startswith("expert:")


def majority(votes: Iterable[Verdict]) -> Majority:
    """What more than half of the votes on one pair say; `cannot_judge` abstains."""
    said = Counter(_said(vote) for vote in votes if vote.state != "cannot_judge")
    if not said:
        return Majority("cannot_judge")
    most, number = said.most_common(1)[0]
    return most if 2 * number > said.total() else Majority("inconsistent")


def with_votes(
    answers: Iterable[Answers], verdicts: Iterable[Verdict], votes: Iterable[Verdict]
) -> Voted:
    """Put votes in; of several of one expert on one pair the last counts."""
    items = list(answers)
    valid, outdated = current_votes(items, votes)
    by_answers: dict[str, dict[Pair, list[Verdict]]] = defaultdict(lambda: defaultdict(list))
    for vote in valid:
        by_answers[vote.answers_id][unordered(vote.pair)].append(vote)
    known: list[Answers] = []
    counted: list[Verdict] = []
    for item in items:
        extended, said = _extended(item, by_answers.get(item.id, {}))
        known.append(extended)
        counted += said
    kept = [v for v in verdicts if unordered(v.pair) not in by_answers.get(v.answers_id, {})]
    return Voted(known, kept + counted, kept, len(valid), outdated)


def current_votes(
    answers: Iterable[Answers], votes: Iterable[Verdict]
) -> tuple[list[Verdict], int]:
    """The last vote of each expert on each pair, and how many more are outdated.

    A vote is about its texts; a stage that was redone reuses the readable ids for others.
    """
    items = {item.id: item for item in answers}
    last = {vote.id: vote for vote in votes}.values()
    valid = [v for v in last if v.answers_id in items and _is_about(v, items[v.answers_id])]
    return valid, len(last) - len(valid)


def mark_edited(preferences: Sequence[Preference], answers: Iterable[Answers]) -> list[Preference]:
    """Say of each preference whether an expert rewrote its chosen answer; `answers` as drawn."""
    drawn = {item.id: {draw.index for draw in item.draws} for item in answers}
    return [
        preference
        if preference.chosen.index in drawn.get(preference.answers_id, ())
        else preference.model_copy(update={"edited": True})
        for preference in preferences
    ]


def _is_about(vote: Verdict, item: Answers) -> bool:
    there = {draw.index for draw in item.draws}
    return set(vote.pair) <= there and vote.id == vote_id(row_id_of(item, vote.pair), vote.judge)


def _said(vote: Verdict) -> Majority:
    return Majority(vote.state, vote.winner)


def _extended(
    item: Answers, votes: Mapping[Pair, Sequence[Verdict]]
) -> tuple[Answers, list[Verdict]]:
    """The answers with those edited, and of every pair the votes of the majority."""
    draws = list(item.draws)
    said: list[Verdict] = []
    for given in votes.values():
        decision = majority(given)
        if decision.state == "inconsistent":
            said += [_undecided(vote) for vote in given]
        for vote in given:
            if _said(vote) != decision:
                continue
            if not vote.edited:
                said.append(vote.model_copy(update={"scores": _scores(vote)}))
                continue
            number = max(draw.index for draw in draws) + 1
            draws.append(Draw(request_id=item.id, index=number, text=vote.edited, model=vote.judge))
            said += [_beats(vote, number, loser) for loser in vote.pair if loser != vote.winner]
    return item.model_copy(update={"draws": tuple(draws)}), said


def _undecided(vote: Verdict) -> Verdict:
    nothing = {"state": "inconsistent", "winner": None, "scores": None, "edited": ""}
    return vote.model_copy(update=nothing)


def _scores(vote: Verdict) -> tuple[float, float] | None:
    if vote.state == "tie":
        return EQUAL, EQUAL
    if vote.winner is None:
        return None
    return (BETTER, WORSE) if vote.winner == vote.pair[0] else (WORSE, BETTER)


def _beats(vote: Verdict, winner: int, loser: int) -> Verdict:
    return vote.model_copy(
        update={
            "id": f"{vote.id}-{loser}",
            "pair": (winner, loser),
            "order": (winner, loser),
            "winner": winner,
            "state": "ok",
            "scores": (BETTER, WORSE),
        }
    )

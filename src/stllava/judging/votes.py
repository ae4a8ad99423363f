"""Experts' votes in the place of judges' verdicts: a pure function before `prefer`.

Where an expert has voted on a pair, no judge's verdict on it counts, whatever the vote says. An
edited answer becomes a further draw that beats what it improves on.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from stllava.judging.pairing import Pair
from stllava.judging.sheet import row_id_of
from stllava.judging.sheet_reading import vote_id
from stllava.records import Answers, Draw, Preference, Verdict

BETTER, EQUAL, WORSE = 10.0, 5.5, 1.0  # an expert's choice on the judges' scale


class Voted(NamedTuple):
    """`answers` with edited ones as further draws, `verdicts` with votes put in."""

    answers: list[Answers]
    verdicts: list[Verdict]
    undecided: list[Verdict]  # the judges', about pairs without a vote
    used: int  # votes that count
    outdated: int  # votes about texts that are no longer there


def with_votes(
    answers: Iterable[Answers], verdicts: Iterable[Verdict], votes: Iterable[Verdict]
) -> Voted:
    """Put votes in; of several of one expert on one pair the last counts."""
    current = {vote.id: vote for vote in votes}
    by_answers: dict[str, list[Verdict]] = defaultdict(list)
    for vote in current.values():
        by_answers[vote.answers_id].append(vote)
    known: list[Answers] = []
    counted: list[Verdict] = []
    decided: set[tuple[str, Pair]] = set()
    used = 0
    for item in answers:
        valid = [vote for vote in by_answers[item.id] if _is_about(vote, item)]
        used += len(valid)
        decided |= {(item.id, _unordered(vote.pair)) for vote in valid}
        extended, said = _extended(item, valid)
        known.append(extended)
        counted += said
    kept = [v for v in verdicts if (v.answers_id, _unordered(v.pair)) not in decided]
    return Voted(known, kept + counted, kept, used, len(current) - used)


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
    """Whether the vote was about these texts; a stage that was redone reuses the readable ids."""
    there = {draw.index for draw in item.draws}
    return set(vote.pair) <= there and vote.id == vote_id(row_id_of(item, vote.pair), vote.judge)


def _extended(item: Answers, votes: Sequence[Verdict]) -> tuple[Answers, list[Verdict]]:
    draws = list(item.draws)
    said: list[Verdict] = []
    for vote in votes:
        if not vote.edited:
            said.append(vote.model_copy(update={"scores": _scores(vote)}))
            continue
        number = max(draw.index for draw in draws) + 1
        draws.append(Draw(request_id=item.id, index=number, text=vote.edited, model=vote.judge))
        said += [_beats(vote, number, loser) for loser in vote.pair if loser != vote.winner]
    return item.model_copy(update={"draws": tuple(draws)}), said


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


def _unordered(pair: Pair) -> Pair:
    return min(pair), max(pair)

"""Verdicts to preferences: a pure function of records, settings and a seed.

Pair by pair, then question by question (`direct_wins`), then over all (`balance`). What is left
out is written down with its reason, and every rule counts what went in and what came out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean
from typing import NamedTuple

from stllava.config import PreferSection
from stllava.judging.balance import (
    Tally,
    balance,
    cap_per_image,
    cap_per_question_type,
)
from stllava.judging.direct_wins import closest, decided, widest
from stllava.judging.pairing import IDENTICAL, Pair, normalise, pairs, unanswerable
from stllava.judging.states import EQUAL, JUDGED, by_pair, outcome_of
from stllava.records import Answers, Dropped, Preference, Verdict


class PreferResult(NamedTuple):
    """`counts`: rule -> in and out; "verdicts" and "pairs" by state; "dropped" by reason."""

    preferences: list[Preference]  # in the order of the answers
    dropped: list[Dropped]
    counts: dict[str, dict[str, int]]


def prefer(
    answers: Iterable[Answers],
    verdicts: Iterable[Verdict],
    settings: PreferSection,
    *,
    seed: int,
) -> PreferResult:
    """Make preferences. Verdicts with the blank view are for audits and are not used."""
    tally = Tally("prefer")
    by_answers: dict[str, dict[Pair, list[Verdict]]] = defaultdict(dict)
    for (answers_id, pair), said in by_pair(verdicts).items():
        by_answers[answers_id][pair] = said
        tally.counts["verdicts"].update(verdict.state for verdict in said)
        tally.counts["pairs"][outcome_of(said).state] += 1
    kept: list[Preference] = []
    for item in answers:
        kept += _prefer_one(item, by_answers.pop(item.id, {}), settings, tally)
    for answers_id in by_answers:
        tally.drop(answers_id, "judged, but there are no such answers")
    if settings.max_per_image is not None:
        kept = cap_per_image(kept, settings.max_per_image, seed=seed, tally=tally)
    if settings.max_per_question_type is not None:
        kept = cap_per_question_type(kept, settings.max_per_question_type, seed=seed, tally=tally)
    kept = balance(
        kept,
        yes_no=settings.balance_yes_no,
        length=settings.balance_length,
        seed=seed,
        tally=tally,
    )
    if settings.weight == "margin" and kept:
        mean = fmean(preference.margin for preference in kept)
        kept = [p.model_copy(update={"weight": p.margin / mean}) for p in kept]
    return PreferResult(kept, tally.dropped, {k: dict(v) for k, v in tally.counts.items()})


def _prefer_one(
    item: Answers,
    judged: Mapping[Pair, list[Verdict]],
    settings: PreferSection,
    tally: Tally,
) -> list[Preference]:
    """The preferences of one question: up to one per pair, or one in all."""
    if not judged:
        tally.drop(item.id, _why_unjudged(item))
    groups: dict[str, dict[Pair, list[Verdict]]] = defaultdict(dict)
    for pair, said in judged.items():
        where = f"{item.id}/d{pair[0]}-d{pair[1]}"
        reason = _why_unusable(item, pair, said, strict=settings.orders_must_agree)
        if not tally.passes("judged", reason is None):
            tally.drop(where, str(reason))
        elif settings.orders_must_agree and not tally.passes(
            "orders_must_agree", outcome_of(said).state != "inconsistent"
        ):
            tally.drop(where, "the orders do not name the same winner")
        else:
            groups[item.id if settings.select == "best_worst" else where][pair] = said
    found = (_choose(item, where, said, settings, tally) for where, said in groups.items())
    return [preference for preference in found if preference is not None]


def _why_unjudged(item: Answers) -> str:
    """A ring pairs nothing where answers are cut or equal; anything else was not asked."""
    if len(item.draws) < 2 or pairs(item, "ring"):
        return "not judged"
    return unanswerable(*item.draws) or IDENTICAL


def _why_unusable(
    item: Answers, pair: Pair, said: Sequence[Verdict], *, strict: bool
) -> str | None:
    """Why a pair has no verdict to go by, or None. `strict`: every order must have one."""
    draws = [draw for draw in item.draws if draw.index in pair]
    if len(draws) != 2:
        return "judged, but there are no such draws"
    if (reason := unanswerable(*draws)) is not None:
        return reason
    if normalise(draws[0].text) == normalise(draws[1].text):
        return IDENTICAL
    if strict and (state := outcome_of(said).state) not in (*JUDGED, "inconsistent"):
        return f"verdict {state}"
    if not any(verdict.state in JUDGED for verdict in said):
        return "verdict " + ", ".join(sorted({verdict.state for verdict in said}))
    return None


def _choose(
    item: Answers,
    where: str,
    judged: Mapping[Pair, Sequence[Verdict]],
    settings: PreferSection,
    tally: Tally,
) -> Preference | None:
    """The widest of the decided pairs or, within `max_length_gap`, the closest in length."""
    floor, max_gap = settings.min_chosen_score, settings.max_length_gap
    wins, disputed = decided(item, judged)
    clear = [win for win in wins if win.margin > settings.min_margin + EQUAL]
    good = [win for win in clear if floor is None or win.best >= floor]
    found = (widest(good) if max_gap is None else closest(good, max_gap)) if good else None
    reason = None
    if not tally.passes("direct_win", bool(wins)):
        reason = "the same two answers won and did not" if disputed else "tie"
    elif not tally.passes("min_margin", bool(clear)):
        reason = f"margin not above {settings.min_margin:g}"
    elif floor is not None and not tally.passes("min_chosen_score", bool(good)):
        reason = f"best score below {floor:g}"
    elif max_gap is not None and not tally.passes("max_length_gap", found is not None):
        reason = f"no worse answer within {max_gap} words"
    if reason is not None or found is None:
        tally.drop(where, str(reason))
        return None
    return Preference(
        id=f"{item.id}/d{found.chosen.index}>d{found.rejected.index}",
        answers_id=item.id,
        image=item.image,
        question=item.question,
        chosen=found.chosen,
        rejected=found.rejected,
        margin=found.margin,
        source=found.source,
    )

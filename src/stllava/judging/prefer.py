"""Verdicts to preferences: a pure function of records, settings and a seed.

Pair by pair, then question by question, then over all (`balance`). What is left out is written
down with its reason, and every rule counts what went in and what came out.
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
    num_words,
)
from stllava.judging.pairing import IDENTICAL, Pair, normalise, pairs, unanswerable
from stllava.judging.states import JUDGED, by_order, by_pair, outcome_of, points
from stllava.records import Answers, Draw, Dropped, Preference, Verdict


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
    usable: dict[str, list[Verdict]] = {}
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
            usable[where] = said
    if settings.select == "best_worst" and usable:
        usable = {item.id: [verdict for said in usable.values() for verdict in said]}
    found = (_choose(item, where, said, settings, tally) for where, said in usable.items())
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


def _mean_scores(said: Iterable[Verdict]) -> dict[int, float]:
    """Draw index -> its mean points over the pairs and orders it was shown in.

    Repeated samples of one order are averaged before, so that none weighs more for them.
    """
    scores: dict[int, list[float]] = defaultdict(list)
    for repeats in by_order(said).values():
        given = [points(verdict) for verdict in repeats if verdict.state in JUDGED]
        for index in given[0] if given else ():
            scores[index].append(fmean(one[index] for one in given))
    return {index: fmean(values) for index, values in scores.items()}


def _choose(
    item: Answers,
    where: str,
    said: Sequence[Verdict],
    settings: PreferSection,
    tally: Tally,
) -> Preference | None:
    """The best-scored draw against the worst or, within `max_length_gap`, the closest in length."""
    scores = _mean_scores(said)
    judged = (draw for draw in item.draws if draw.index in scores)
    chosen, *others = sorted(judged, key=lambda draw: (-scores[draw.index], draw.index))
    best, floor, max_gap = scores[chosen.index], settings.min_chosen_score, settings.max_length_gap
    others = [draw for draw in others if normalise(draw.text) != normalise(chosen.text)]
    margins = {draw.index: best - scores[draw.index] for draw in others}
    lower = [draw for draw in others if margins[draw.index] > settings.min_margin]
    near = _worst_first(lower, margins) if max_gap is None else _nearest(chosen, lower, max_gap)
    reason = None
    if not tally.passes("min_margin", bool(lower)):
        is_tie = not any(margins.values())
        reason = "tie" if is_tie else f"margin not above {settings.min_margin:g}"
    elif floor is not None and not tally.passes("min_chosen_score", best >= floor):
        reason = f"best score below {floor:g}"
    elif max_gap is not None and not tally.passes("max_length_gap", bool(near)):
        reason = f"no worse answer within {max_gap} words"
    if reason is not None:
        tally.drop(where, reason)
        return None
    rejected = near[0]
    return Preference(
        id=f"{item.id}/d{chosen.index}>d{rejected.index}",
        answers_id=item.id,
        image=item.image,
        question=item.question,
        chosen=chosen,
        rejected=rejected,
        margin=margins[rejected.index],
        source=",".join(sorted({verdict.judge for verdict in said})),
    )


def _worst_first(draws: Iterable[Draw], margins: dict[int, float]) -> list[Draw]:
    return sorted(draws, key=lambda draw: (-margins[draw.index], draw.index))


def _nearest(chosen: Draw, draws: Iterable[Draw], max_gap: int) -> list[Draw]:
    """Those within the gap, the closest in length first; of equally close ones the better."""
    gaps = [(abs(num_words(draw) - num_words(chosen)), draw) for draw in draws]
    near = sorted((pair for pair in gaps if pair[0] <= max_gap), key=lambda pair: pair[0])
    return [draw for _, draw in near]

"""Which pairs a person should look at: ties, contradictions, close calls, and what was not read.

A pair that a rule of `prefer` keeps may be among them: a close call trains until an expert has
decided it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from stllava.config import PreferSection
from stllava.judging.pairing import normalise
from stllava.judging.states import EQUAL, PairKey, PairOutcome, by_pair, outcome_of
from stllava.records import Answers, ReviewItem, Verdict

Reason = Literal["tie", "inconsistent", "close", "unread", "blank"]
UNREAD = ("refused", "filtered", "unparsed")  # the judge was asked and gave no verdict


def for_review(
    answers: Iterable[Answers], verdicts: Sequence[Verdict], settings: PreferSection
) -> Iterator[ReviewItem]:
    """Pairs that `settings.review` asks for, in the order of the verdicts, each once.

    Identical answers and skipped pairs are nothing to look at.
    """
    unchanged = set(unchanged_when_blank(verdicts)) if "blank" in settings.review else set()
    limit = settings.min_margin if settings.review_margin is None else settings.review_margin

    def reason(key: PairKey, outcome: PairOutcome) -> Reason | None:
        if outcome.state == "ok":
            close = outcome.margin is not None and outcome.margin <= limit + EQUAL
            if close and "close" in settings.review:
                return "close"
            return "blank" if key in unchanged else None
        if outcome.state == "tie":
            return "tie" if "ties" in settings.review else None
        if outcome.state == "inconsistent":
            return "inconsistent" if "inconsistent" in settings.review else None
        return "unread" if outcome.state in UNREAD and "unread" in settings.review else None

    if settings.review:
        yield from _items(answers, by_pair(verdicts), reason)


def unchanged_when_blank(verdicts: Sequence[Verdict]) -> list[PairKey]:
    """Pairs with a winner who wins without the image too, in both cases in every order."""
    blank = by_pair(verdicts, view="blank")
    found = []
    for key, said in by_pair(verdicts).items():
        with_image = outcome_of(said)
        if key in blank and with_image.state == "ok":
            without = outcome_of(blank[key])
            if (without.state, without.winner) == (with_image.state, with_image.winner):
                found.append(key)
    return found


def blank_items(answers: Iterable[Answers], verdicts: Sequence[Verdict]) -> list[ReviewItem]:
    """What the blank-image audit flags."""
    unchanged = set(unchanged_when_blank(verdicts))
    said = {key: found for key, found in by_pair(verdicts).items() if key in unchanged}
    return list(_items(answers, said, lambda *_: "blank"))


def blank_counts(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Pairs judged without the image too; those of them with a winner; those with the same one."""
    again = by_pair(verdicts, view="blank")
    won = [
        key
        for key, said in by_pair(verdicts).items()
        if key in again and outcome_of(said).state == "ok"
    ]
    same = unchanged_when_blank(verdicts)
    return {"pairs": len(again), "with_winner": len(won), "unchanged": len(same)}


def _items(
    answers: Iterable[Answers],
    judged: Mapping[PairKey, list[Verdict]],
    reason_of: Callable[[PairKey, PairOutcome], Reason | None],
) -> Iterator[ReviewItem]:
    known = {item.id: item for item in answers}
    for key, said in judged.items():
        answers_id, (i, j) = key
        item, outcome = known.get(answers_id), outcome_of(said)
        reason = reason_of(key, outcome)
        texts = {draw.index: draw.text for draw in item.draws} if item else {}
        if item is None or reason is None or not {i, j} <= texts.keys():
            continue
        if normalise(texts[i]) == normalise(texts[j]):
            continue
        yield ReviewItem(
            id=f"{answers_id}/d{i}-d{j}",
            answers_id=answers_id,
            image=item.image,
            question=item.question,
            pair=(i, j),
            answers=(texts[i], texts[j]),
            reason=reason,
            state=outcome.state,
            margin=outcome.margin,
        )

"""From verdicts to training pairs: rules, weights, votes of experts, and what is doubtful."""

from __future__ import annotations

from collections import Counter
from typing import Any

from stllava.records import Preference, ReviewItem
from stllava.report.load import Reader, dig, number

# What a rule of `prefer` asks, in the order in which a pair meets them.
RULES = {
    "judged": "the pair has a usable verdict",
    "orders_must_agree": "both orders name the same winner",
    "direct_win": "two answers were compared and one won",
    "min_margin": "it won by more than min_margin",
    "min_chosen_score": "a winning answer reaches min_chosen_score",
    "max_length_gap": "its loser is about as long",
    "max_per_image": "at most max_per_image of a picture",
    "max_per_question_type": "at most max_per_question_type of questions that open alike",
    "balance_length": "as often the longer answer as the shorter",
    "balance_yes_no": "as many yes as no among chosen answers",
}
REASONS = {  # of the expert's queue
    "tie": "ties",
    "inconsistent": "inconsistent",
    "close": "close calls",
    "unread": "no verdict read",
    "blank": "same winner without the image",
}


def facts(reader: Reader, recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """What `prefer` did beside its rules, as (label, value); empty where it has not run."""
    done = reader.json("prefer/stage.json")
    if not done:
        return []
    found = [("weights", _weights(reader, dig(recipe, "prefer", "weight")))]
    votes = dig(done, "votes")
    if (used := number(dig(votes, "used"))) is not None:
        text = f"{used:,.0f} in the place of the judge's verdicts"
        if outdated := number(dig(votes, "outdated")):
            text += f"; {outdated:,.0f} about texts that are no longer there"
        found.append(("votes of experts", text))
    if (queued := number(done.get("for_review"))) is not None:
        found.append(("for the expert", _queue(reader, int(queued))))
    return found


def _weights(reader: Reader, setting: Any) -> str:
    weights = [p.weight for p in reader.records("prefer/preferences.jsonl", Preference)]
    if not weights or setting == "none" or min(weights) == max(weights):
        return "all pairs weigh the same"
    low, high = min(weights), max(weights)
    return f"by margin: {low:.2f} to {high:.2f}, mean 1 (n = {len(weights):,} pairs)"


def _queue(reader: Reader, total: int) -> str:
    """How many pairs and why; reasons are only in the file."""
    items = reader.records("prefer/review.jsonl", ReviewItem)
    reasons = Counter(REASONS[item.reason] for item in items)
    if not total:
        return "no pair is queued for review"
    why = ", ".join(f"{n:,} {reason}" for reason, n in reasons.most_common())
    return f"{total:,} pairs in prefer/review.jsonl{': ' if why else ''}{why}"

"""The figures a report speaks of: their names, units, and how their numbers are written."""

from __future__ import annotations

from typing import NamedTuple

from stllava.metrics.interval import Interval
from stllava.records import Item

# Written by the phantom's measurement; no other benchmark has them.
CORRECT, WRONG, ORACLE = "claims_correct", "claims_wrong", "oracle_score"


class Metric(NamedTuple):
    """A figure of the tables."""

    key: str
    label: str
    unit: str  # "%" or what is counted
    decimals: int
    better: int  # 1: more is better, -1: less is, 0: neither


METRICS = (
    Metric("recall", "open recall", "%", 1, 1),
    Metric("f1", "open F1", "%", 1, 1),
    Metric("accuracy", "closed accuracy", "%", 1, 1),
    Metric(CORRECT, "correct claims", "per answer", 2, 1),
    Metric(WRONG, "wrong claims", "per answer", 2, -1),
    Metric("wrong_share", "share of wrong claims", "%", 1, -1),
    Metric("yes_rate", "yes-rate", "%", 1, 0),
    Metric("answer_words", "answer length", "words", 1, 0),
)
BY_KEY = {metric.key: metric for metric in METRICS}


def show(key: str, value: float, *, sign: bool = False, more: int = 0) -> str:
    """A number with the decimals of its metric, `more` added, and a true minus."""
    decimals = BY_KEY[key].decimals + more
    text = f"{value:+.{decimals}f}" if sign else f"{value:.{decimals}f}"
    if not float(text):  # "-0.0" says a direction that is not there
        text = text.lstrip("+-")
    return text.replace("-", "−")


def show_interval(key: str, interval: Interval | None) -> str:
    """The interval in brackets; "" without one.

    An end that would round to zero without being zero gets one more decimal: which side of zero
    it lies on is what the reader looks for.
    """
    if interval is None:
        return ""
    more = int(any(end and not round(end, BY_KEY[key].decimals) for end in interval))
    return f"[{show(key, interval.low, more=more)}, {show(key, interval.high, more=more)}]"


def part(item: Item, key: str) -> tuple[float, float] | None:
    """What a question adds to numerator and denominator; None if the metric is not about it."""
    if key == "answer_words":
        return float(item.answer_words), 1.0
    if key == "yes_rate":
        if item.kind != "closed":
            return None
        return 100.0 * (item.verdict == "yes"), float(item.verdict in ("yes", "no"))
    if key == "wrong_share":
        correct, wrong = item.metrics.get(CORRECT), item.metrics.get(WRONG)
        return None if correct is None or wrong is None else (100 * wrong, correct + wrong)
    value = item.metrics.get(key)
    return None if value is None else (value, 1.0)


def net_claims(item: Item) -> float | None:
    """Correct minus wrong claims of an answer; None if they were not counted."""
    correct, wrong = item.metrics.get(CORRECT), item.metrics.get(WRONG)
    return None if correct is None or wrong is None else correct - wrong

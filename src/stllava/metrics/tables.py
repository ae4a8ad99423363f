"""Means, intervals, bounds and categories over scored questions; percent, None where n is 0."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np

from stllava.metrics.interval import Interval, clustered_intervals
from stllava.metrics.modes import FIRST_WORDS, OPEN_METRICS, recall_name
from stllava.records import Item, JSONObject

CLOSED_METRICS = ("accuracy",)
CATEGORY_SEPARATOR = "|"  # a question may be of several types: "POS|PRES" counts under both

Means = dict[str, float | None]


def means(scored: Sequence[Item], metrics: Sequence[str]) -> Means:
    """The headline: every question counts the same."""
    return {name: mean([item.metrics[name] for item in scored]) for name in metrics}


def image_means(scored: Iterable[Item], metrics: Sequence[str]) -> Means:
    """Every image counts the same: the mean over images of each image's mean."""
    by_image: dict[str, list[Item]] = {}
    for item in scored:
        by_image.setdefault(item.image, []).append(item)
    return {
        name: mean(
            [sum(i.metrics[name] for i in items) / len(items) for items in by_image.values()]
        )
        for name in metrics
    }


def intervals(
    scored: Sequence[Item], metrics: Sequence[str], seed: int, num_resamples: int
) -> dict[str, list[float] | None]:
    """95 % intervals of `means`, whole groups resampled; None below two groups."""
    if not scored:
        return dict.fromkeys(metrics)
    values_NM = np.array([[item.metrics[name] for name in metrics] for item in scored])
    groups = [item.group for item in scored]
    found = clustered_intervals(values_NM, groups, seed=seed, num_resamples=num_resamples)
    if found is None:
        return dict.fromkeys(metrics)
    return {name: list(interval) for name, interval in zip(metrics, found, strict=True)}


def bounds(
    scored: Sequence[Item], num_missing: int, metrics: Sequence[str]
) -> dict[str, list[float] | None]:
    """The mean if all missing answers were worth nothing, and if all were perfect."""
    num_all = len(scored) + num_missing
    if not num_all:
        return dict.fromkeys(metrics)
    totals = {name: sum(item.metrics[name] for item in scored) for name in metrics}
    return {n: [t / num_all, (t + 100 * num_missing) / num_all] for n, t in totals.items()}


def recalls_of_first_words(scored: Sequence[Item]) -> Means:
    """Recall of the first 5, 10, 20 words, by that number; None where not measured."""
    return {
        str(k): mean([i.metrics[recall_name(k)] for i in scored if recall_name(k) in i.metrics])
        for k in FIRST_WORDS
    }


def categories(items: Sequence[Item]) -> JSONObject:
    """Means per category value; a question of several types counts under each."""
    members: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        for category, joined in item.categories.items():
            for value in joined.split(CATEGORY_SEPARATOR):
                members.setdefault(category, {}).setdefault(value, []).append(item)
    return {
        category: {value: part(values[value]) for value in sorted(values)}
        for category, values in sorted(members.items())
    }


def part(items: Sequence[Item]) -> JSONObject:
    """Both kinds' means over some of the questions."""
    answered = [item for item in items if not item.missing]
    is_open, is_closed = counted(answered, "open"), counted(answered, "closed")
    return {
        "n": len(answered),
        "missing": len(items) - len(answered),
        "open": {"n": len(is_open), **means(is_open, OPEN_METRICS)},
        "closed": {"n": len(is_closed), **means(is_closed, CLOSED_METRICS)},
    }


def counted(items: Iterable[Item], kind: str) -> list[Item]:
    """The answered questions of a kind that the mode counts; llavamed-prefix leaves some out."""
    needed = "recall" if kind == "open" else "accuracy"
    return [i for i in items if i.kind == kind and not i.missing and needed in i.metrics]


def answer_shape(items: Iterable[Item]) -> JSONObject:
    """Length in words, and percent of answers that are empty, cut off, or repeat themselves."""
    answered = [item for item in items if not item.missing]
    num_words = [item.answer_words for item in answered]
    known = [item for item in answered if item.truncated is not None]
    return {
        "answer_words": {
            "mean": mean(num_words),
            "median": float(median(num_words)) if num_words else None,
        },
        "empty": mean([100.0 * (n == 0) for n in num_words]),
        "truncated": mean([100.0 * bool(item.truncated) for item in known]),
        "repetitive": mean([100.0 * item.repetitive for item in answered]),
    }


def mean(values: Sequence[float]) -> float | None:
    """None without values."""
    return sum(values) / len(values) if values else None


def listed(interval: Interval | None) -> list[float] | None:
    """As JSON has it."""
    return None if interval is None else list(interval)

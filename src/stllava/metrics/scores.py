"""From predictions to items, and from items to the numbers of a table.

All shares are percent. A missing answer is not a wrong one: it is left out of every mean, and
`bounds` says what the mean would be if all missing answers were wrong, or all were right.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from statistics import median

import numpy as np

from stllava.metrics.closed import gold_options, is_correct, verdict
from stllava.metrics.interval import NUM_RESAMPLES, Interval, clustered_intervals, wilson
from stllava.metrics.text import overlap
from stllava.records import Item, JSONObject, Prediction, VQASample

OPEN_METRICS = ("recall", "f1", "precision", "exact")
CLOSED_METRICS = ("accuracy",)
CATEGORY_SEPARATOR = "|"  # a question may be of several types: "POS|PRES" counts under both


def score_item(
    sample: VQASample, prediction: Prediction | None, group: str, *, leaked: bool = False
) -> Item:
    """Score one answer. None, or a prediction that ended in an error, is missing, not wrong."""
    assert prediction is None or prediction.id == sample.id
    item = Item(
        id=sample.id,
        image=sample.image,
        group=group,
        kind=sample.kind,
        categories=sample.categories,
        metrics={},
        missing=True,
        leaked=leaked,
    )
    if prediction is None or prediction.finish == "error":
        return item
    found: JSONObject = {"missing": False, "answer_words": len(prediction.text.split())}
    if sample.kind == "open":
        shares = overlap(prediction.text, sample.answer)
        found["metrics"] = {name: getattr(shares, name) for name in OPEN_METRICS}
    else:
        options = gold_options(sample.answer, sample.options)
        said = verdict(prediction.text, options)
        found["metrics"] = {"accuracy": 100.0 * is_correct(said, sample.answer, options)}
        found["verdict"] = said.kind
    return item.model_copy(update=found)


def score_all(
    samples: Iterable[VQASample],
    predictions: Iterable[Prediction],
    groups: dict[str, str],
) -> list[Item]:
    """Score every sample in order; `groups` maps an image id to its patient or case."""
    by_id = {prediction.id: prediction for prediction in predictions}
    return [
        score_item(sample, by_id.get(sample.id), groups.get(sample.image, sample.image))
        for sample in samples
    ]


def summarise(
    items: Sequence[Item], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> JSONObject:
    """Return the scores of one model on one benchmark as plain JSON; None where n is 0."""
    num_words = [item.answer_words for item in items if not item.missing]
    return {
        "open": _open(items, seed, num_resamples),
        "closed": _closed(items, seed, num_resamples),
        "answer_words": {
            "mean": sum(num_words) / len(num_words) if num_words else None,
            "median": float(median(num_words)) if num_words else None,
        },
        "missing": sum(item.missing for item in items),
        "leaked": sum(item.leaked for item in items),
        "categories": _categories(items),
        "num_groups": len({item.group for item in items}),
    }


def _open(items: Sequence[Item], seed: int, num_resamples: int) -> JSONObject:
    items = [item for item in items if item.kind == "open"]
    scored = [item for item in items if not item.missing]
    return {
        "n": len(scored),
        "missing": len(items) - len(scored),
        **_means(scored, OPEN_METRICS),
        "ci95": _intervals(scored, OPEN_METRICS, seed, num_resamples),
        "bounds": _bounds(items, OPEN_METRICS),
    }


def _closed(items: Sequence[Item], seed: int, num_resamples: int) -> JSONObject:
    items = [item for item in items if item.kind == "closed"]
    scored = [item for item in items if not item.missing]
    num_right = sum(item.metrics["accuracy"] == 100 for item in scored)
    verdicts = [item.verdict for item in scored]
    num_yes, num_no = verdicts.count("yes"), verdicts.count("no")
    return {
        "n": len(scored),
        "missing": len(items) - len(scored),
        "correct": num_right,
        **_means(scored, CLOSED_METRICS),
        "abstained": verdicts.count("abstain"),  # counted wrong
        "both": verdicts.count("both"),  # counted wrong
        "yes_rate": 100 * num_yes / (num_yes + num_no) if num_yes + num_no else None,
        "ci95": _intervals(scored, CLOSED_METRICS, seed, num_resamples),
        "wilson95": _listed(wilson(num_right, len(scored))),
        "bounds": _bounds(items, CLOSED_METRICS),
    }


def _means(scored: Sequence[Item], metrics: Sequence[str]) -> dict[str, float | None]:
    return {
        name: sum(item.metrics[name] for item in scored) / len(scored) if scored else None
        for name in metrics
    }


def _intervals(
    scored: Sequence[Item], metrics: Sequence[str], seed: int, num_resamples: int
) -> dict[str, list[float] | None]:
    if not scored:
        return dict.fromkeys(metrics)
    values_NM = np.array([[item.metrics[name] for name in metrics] for item in scored])
    intervals = clustered_intervals(
        values_NM, [item.group for item in scored], seed=seed, num_resamples=num_resamples
    )
    if intervals is None:
        return dict.fromkeys(metrics)
    return {name: list(interval) for name, interval in zip(metrics, intervals, strict=True)}


def _bounds(items: Sequence[Item], metrics: Sequence[str]) -> dict[str, list[float] | None]:
    """Lowest and highest mean over all questions that the missing ones allow."""
    if not items:
        return dict.fromkeys(metrics)
    num_missing = sum(item.missing for item in items)
    bounds: dict[str, list[float] | None] = {}
    for name in metrics:
        total = sum(item.metrics[name] for item in items if not item.missing)
        bounds[name] = [total / len(items), (total + 100 * num_missing) / len(items)]
    return bounds


def _categories(items: Sequence[Item]) -> JSONObject:
    """Means per category value; a question of several types counts under each."""
    members: dict[str, dict[str, list[Item]]] = {}
    for item in items:
        for category, joined in item.categories.items():
            for value in joined.split(CATEGORY_SEPARATOR):
                members.setdefault(category, {}).setdefault(value, []).append(item)
    return {
        category: {value: _category(values[value]) for value in sorted(values)}
        for category, values in sorted(members.items())
    }


def _category(items: Sequence[Item]) -> JSONObject:
    scored = [item for item in items if not item.missing]
    is_open = [item for item in scored if item.kind == "open"]
    is_closed = [item for item in scored if item.kind == "closed"]
    return {
        "n": len(scored),
        "missing": len(items) - len(scored),
        "open": {"n": len(is_open), **_means(is_open, OPEN_METRICS)},
        "closed": {"n": len(is_closed), **_means(is_closed, CLOSED_METRICS)},
    }


def _listed(interval: Interval | None) -> list[float] | None:
    return None if interval is None else list(interval)

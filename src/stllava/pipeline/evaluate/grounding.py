"""What the image is worth to a model: its score minus that of the same questions without it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from stllava.metrics.interval import paired_difference
from stllava.metrics.text import normalise
from stllava.records import Item, JSONObject, Prediction

METRICS = ("recall", "f1", "accuracy", "claims_correct", "claims_wrong")
GROUNDING = ("blank", "other")  # the remaining views are stress views


class Answered(NamedTuple):
    """One view of one model on one benchmark."""

    items: Sequence[Item]
    predictions: Sequence[Prediction]


def deltas(answered: dict[str, Answered], *, seed: int) -> JSONObject:
    """Per other view the difference `image` minus view, in the sections grounding and stress."""
    found: JSONObject = {"grounding": {}, "stress": {}}
    for name, view in answered.items():
        if name != "image":
            section = "grounding" if name in GROUNDING else "stress"
            found[section][name] = _difference(answered["image"], view, seed)
    return found


def _difference(image: Answered, view: Answered, seed: int) -> JSONObject:
    """Paired by question, intervals clustered by group; metrics that no question has are absent."""
    metrics: JSONObject = {}
    for metric in METRICS:
        with_image, without = _values(image.items, metric), _values(view.items, metric)
        paired = with_image.keys() & without.keys()
        if not paired:
            continue
        items = [item for item in image.items if item.id in paired]
        found = paired_difference(view.items, items, metric, seed=seed)
        metrics[metric] = {
            "n": found.num_items,
            "image": sum(with_image[key] for key in paired) / len(paired),
            "view": sum(without[key] for key in paired) / len(paired),
            "delta": found.difference,
            "ci95": None if found.interval is None else list(found.interval),
            "p": found.p,
        }
    return {
        "n": len(view.items),
        "num_images": len({item.image for item in view.items}),
        "num_groups": len({item.group for item in view.items}),
        "metrics": metrics,
        "same_answer": _same_answer(image.predictions, view.predictions),
    }


def _values(items: Sequence[Item], metric: str) -> dict[str, float]:
    return {item.id: item.metrics[metric] for item in items if metric in item.metrics}


def _same_answer(image: Sequence[Prediction], view: Sequence[Prediction]) -> float | None:
    """Share of questions, in percent, that were answered in the same words."""
    said = {p.id: normalise(p.text) for p in image if p.finish != "error"}
    both = [(said[p.id], normalise(p.text)) for p in view if p.id in said and p.finish != "error"]
    return 100 * sum(a == b for a, b in both) / len(both) if both else None

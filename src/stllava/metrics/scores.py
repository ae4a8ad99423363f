"""From predictions to items, and from items to the numbers of a table.

All shares are percent. A missing answer is not a wrong one: it is left out of every mean, and
`bounds` says what the mean would be if all missing answers were wrong, or all were right.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

from stllava.benchmarks import by_answer_text
from stllava.metrics import tables
from stllava.metrics.interval import NUM_RESAMPLES, wilson
from stllava.metrics.modes import LEFT_OUT, OPEN_METRICS, Mode, measure, spoken
from stllava.metrics.tables import CLOSED_METRICS
from stllava.metrics.text import repeats_itself
from stllava.records import Item, JSONObject, Prediction, VQASample


class Sheet(NamedTuple):
    """A scored benchmark: `items` in the order of its questions, `scores` as scores.json."""

    items: list[Item]
    scores: JSONObject


def score_item(
    sample: VQASample,
    prediction: Prediction | None,
    group: str,
    *,
    leaked: bool = False,
    mode: Mode = "corrected",
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
    measured = measure(sample, prediction.text, mode)
    found: JSONObject = {
        "missing": False,
        "answer_words": len(spoken(prediction.text).split()),
        "metrics": measured.metrics,
        "verdict": measured.verdict,
        "truncated": {"length": True, "unknown": None}.get(prediction.finish, False),
        "repetitive": repeats_itself(prediction.text),
    }
    return item.model_copy(update=found)


def score_all(
    samples: Iterable[VQASample],
    predictions: Iterable[Prediction],
    groups: Mapping[str, str],
    *,
    mode: Mode = "corrected",
    leaked: Collection[str] = (),
) -> list[Item]:
    """Score every sample in order; `groups` maps an image id to its patient or case.

    `leaked` are ids of questions, or of images, that the model may have been trained on.
    """
    by_id = {prediction.id: prediction for prediction in predictions}
    return [
        score_item(
            sample,
            by_id.get(sample.id),
            groups.get(sample.image, sample.image),
            leaked=sample.id in leaked or sample.image in leaked,
            mode=mode,
        )
        for sample in samples
    ]


def score_sheet(
    samples: Sequence[VQASample],
    predictions: Sequence[Prediction],
    groups: Mapping[str, str],
    *,
    mode: Mode = "corrected",
    leaked: Collection[str] = (),
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Sheet:
    """Score a benchmark by one mode; the means are also given with kinds by answer text.

    By answer text a question is closed iff its reference is yes or no: on VQA-RAD 251 instead of
    272 questions.
    """
    kinds = {sample.id: sample.kind for sample in samples}
    items = score_all(samples, predictions, groups, mode=mode, leaked=leaked)
    summary = summarise(items, seed=seed, num_resamples=num_resamples)
    moved = [s for s in by_answer_text(samples) if s.kind != kinds[s.id]]
    by_answer = {"open": summary["open"], "closed": summary["closed"]}
    if moved:
        rescored = {i.id: i for i in score_all(moved, predictions, groups, mode=mode)}
        others = [rescored.get(item.id, item) for item in items]
        by_answer = {
            "open": _open(others, seed, num_resamples),
            "closed": _closed(others, seed, num_resamples),
        }
    scores = {
        "mode": mode,
        **summary,
        "by_answer_text": by_answer,
        "questions_sha256": fingerprint(samples),
    }
    return Sheet(items, scores)


def fingerprint(samples: Iterable[VQASample]) -> str:
    """Hex digest of what was asked and expected: equal iff two score sheets are comparable."""
    rows = sorted((s.id, s.image, s.question, s.answer, s.kind, s.options) for s in samples)
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def summarise(
    items: Sequence[Item], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> JSONObject:
    """Return the scores of one model on one benchmark as plain JSON; None where n is 0."""
    leaked = [item for item in items if item.leaked]
    clean = [item for item in items if not item.leaked]
    return {
        "open": _open(items, seed, num_resamples),
        "closed": _closed(items, seed, num_resamples),
        **tables.answer_shape(items),
        "missing": sum(item.missing for item in items),
        "leaked": len(leaked),
        "by_leak": {"leaked": tables.part(leaked), "clean": tables.part(clean)} if leaked else None,
        "categories": tables.categories(items),
        "num_groups": len({item.group for item in items}),
        "num_images": len({item.image for item in items}),
    }


def _open(items: Iterable[Item], seed: int, num_resamples: int) -> JSONObject:
    items = [item for item in items if item.kind == "open"]
    scored = tables.counted(items, "open")
    num_missing = sum(item.missing for item in items)
    hits = [item.metrics["contains"] for item in scored if "contains" in item.metrics]
    return {
        "n": len(scored),
        "missing": num_missing,
        **tables.means(scored, OPEN_METRICS),
        **({"contains": tables.mean(hits)} if hits else {}),
        "recall_of_first_words": tables.recalls_of_first_words(scored),
        "image_macro": tables.image_means(scored, OPEN_METRICS),
        "ci95": tables.intervals(scored, OPEN_METRICS, seed, num_resamples),
        "bounds": tables.bounds(scored, num_missing, OPEN_METRICS),
    }


def _closed(items: Iterable[Item], seed: int, num_resamples: int) -> JSONObject:
    items = [item for item in items if item.kind == "closed"]
    scored = tables.counted(items, "closed")
    num_missing = sum(item.missing for item in items)
    num_right = sum(item.metrics["accuracy"] == 100 for item in scored)
    verdicts = [item.verdict for item in items if item.verdict]
    num_yes, num_no = verdicts.count("yes"), verdicts.count("no")
    return {
        "n": len(scored),
        "missing": num_missing,
        "correct": num_right,
        **tables.means(scored, CLOSED_METRICS),
        "abstained": verdicts.count("abstain"),  # counted wrong
        "both": verdicts.count("both"),  # counted wrong
        "left_out": verdicts.count(LEFT_OUT),  # by llavamed-prefix: not in n
        "yes_rate": 100 * num_yes / (num_yes + num_no) if num_yes + num_no else None,
        "image_macro": tables.image_means(scored, CLOSED_METRICS),
        "ci95": tables.intervals(scored, CLOSED_METRICS, seed, num_resamples),
        "wilson95": tables.listed(wilson(num_right, len(scored))),
        "bounds": tables.bounds(scored, num_missing, CLOSED_METRICS),
    }

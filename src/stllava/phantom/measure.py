"""What an answer gets right and wrong, measured from ground truth and not by any judge's taste."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from stllava.phantom.claims import read_answer
from stllava.phantom.oracle import score_answer
from stllava.phantom.vocab import MEDICAL
from stllava.phantom.world import Phantom
from stllava.records import Item, Prediction, VQASample

CORRECT, WRONG, ORACLE = "claims_correct", "claims_wrong", "oracle_score"


def measure_items(
    items: Iterable[Item],
    samples: Iterable[VQASample],
    predictions: Iterable[Prediction],
    truth: Mapping[str, Phantom],
) -> Iterator[Item]:
    """Add to each item its numbers of correct and wrong claims, and the oracle's score (1..10).

    Claims of a closed question count too; the score is what a knowing judge would prefer by.
    """
    texts = {prediction.id: prediction.text for prediction in predictions}
    by_id = {sample.id: sample for sample in samples}
    for item in items:
        if item.missing:
            yield item
            continue
        sample, phantom = by_id[item.id], truth[item.image]
        claims = read_answer(sample.question, texts[item.id], phantom, MEDICAL)
        found = {
            CORRECT: float(claims.correct),
            WRONG: float(claims.wrong),
            ORACLE: float(score_answer(sample.question, texts[item.id], phantom)),
        }
        yield item.model_copy(update={"metrics": {**item.metrics, **found}})

"""What the frozen start of stage 2 gives to both answers of a preference: had once, kept on disk.

The sampler of stage 2 is its reference, so the log-probabilities recorded while sampling are the
reference's, if prompt and weights are the same. They are checked against the model before they are
trusted; else one gradient-free pass over the trees computes them.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING

from stllava.policy.quantise import quantised_base
from stllava.records import Draw, Record
from stllava.training.plan import plan_micro_batches

if TYPE_CHECKING:
    from stllava.policy.scorer import TokenScorer
    from stllava.training.dpo import DpoObjective

WINDOW = 64  # records whose texts are held at a time


class ReferenceLogProbs(Record):
    """Summed log-probabilities of the chosen and the rejected answer, in nats.

    `key` is a hash of all they depend on; a record whose key differs is out of date.
    """

    id: str
    chosen: float
    rejected: float
    key: str = ""


def reference_keys(
    objective: DpoObjective, checkpoint: str, images: Mapping[str, str], precision: str
) -> dict[str, str]:
    """Per preference: hash of checkpoint, how it is held, preprocessing, image and token ids.

    `checkpoint` and `images` (by id) are sha256 digests.
    """
    policy = objective.policy
    held = [precision, "none" if quantised_base(policy.core) is None else "nf4"]
    shared = json.dumps(
        [checkpoint, held, policy.image_processor.to_dict()], sort_keys=True, default=str
    )
    keys = {}
    for record_id in objective.ids:
        example = objective.example(record_id, 0)
        own = json.dumps([images[example.image], [[t.ids, t.learned] for t in example.texts]])
        keys[record_id] = hashlib.sha256(f"{shared}\n{own}".encode()).hexdigest()
    return keys


def recorded(objective: DpoObjective, keys: Mapping[str, str]) -> list[ReferenceLogProbs]:
    """From the draws' own log-probabilities; empty if any draw lacks them or was cut."""
    records = []
    for record_id in objective.ids:
        preference = objective.preferences[record_id]
        sums = [_summed(preference.chosen), _summed(preference.rejected)]
        if None in sums or preference.edited or objective.example(record_id, 0).num_cut:
            return []
        records.append(
            ReferenceLogProbs(id=record_id, chosen=sums[0], rejected=sums[1], key=keys[record_id])
        )
    return records


def _summed(draw: Draw) -> float | None:
    ids, logprobs = draw.token_ids, draw.logprobs
    if not ids or logprobs is None or len(ids) != len(logprobs):
        return None
    return sum(logprobs)


def computed(
    objective: DpoObjective,
    scorer: TokenScorer,
    known: Collection[str],
    keys: Mapping[str, str],
    budget: int,
) -> Iterator[ReferenceLogProbs]:
    """One gradient-free pass with the adapters off, image by image, over what is not `known`.

    Windows are the same whatever is known: an interrupted pass gives the same bits.
    """
    order = sorted(objective.ids, key=objective.image_of)
    for start in range(0, len(order), WINDOW):
        window = order[start : start + WINDOW]
        if all(record_id in known for record_id in window):
            continue
        examples = [objective.example(record_id, 0) for record_id in window]
        share = objective.policy.rules.share
        for members in plan_micro_batches(examples, budget=budget, share=share):
            micro = objective.micro_batch(members)
            micro.batch = micro.batch.to(objective.policy.device)
            chosen, rejected = objective.reference_log_probs(scorer, micro)
            rows = zip(micro.ids, chosen.tolist(), rejected.tolist(), strict=True)
            for record_id, c, r in rows:
                key = keys[record_id]
                yield ReferenceLogProbs(id=record_id, chosen=c, rejected=r, key=key)

"""Which records make up which optimiser step, and which of them go through the model together.

Steps are a pure function of ids, images, epochs and seed; micro-batches of the step's texts and of
the token budget. Records of one image stay together all the way.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from stllava.config import TrainSection
from stllava.training.objective import Example, MicroBatch, Objective
from stllava.tree.bins import pack_bins, share_out, split_group
from stllava.tree.trie import build_trie

PROBE = 8  # records that checks look at


class PlannedStep(NamedTuple):
    """The records of one optimiser step, over all ranks, each with the epoch it is seen in."""

    records: tuple[tuple[str, int], ...]  # (record id, epoch)


def plan_steps(
    ids: Sequence[str],
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    image_of: Callable[[str], str] = str,
) -> list[PlannedStep]:
    """Shuffle each epoch's images and cut their records into steps of exactly `batch_size`.

    An epoch's remainder opens the next epoch's first step; only the very last step may be smaller,
    so that no record is lost. Independent of the order of `ids` and of the number of devices.
    """
    by_image: dict[str, list[str]] = {}
    for record_id in sorted(ids):
        by_image.setdefault(image_of(record_id), []).append(record_id)
    order: list[tuple[str, int]] = []
    for epoch in range(epochs):
        images = sorted(by_image)
        rng_for("plan", seed, epoch).shuffle(images)
        order += [(record_id, epoch) for image in images for record_id in by_image[image]]
    return [
        PlannedStep(tuple(order[start : start + batch_size]))
        for start in range(0, len(order), batch_size)
    ]


def plan_micro_batches(
    examples: Sequence[Example], *, budget: int, rank: int = 0, world: int = 1
) -> list[list[Example]]:
    """This rank's part of a step, as micro-batches of at most `budget` tokens each.

    Images are dealt to the ranks whole, balanced by tokens; only if there are fewer images than
    ranks are their records dealt singly. The list is empty where a rank gets nothing.
    """
    groups: dict[tuple[str, object], list[Example]] = {}
    for example in examples:
        groups.setdefault((example.image, None), []).append(example)
    if len(groups) < world:
        groups = {(example.image, i): [example] for i, example in enumerate(examples)}
    runs = [run for group in groups.values() for run in split_group(group, tree_size, budget)]
    mine = share_out(runs, tree_size, world)[rank]
    return [
        [example for run in bin_ for example in run] for bin_ in pack_bins(mine, tree_size, budget)
    ]


def tree_size(examples: Sequence[Example]) -> int:
    """Tokens of one image's examples once they share what they share."""
    return len(build_trie([text.ids for example in examples for text in example.texts]))


def first_micro_batch(objective: Objective, settings: TrainSection) -> MicroBatch:
    """A real micro-batch of a few records, for checks before and after training."""
    examples = [objective.example(record_id, 0) for record_id in sorted(objective.ids)[:PROBE]]
    micro = objective.micro_batch(
        plan_micro_batches(examples, budget=settings.micro_batch_tokens)[0]
    )
    micro.batch = micro.batch.to(objective.policy.device)
    return micro


def rng_for(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but `key`, on any machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))

"""Which records make up which optimiser step, and which of them go through the model together.

Steps are a pure function of ids, images, epochs and seed; micro-batches of the step's texts and of
the token budget. Records of one image stay together all the way.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import NamedTuple

from stllava.config import TrainSection
from stllava.seeds import rng_for
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


def plan_of(objective: Objective, settings: TrainSection, seed: int) -> list[PlannedStep]:
    """The steps of a training stage."""
    return plan_steps(
        objective.ids,
        batch_size=settings.batch_size,
        epochs=settings.epochs,
        seed=seed,
        image_of=objective.image_of,
    )


def check_records(objective: Objective, steps: Sequence[PlannedStep]) -> None:
    """Raise the DataError of a planned record now, not at the step that would meet it."""
    for step in steps:
        for record_id, epoch in step.records:
            objective.example(record_id, epoch)


def plan_micro_batches(
    examples: Sequence[Example], *, budget: int, rank: int = 0, world: int = 1, share: bool = True
) -> list[list[Example]]:
    """This rank's part of a step, as micro-batches of at most `budget` tokens each.

    Images that fit are dealt to the ranks whole, balanced by tokens; only if there are fewer
    images than ranks are their records dealt singly. The list is empty where a rank gets nothing.
    `share` False: each text is a row of its own (`Rules.share`).
    """
    if not share:
        return _plain_bins(share_out(examples, _num_tokens, world)[rank], budget)
    groups = _by_image(examples)
    if len(groups) < world:
        groups = [[example] for example in examples]
    runs = [run for group in groups for run in _runs(group, budget)]
    dealt = share_out(runs, _size, world)[rank]
    # Texts of one image meet in one tree: they are measured again as they meet on this rank, and
    # two runs of an image never share a bin, where they would be one tree, larger than either.
    mine = _by_image([example for run in dealt for example in run.examples])
    layers = zip_longest(*(_runs(group, budget) for group in mine))
    return [
        [example for run in bin_ for example in run.examples]
        for layer in layers
        for bin_ in pack_bins([run for run in layer if run], _size, budget)
    ]


def _by_image(examples: Sequence[Example]) -> list[list[Example]]:
    groups: dict[str, list[Example]] = {}
    for example in examples:
        groups.setdefault(example.image, []).append(example)
    return list(groups.values())


class _Run(NamedTuple):
    """Examples of one image that go through the model together."""

    size: int
    examples: list[Example]


def _size(run: _Run) -> int:
    return run.size


def _runs(group: list[Example], budget: int) -> list[_Run]:
    whole = tree_size(group)
    if whole <= budget:
        return [_Run(whole, group)]
    return [_Run(tree_size(run), run) for run in split_group(group, tree_size, budget)]


def _plain_bins(examples: Sequence[Example], budget: int) -> list[list[Example]]:
    """Bins of rows as wide as their longest text."""
    bins: list[list[Example]] = []
    for example in sorted(examples, key=_longest, reverse=True):
        rows = sum(len(e.texts) for e in [*bins[-1], example]) if bins else 0
        if bins and rows * _longest(bins[-1][0]) <= budget:
            bins[-1].append(example)
        else:
            bins.append([example])
    return bins


def _longest(example: Example) -> int:
    return max(len(text.ids) for text in example.texts)


def _num_tokens(example: Example) -> int:
    return sum(len(text.ids) for text in example.texts)


def tree_size(examples: Sequence[Example]) -> int:
    """Tokens of one image's examples once they share what they share."""
    return len(build_trie([text.ids for example in examples for text in example.texts]))


def first_micro_batch(objective: Objective, settings: TrainSection) -> MicroBatch:
    """A real micro-batch of a few records, for checks before and after training."""
    examples = [objective.example(record_id, 0) for record_id in sorted(objective.ids)[:PROBE]]
    share = objective.policy.rules.share
    bins = plan_micro_batches(examples, budget=settings.micro_batch_tokens, share=share)
    micro = objective.micro_batch(bins[0])
    micro.batch = micro.batch.to(objective.policy.device)
    return micro

"""Which records make up which optimiser step: a pure function of ids, epochs and seed."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PlannedStep(NamedTuple):
    """The records of one optimiser step, over all ranks, each with the epoch it is seen in."""

    records: tuple[tuple[str, int], ...]  # (record id, epoch)


def plan_steps(ids: Sequence[str], *, batch_size: int, epochs: int, seed: int) -> list[PlannedStep]:
    """Shuffle each epoch and cut the whole into steps of exactly `batch_size` records.

    An epoch's remainder opens the next epoch's first step; only the very last step may be smaller,
    so that no record is lost. Independent of the order of `ids` and of the number of devices.
    """
    order: list[tuple[str, int]] = []
    for epoch in range(epochs):
        shuffled = sorted(ids)
        rng_for("plan", seed, epoch).shuffle(shuffled)
        order += [(record_id, epoch) for record_id in shuffled]
    return [
        PlannedStep(tuple(order[start : start + batch_size]))
        for start in range(0, len(order), batch_size)
    ]


def rng_for(*key: object) -> np.random.Generator:
    """A generator that depends on nothing but `key`, on any machine."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))

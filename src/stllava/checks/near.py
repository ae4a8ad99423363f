"""Pairs of 64-bit perceptual hashes that differ in few bits, without comparing all with all.

Cut into six bands, two hashes that differ in at most four bits agree in at least two whole bands:
sorted by each pair of bands (15 sorts of 21 bits or more), they lie side by side. Shapes: N hashes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

MAX_DISTANCE = 4  # bits of 64; same view rescaled or re-encoded
NUM_BANDS = MAX_DISTANCE + 2

Hashes = npt.NDArray[np.uint64]
Indices = npt.NDArray[np.int64]


class Pairs(NamedTuple):
    """Positions of near hashes, each pair once, `left` < `right`."""

    left: Indices
    right: Indices


def from_hex(texts: Sequence[str]) -> Hashes:
    """(N,) hashes from 16 hex digits each."""
    return np.array([int(text, 16) for text in texts], dtype=np.uint64)


def near_pairs(hashes_N: Hashes, max_distance: int = MAX_DISTANCE) -> Pairs:
    """All pairs of different hashes that differ in at most `max_distance` <= 4 bits.

    `hashes_N` holds each value once (np.unique), so that many copies of one picture cost nothing.
    """
    assert max_distance <= MAX_DISTANCE
    size = len(hashes_N)
    codes = [np.zeros(0, dtype=np.int64)]
    for mask in _masks():
        for left, right in _side_by_side(hashes_N & np.uint64(mask)):
            is_near = distance(hashes_N[left], hashes_N[right]) <= max_distance
            low, high = np.minimum(left, right), np.maximum(left, right)
            codes.append((low * size + high)[is_near])
    found = np.unique(np.concatenate(codes))
    return Pairs(found // max(size, 1), found % max(size, 1))


def distance(one: Hashes, other: Hashes) -> Indices:
    """Differing bits of hashes at equal positions (`np.bitwise_count` needs numpy 2)."""
    bits = np.unpackbits((one ^ other).view(np.uint8).reshape(-1, 8), axis=1)
    return np.asarray(bits.sum(axis=1, dtype=np.int64))


def _masks() -> Iterator[int]:
    borders = [round(band * 64 / NUM_BANDS) for band in range(NUM_BANDS + 1)]
    bands = [((1 << high) - 1) ^ ((1 << low) - 1) for low, high in pairwise(borders)]
    yield from (one | other for one, other in combinations(bands, 2))


def _side_by_side(keys_N: Hashes) -> Iterator[tuple[Indices, Indices]]:
    """Positions with equal keys, as pairs: neighbours in the sorted order, then one further, ..."""
    order = np.argsort(keys_N, kind="stable")
    sorted_keys = keys_N[order]
    start = np.arange(len(order))
    for step in range(1, len(order)):
        start = start[start + step < len(order)]
        start = start[sorted_keys[start] == sorted_keys[start + step]]
        if not len(start):
            return
        yield order[start], order[start + step]

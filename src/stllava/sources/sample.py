"""So many of one's images, by seed: the paper's "10k images" of stage 2."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping


def sample_images(
    images: Iterable[str], number: int, seed: int, strata: Mapping[str, str]
) -> list[str]:
    """Draw `number` image ids without replacement; return them sorted, all if there are no more.

    `strata` maps an id to its source or modality, "" for ids it lacks: each stratum gets its share,
    rounded by largest remainder. The result depends on the ids, not on their order.
    """
    members: dict[str, list[str]] = {}
    ids = sorted(set(images))
    for image in ids:
        members.setdefault(strata.get(image, ""), []).append(image)
    if number >= len(ids):
        return ids
    chosen: list[str] = []
    for stratum, share in _shares({s: len(m) for s, m in members.items()}, number).items():
        rng = random.Random(f"{seed}/{stratum}")  # text seeds do not depend on PYTHONHASHSEED
        chosen += rng.sample(members[stratum], share)
    return sorted(chosen)


def _shares(sizes: Mapping[str, int], number: int) -> dict[str, int]:
    total = sum(sizes.values())
    shares = {stratum: number * size // total for stratum, size in sizes.items()}
    by_remainder = sorted(sizes, key=lambda stratum: (-(number * sizes[stratum] % total), stratum))
    for stratum in by_remainder[: number - sum(shares.values())]:
        shares[stratum] += 1
    return shares

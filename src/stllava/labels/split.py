"""Train, dev and test by patient, with every finding about equally frequent in each.

Iterative stratification (Sechidis, Tsoumakas and Vlahavas 2011) over patients instead of examples:
the rarest finding first, each of its patients to the part that still lacks most of it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Literal

Part = Literal["train", "dev", "test"]
PARTS: tuple[Part, Part, Part] = ("train", "dev", "test")
IMAGES = ""  # the label that every image has, so that parts get their share of images too


def split_groups(
    groups: Mapping[str, Mapping[str, int]],
    seed: int = 0,
    fractions: Sequence[float] = (0.7, 0.1, 0.2),
) -> dict[str, Part]:
    """Part of each group. `groups`: group -> label -> number of its images that have the label.

    Equal arguments give equal parts, whatever the order of `groups`; with other groups in the
    data the parts of all may change. A part with fraction 0 gets no group.
    """
    total: Counter[str] = Counter()
    for counts in groups.values():
        total.update({**counts, IMAGES: counts.get(IMAGES, 1)})
    wanted = {
        part: {label: fraction * number for label, number in total.items()}
        for part, fraction in zip(PARTS, fractions, strict=True)
        if fraction > 0
    }
    # Large groups first: small ones can still even out what these leave.
    luck = {g: hashlib.sha256(repr(("split", seed, g)).encode()).digest() for g in groups}
    left = sorted(groups, key=lambda g: (-groups[g].get(IMAGES, 1), luck[g], g))
    found: dict[str, Part] = {}
    while left:
        label = _rarest(groups, left)
        having = [g for g in left if label == IMAGES or groups[g].get(label, 0)]
        for group in having:
            part = _neediest(wanted, label, total)
            found[group] = part
            for name in {*groups[group], IMAGES}:
                wanted[part][name] -= groups[group].get(name, 1)
        left = [group for group in left if group not in found]
    return {group: found[group] for group in groups}


def _rarest(groups: Mapping[str, Mapping[str, int]], left: Sequence[str]) -> str:
    """The label that fewest of the groups left have; IMAGES once there is no other."""
    having = Counter(
        label for g in left for label, number in groups[g].items() if number and label != IMAGES
    )
    return min(having, key=lambda label: (having[label], label), default=IMAGES)


def _neediest(wanted: Mapping[Part, Mapping[str, float]], label: str, total: Counter[str]) -> Part:
    """The part that lacks most of the label; of equal ones, most of all images."""
    return max(
        wanted, key=lambda p: (round(wanted[p][label], 9), wanted[p][IMAGES] / total[IMAGES])
    )

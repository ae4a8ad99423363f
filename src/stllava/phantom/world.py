"""The medical phantom world: what is on each picture, sampled with a stable hash of (seed, id).

Radiological convention: the patient faces the reader, so the PATIENT'S left is on the picture's
right. Every "left" and "right" of a `Finding` is the patient's.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

from stllava.phantom.vocab import MEDICAL, SIDES, SIZES, Kind

# Share of pictures with 0, 1 and 2 findings. `talk` balances yes and no with NORMAL_SHARE.
NORMAL_SHARE = 0.28
TWO_SHARE = 0.30


@dataclass(frozen=True)
class Finding:
    """One finding; an attribute its kind does not have is "" (or count 1)."""

    kind: str  # a Kind.name of the world's vocabulary
    organ: str
    side: str = ""  # "left", "right" or ""; the patient's in the medical world
    size: str = ""  # "small", "large" or ""
    count: int = 1  # 1..3, all on the same side and of the same size


class Picture(Protocol):
    """What `talk`, `claims` and `oracle` need to know of a picture of either world."""

    @property
    def id(self) -> str: ...
    @property
    def picture_type(self) -> str: ...
    @property
    def findings(self) -> tuple[Finding, ...]: ...


@dataclass(frozen=True)
class Phantom:
    """One medical picture: everything `draw` needs and everything there is to know about it."""

    id: str
    patient: str
    modality: str  # "chest x-ray", "abdominal ct" or "brain mri"
    findings: tuple[Finding, ...]
    seed: int  # of this study's anatomy and noise

    @property
    def picture_type(self) -> str:
        return self.modality

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Phantom:
        findings = tuple(Finding(**finding) for finding in data["findings"])
        return cls(**{**data, "findings": findings})


def stable_seed(*parts: object) -> int:
    """Hash `parts` to 0..2**32-1, the same in every process (Python's hash() is salted)."""
    text = "\x1f".join(map(str, parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big")


def sample_phantoms(num_images: int, *, seed: int, prefix: str) -> list[Phantom]:
    """Sample `num_images` pictures of synthetic patients with one to three studies each.

    A patient's studies share body proportions (`draw` derives them from the patient's name).
    """
    phantoms: list[Phantom] = []
    patient_index = 0
    while len(phantoms) < num_images:
        patient = f"{prefix}p{patient_index:04d}"
        studies = random.Random(stable_seed(seed, patient)).choice((1, 1, 2, 3))
        for study in range(1, studies + 1):
            phantoms.append(_sample_phantom(f"{patient}-{study}", patient, seed))
        patient_index += 1
    return phantoms[:num_images]


def _sample_phantom(phantom_id: str, patient: str, seed: int) -> Phantom:
    rng = random.Random(stable_seed(seed, phantom_id))
    picture = rng.choice(MEDICAL.types)
    findings = sample_findings(rng, picture.kinds)
    return Phantom(phantom_id, patient, picture.name, findings, rng.getrandbits(32))


def sample_findings(rng: random.Random, kinds: Sequence[Kind]) -> tuple[Finding, ...]:
    """Sample zero to two findings of different kinds, each kind equally likely."""
    point = rng.random()
    number = 0 if point < NORMAL_SHARE else 2 if point > 1 - TWO_SHARE else 1
    return tuple(_sample_finding(rng, kind) for kind in rng.sample(list(kinds), number))


def _sample_finding(rng: random.Random, kind: Kind) -> Finding:
    return Finding(
        kind=kind.name,
        organ=kind.organ,
        side=rng.choice(SIDES) if kind.sided else "",
        size=rng.choice(SIZES) if kind.sized else "",
        count=rng.randint(1, kind.max_count),
    )

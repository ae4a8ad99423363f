"""The truth about drawn pictures, as records on disk: what the oracle and the claims check read."""

from __future__ import annotations

from pathlib import Path

from stllava.files import read_records
from stllava.phantom.world import Finding, Phantom
from stllava.records import Record


class FindingTruth(Record):
    """A `Finding`."""

    kind: str
    organ: str
    side: str = ""
    size: str = ""
    count: int = 1


class Truth(Record):
    """A `Phantom`: one line of truth.jsonl."""

    id: str
    patient: str
    modality: str
    findings: tuple[FindingTruth, ...]
    seed: int


def to_record(phantom: Phantom) -> Truth:
    """The phantom as a record."""
    return Truth.model_validate(phantom.to_json())


def read_truth(path: Path) -> dict[str, Phantom]:
    """Image id to phantom."""
    return {
        truth.id: Phantom(
            id=truth.id,
            patient=truth.patient,
            modality=truth.modality,
            findings=tuple(Finding(**finding.model_dump()) for finding in truth.findings),
            seed=truth.seed,
        )
        for truth in read_records(path, Truth)
    }

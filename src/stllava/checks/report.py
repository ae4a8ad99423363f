"""What a check found: findings with a count and a remedy, and which test questions leaked.

Severity says what to do. block: scores or training would be wrong, `stllava data check` exits 1.
warn: look at it, it may be as it should be. note: worth knowing, nothing to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from stllava.checks.private import hide
from stllava.errors import DataError
from stllava.files import read_json, write_json
from stllava.records import Record

FILE = "report.json"  # beside the records of `prepare`
MAX_EXAMPLES = 5

Severity = Literal["block", "warn", "note"]
# Of a test question, the strongest first: it is trained on, in the same words, in other words that
# the benchmark itself lists, in similar words, on a picture that looks the same; only its picture
# is trained on, one that looks the same is, or another picture of the same patient is.
LeakKind = Literal[
    "question", "restated", "similar", "near_question", "image", "near_image", "group"
]
LEAK_ORDER: tuple[LeakKind, ...] = (
    "question", "restated", "similar", "near_question", "image", "near_image", "group",
)  # fmt: skip
# Kinds that give the answer away; the others only make a question easier.
QUESTION_LEAKS: frozenset[LeakKind] = frozenset(("question", "restated", "similar"))


class Finding(Record):
    """One kind of thing that was found, however often."""

    code: str
    severity: Severity
    count: int
    what: str  # one sentence
    examples: tuple[str, ...] = Field(
        (), max_length=MAX_EXAMPLES
    )  # ids; identifying ones are hidden
    remedy: str = ""


class Report(Record):
    """All findings about one data set, blocking ones first."""

    counts: dict[str, int]  # images, conversations, turns, samples, preferences
    findings: tuple[Finding, ...]
    leaks: dict[str, LeakKind] = Field({})  # sample id -> the strongest leak

    @property
    def blocks(self) -> bool:
        return any(finding.severity == "block" for finding in self.findings)

    def of(self, code: str) -> Finding | None:
        """The finding with this code, if there is one."""
        return next((finding for finding in self.findings if finding.code == code), None)


def finding(
    code: str,
    severity: Severity,
    examples: Sequence[str],
    what: str,
    remedy: str = "",
    *,
    count: int | None = None,
) -> Finding:
    """A Finding of `count` (the number of examples) that shows the first ids.

    Ids that may identify a patient are hidden.
    """
    return Finding(
        code=code,
        severity=severity,
        count=len(examples) if count is None else count,
        what=what,
        examples=tuple(hide(example) for example in examples[:MAX_EXAMPLES]),
        remedy=remedy,
    )


def write_report(report: Report, folder: Path) -> Path:
    """Write report.json; returns its path."""
    path = folder / FILE
    write_json(path, report.model_dump(mode="json"))
    return path


def read_report(folder: Path) -> Report:
    """Read report.json. Raises DataError if it is missing or not a report."""
    path = folder / FILE
    try:
        return Report.model_validate(read_json(path))
    except ValueError as error:
        raise DataError(f"{path}: not a report of `stllava data check`") from error

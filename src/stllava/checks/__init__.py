"""`stllava data check`: what is wrong with a data set, and what of the test leaks into training.

`check` works on records alone and opens no file; `look` opens the files and gives it signs.
"""

from __future__ import annotations

from stllava.checks.identity import identity_findings
from stllava.checks.leaks import (
    benchmarks,
    dev_findings,
    leak_findings,
    leaks_between,
    sides,
    strongest,
)
from stllava.checks.material import Material, Pictures, Sign
from stllava.checks.pictures import image_findings, lookalikes
from stllava.checks.report import (
    QUESTION_LEAKS,
    Finding,
    LeakKind,
    Report,
    Severity,
    read_report,
    write_report,
)
from stllava.checks.rows import (
    dirt_findings,
    dropped_findings,
    pair_findings,
    prior_findings,
    row_findings,
)

__all__ = [
    "QUESTION_LEAKS",
    "Finding",
    "LeakKind",
    "Material",
    "Report",
    "Severity",
    "Sign",
    "check",
    "read_report",
    "write_report",
]

_ORDER: tuple[Severity, ...] = ("block", "warn", "note")


def check(material: Material) -> Report:
    """All findings about one data set, blocking ones first."""
    pictures = Pictures(material.images)
    near = lookalikes(material.images)
    trained = sides(material, pictures)
    tests = benchmarks(material, pictures)
    leaks = [(side, test, leaks_between(side, test, near)) for test in tests for side in trained]
    findings = [
        *dropped_findings(material.dropped),
        *image_findings(material.images, near),
        *(f for side in trained for f in row_findings(side.rows, side.name, side.prefix)),
        *(f for test in tests for f in row_findings(test.rows, test.name, "test-")),
        *pair_findings(material.preferences),
        *(f for side, test, found in leaks for f in leak_findings(side, test, found)),
        *(f for test in tests for f in dev_findings(test)),
        *(f for test in tests for f in prior_findings(trained[0].rows, test.rows, test.name)),
        *identity_findings(material),
        *dirt_findings(material),
    ]  # fmt: skip
    counts = {
        "images": len(material.images),
        "conversations": len(material.conversations),
        "turns": sum(len(conversation.turns) for conversation in material.conversations),
        "samples": len(material.samples),
        "preferences": len(material.preferences),
        "dropped": len(material.dropped),
    }
    findings.sort(key=lambda found: _ORDER.index(found.severity))
    return Report(
        counts=counts, findings=tuple(findings), leaks=strongest(found for _, _, found in leaks)
    )

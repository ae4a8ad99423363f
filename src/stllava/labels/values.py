"""What one row of a table says of each finding."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from stllava.labels.mapping import EMPTY, UNKNOWN, Columns, Finding, cell_text
from stllava.records import Dropped, JSONObject
from stllava.sources import STAGE


class Value(NamedTuple):
    """What the table says of one finding in one image."""

    present: bool
    side: str = ""  # left | right | both
    grade: str = ""
    text: str = ""


def values_of(
    cells: JSONObject, columns: Columns, dropped: list[Dropped], place: str
) -> Iterator[tuple[str, Value]]:
    """Yield (finding, value) of what is known; a cell that the mapping does not know is dropped."""
    for name, finding in columns.findings.items():
        cell = cells.get(finding.column)
        meaning = finding.meanings.get(cell_text(cell))
        if meaning is None and cell_text(cell) in EMPTY:
            continue
        if finding.kind == "text":
            meaning = meaning or str(cell).strip()
        if meaning is None:
            reason = f"{finding.column!r} is {str(cell)[:40]!r}, which is not in its values"
            dropped.append(Dropped(id=f"{place}/{name}", stage=STAGE, reason=reason))
        elif meaning != UNKNOWN:
            yield name, _value(finding, meaning)


def _value(finding: Finding, meaning: str) -> Value:
    if finding.kind == "text":
        return Value(True, text=meaning)
    present = meaning != "no"
    side = meaning if finding.kind == "sided" and present else ""
    return Value(present, side, meaning if finding.kind == "graded" and present else "")

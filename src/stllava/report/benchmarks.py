"""The table of all benchmarks as the page shows it; its figures are those of eval/table.json."""

from __future__ import annotations

from typing import Any, NamedTuple

from stllava.report.tables import Cell
from stllava.tables import Table
from stllava.tables.write import LABELS, columns, grouped, notes, shown, sizes


class Line(NamedTuple):
    """A row; `heading` stands before it where it is the first of its kind."""

    heading: str
    name: str
    kind: str
    cells: list[Cell]


def benchmark_table(table: Table | None) -> dict[str, Any]:
    """What the template needs; empty without a complete evaluation."""
    if table is None:
        return {"table_heads": [], "table_metrics": [], "table_lines": [], "table_notes": []}
    keys, n = columns(table), sizes(table)
    lines = [
        Line(
            heading,
            row.name,
            row.kind,
            [_cell(shown(row.cells.get(k), row.kind, n[k])) for k in keys],
        )
        for heading, row in grouped(table)
    ]
    return {
        "table_heads": [(b, sum(key[0] == b for key in keys)) for b in table.benchmarks],
        "table_metrics": [(LABELS[metric], n[b, metric]) for b, metric in keys],
        "table_lines": lines,
        "table_notes": notes(table),
    }


def _cell(texts: tuple[str, str]) -> Cell:
    value, small = texts
    return Cell(value or "–", small)

"""The table of all benchmarks as the page shows it; its figures are those of eval/table.json."""

from __future__ import annotations

from typing import Any, NamedTuple

from stllava.report.tables import Cell
from stllava.tables import Table
from stllava.tables.build import BLIND, Row
from stllava.tables.write import LABELS, columns, grouped, notes, sizes
from stllava.tables.write import shown as in_words

# Blind baselines of the page's first table.
ABOVE = {BLIND[k] for k in ("yes", "no", "yes_there_is_no", "best_constant", "majority")}


class Line(NamedTuple):
    """A row; `heading` stands before it where it is the first of its kind."""

    heading: str
    name: str
    kind: str
    cells: list[Cell]


def benchmark_table(table: Table | None, *, shown: str | None = None) -> dict[str, Any]:
    """What the template needs; empty without a complete evaluation.

    `shown`: BENCHMARK/VIEW of the page's first table. Where there is no other, only what that does
    not say already is left.
    """
    if table is None:
        return {"table_lines": []}
    keys, n = columns(table), sizes(table)
    is_only = shown is not None and table.benchmarks == (shown.split("/")[0],)
    if is_only and not any(metric == "judged" for _, metric in keys):
        table = table._replace(rows=tuple(row for row in table.rows if not _is_above(row)))
    lines = [
        Line(
            heading,
            row.name,
            row.kind,
            [_cell(in_words(row.cells.get(k), row.kind, n[k])) for k in keys],
        )
        for heading, row in grouped(table)
    ]
    return {
        "table_heads": [(b, sum(key[0] == b for key in keys)) for b in table.benchmarks],
        "table_metrics": [(LABELS[metric], n[b, metric]) for b, metric in keys],
        "table_lines": lines,
        "table_notes": notes(table),
        "table_is_rest": is_only,
    }


def _is_above(row: Row) -> bool:
    return row.kind in ("model", "control") or row.name in ABOVE


def _cell(texts: tuple[str, str]) -> Cell:
    value, small = texts
    return Cell(value or "–", small)

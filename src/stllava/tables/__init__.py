"""The paper's Tables 2 and 4 from a run directory: models by benchmarks, with what must be beside.

`build` reads `scores.json` of every complete evaluation; `write_tables` writes eval/table.md, .tex,
.csv and .json. A page may show the same `Table`.
"""

from __future__ import annotations

from stllava.tables.build import Cell, Row, Table, build
from stllava.tables.quoted import BENCHMARKS as PAPER_BENCHMARKS
from stllava.tables.write import write_tables

__all__ = ["PAPER_BENCHMARKS", "Cell", "Row", "Table", "build", "write_tables"]

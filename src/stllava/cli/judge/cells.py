"""Tables of shares and how their numbers are written, for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

Shares = Iterable[tuple[str, Mapping[str, Any] | None]]


def table(title: str, shares: Shares) -> Table:
    grid = empty(title, ("share", "interval", "n", "patients"))
    for label, share in shares:
        if share is not None and share["percent"] is not None:
            cells = f"{share['percent']:.1f}", interval(share["clustered"], 1)
            grid.add_row(plain(label), *cells, f"{share['n']:,}", f"{share['num_groups']:,}")
    return grid


def empty(title: str, columns: Sequence[str]) -> Table:
    grid = Table(title=plain(title), title_justify="left", box=SIMPLE_HEAD)
    grid.add_column("")
    for name in columns:
        grid.add_column(name, justify="right")
    return grid


def plain(text: str) -> Text:
    """Names are anybody's: neither markup nor what moves the cursor gets through."""
    return Text("".join(c for c in text if c.isprintable()))


def number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def interval(bounds: Sequence[float] | None, digits: int) -> str:
    return "-" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"

"""Tables of the page in one form: a head, lines of cells, a caption; and how shares become cells.

A share stands with its interval and its n.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stllava.report.load import dig, number
from stllava.report.tables import Cell

NO_BREAK = "\u00a0"
MAX_NAME = 80  # characters of a name; files and models are called anything

# Control and bidirectional characters: a name must not reorder the page around it.
HIDDEN = dict.fromkeys(
    n
    for n in range(0x3000)
    if unicodedata.category(chr(n)) in ("Cc", "Cf") and chr(n) not in "\n\t"
)


class Line(NamedTuple):
    """One row; `note` stands in small print below its name."""

    name: str
    note: str
    cells: list[Cell]


class Grid(NamedTuple):
    """`head`: of the columns after the first."""

    title: str
    head: list[str]
    lines: list[Line]
    caption: str = ""


def visible(value: Any) -> Any:
    """A text without what turns its neighbours round or is not seen; other values as they are."""
    return value.translate(HIDDEN) if type(value) is str else value


def short(name: Any, limit: int = MAX_NAME) -> str:
    """A name on one line; of a long one the middle is left out: many differ only at the end."""
    text = " ".join(visible(str(name)).split())
    half = limit // 2
    return text if len(text) <= limit else f"{text[: limit - half - 1]}…{text[-half:]}"


def share_cell(share: Any, *, with_n: bool = True) -> Cell:
    """A share as the audit writes it: percent, clustered interval, n."""
    percent, n = number(dig(share, "percent")), number(dig(share, "n"))
    if percent is None or n is None:
        return Cell()
    small = bounds(dig(share, "clustered"), 1)
    return Cell(f"{percent:.1f} %", _joined(small, size(n) if with_n else ""))


def kappa_cell(kappa: Any, *, with_n: bool = True) -> Cell:
    value, n = number(dig(kappa, "kappa")), number(dig(kappa, "num_items"))
    if value is None:
        return Cell()
    small = bounds(dig(kappa, "interval"), 2)
    return Cell(signed(value), _joined(small, size(n) if with_n and n else ""))


def count_cell(value: Any) -> Cell:
    found = number(value)
    return Cell() if found is None else Cell(f"{found:,.0f}")


def number_cell(value: Any) -> Cell:
    found = number(value)
    return Cell() if found is None else Cell(signed(found))


def size(n: float) -> str:
    return f"n{NO_BREAK}={NO_BREAK}{n:,.0f}"


def signed(value: float, digits: int = 2) -> str:
    return f"{value:.{digits}f}".replace("-", "−")


def bounds(interval: Any, digits: int) -> str:
    """[low, high]; "" where there is none."""
    if not isinstance(interval, Sequence) or len(interval) != 2:
        return ""
    low, high = (signed(float(end), digits) for end in interval)
    return f"[{low},{NO_BREAK}{high}]"


def counts_grid(title: str, by_name: Mapping[str, Mapping[str, Any]], caption: str = "") -> Grid:
    """A row per name, a column per key that any of them has."""
    keys = list(dict.fromkeys(key for counts in by_name.values() for key in counts))
    lines = [
        Line(short(name), "", [count_cell(counts.get(key, 0)) for key in keys])
        for name, counts in by_name.items()
    ]
    return Grid(title, [key.replace("_", " ") for key in keys], lines, caption)


def _joined(interval: str, n: str) -> str:
    return ", ".join(part for part in (interval, n) if part)

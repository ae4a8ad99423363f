"""Results as Markdown tables, ready for docs/performance.md."""

from __future__ import annotations

from collections.abc import Sequence


def show(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print one table under its title."""
    print(f"\n**{title}**\n")
    for line in (header, ["---"] * len(header), *rows):
        print("| " + " | ".join(map(_cell, line)) + " |")
    print(flush=True)


def _cell(value: object) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def times(value: float) -> str:
    """A ratio, as tables write it."""
    return f"{value:.2f}x"


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"

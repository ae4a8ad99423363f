"""Habits of judges: as tables of shares, each with its interval and n."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from stllava.report.grid import Grid, Line, bounds, share_cell, short, size
from stllava.report.load import dig, number
from stllava.report.tables import Cell

MANY = 3  # judges; more stand in one table, a row each


class Share(NamedTuple):
    """Where in a judge's audit a share stands, its name, and what it means."""

    place: tuple[str, ...]
    label: str
    note: str


SHARES = (
    Share(("states", "ok"), "pairs with a winner", "every order asked names the same answer"),
    Share(("consistency", "same"), "same in both orders", "of pairs judged in both"),
    Share(("position", "first_shown_wins"), "first shown wins", "50 % without a habit"),
    Share(("length", "longer_wins"), "longer answer wins", "of decided pairs, unequally long"),
    Share(("blank", "unchanged"), "same winner without the image", "of those asked on a blank"),
)
PARTS = {  # of an audit's breakdown
    "decided": "with a winner",
    "consistent": "same in both orders",
    "first_shown_wins": "first shown wins",
    "longer_wins": "longer answer wins",
}
AT_EQUAL_LENGTH = Share(("position", "model"), "first shown wins at equal length", "by a model")


def grids(judges: Mapping[str, Any]) -> Iterable[Grid]:
    if len(judges) > MANY:
        yield table(judges, "Habits of the judges")
        return
    for name, judge in judges.items():
        lines = [
            Line(s.label, s.note, [share_cell(found)])
            for s in SHARES
            if number(dig(found := dig(judge, *s.place), "percent")) is not None
        ]
        if (model := dig(judge, *AT_EQUAL_LENGTH.place)) is not None:
            lines.append(Line(AT_EQUAL_LENGTH.label, AT_EQUAL_LENGTH.note, [_modelled(model)]))
        yield Grid(f"Habits of {short(name)}", ["share"], lines)


def table(judges: Mapping[str, Any], title: str) -> Grid:
    """A row per judge, a column per habit that any of them shows."""
    used = [s for s in SHARES if any(dig(j, *s.place, "n") for j in judges.values())]
    lines = [
        Line(short(name), "", [share_cell(dig(judge, *s.place)) for s in used])
        for name, judge in judges.items()
    ]
    return Grid(title, [s.label for s in used], lines)


def _modelled(model: Any) -> Cell:
    """A length model's rate; it may come as a NamedTuple's dict."""
    small = bounds(model["at_equal_length_interval"], 1)
    n = size(model["num_items"])
    return Cell(f"{model['at_equal_length']:.1f} %", f"{small}, {n}" if small else n)


def by_source(name: str, judge: Mapping[str, Any]) -> Grid | None:
    """The same for each source of images; None where there is only one."""
    sources: Mapping[str, Any] = judge["by_source"]
    if len(sources) < 2:
        return None
    used = {k: n for k, n in PARTS.items() if any(dig(part, k, "n") for part in sources.values())}
    lines = [
        Line(short(source), "", [share_cell(dig(part, key)) for key in used])
        for source, part in sources.items()
    ]
    return Grid(f"{short(name)}, by source of the images", list(used.values()), lines)

"""Figures about judges: states, scores, margins and habits; of several judges side by side."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stllava.records import JSONObject
from stllava.report.figures import INK, SERIES, SIZE, Draw, bars, save
from stllava.report.grid import short
from stllava.report.load import dig, number

CHANCE = 50.0  # percent
MAX_LABEL = 22  # characters beside an axis
MAX_BARS = 40
MAX_TOGETHER = 20  # habits in one figure

# Where in an audit a habit stands, and what it is called beside the axis.
HABITS = {
    ("consistency", "same"): "consistent",
    ("position", "first_shown_wins"): "first wins",
    ("length", "longer_wins"): "longer wins",
    ("blank", "unchanged"): "same if blank",
}
KNOWN = "right"  # on known answers


class Figure(NamedTuple):
    name: str
    caption: str
    draw: Draw | None  # None where there is nothing to draw
    height: float = SIZE[1]  # inches


class Mark(NamedTuple):
    """One share in a figure, in percent."""

    label: str
    value: float
    interval: Sequence[float] | None
    n: int


def figures(audit: JSONObject, measured: list[JSONObject]) -> list[Figure]:
    """States, scores and margins of the run's judge; of a jury those of its members; habits."""
    judges: dict[str, Any] = audit["judges"]
    members: dict[str, Any] = dig(audit, "jury", "judges") or {}
    given = members or judges
    states: Counter[str] = Counter()
    for judge in judges.values():
        states.update(judge["verdict_states"])
    each = f"n = {states.total():,} verdicts of the run's judge."
    return [
        Figure("judge-states", each, bars("Verdicts by state", states)),
        _values("judge-scores", "Scores given", "score", "histogram", given),
        _values("judge-margins", "Margins of scored verdicts", "margin", "margins", given),
        *_habits({**judges, **members}, measured),
    ]


def write_figures(audit: JSONObject, measured: list[JSONObject], folder: Path) -> list[Path]:
    """Write those that have something to show as PNG files, remove the others; returns them."""
    found = []
    for figure in figures(audit, measured):
        file = folder / f"{figure.name}.png"
        if figure.draw is None:
            file.unlink(missing_ok=True)
            continue
        size = (SIZE[0], figure.height)
        save(folder, figure.name, figure.caption, figure.draw, size=size)
        found.append(file)
    return found


def _values(
    name: str, title: str, label: str, key: str, judges: Mapping[str, JSONObject]
) -> Figure:
    """A histogram of one judge, or a row of shades for each of several."""
    found = {
        who: counts
        for who, judge in judges.items()
        if (counts := {float(k): int(n) for k, n in judge["scores"][key].items()})
    }
    total = sum(sum(counts.values()) for counts in found.values())
    per = "two per verdict that has any" if key == "histogram" else "one per scored verdict"
    caption = f"n = {total:,} {label}s, {per}."
    if len(found) < 2:
        return Figure(name, caption, _histogram(title, label, next(iter(found.values()), {})))
    height = 1.3 + 0.26 * len(found)
    caption += " Shade: share of a judge's own."
    return Figure(name, caption, _shades(title, label, found), height)


def _edges(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Whole points at least up to 1..10 where there are few of them, else ten classes."""
    edges = np.arange(np.floor(values.min()) - 0.5, np.ceil(values.max()) + 1)
    if len(edges) > MAX_BARS:
        return np.histogram_bin_edges(values, 10)
    return np.arange(min(edges[0], 0.5), max(edges[-1], 10.5) + 1)


def _histogram(title: str, label: str, counts: Mapping[float, int]) -> Draw | None:
    if not counts:
        return None
    values, weights = np.array(list(counts)), np.array(list(counts.values()))
    edges = _edges(values)

    def draw(axes: Any) -> None:
        axes.hist(values, edges, weights=weights, color=SERIES[1], rwidth=0.82)
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_ylabel(f"number of {label}s")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")

    return draw


def _shades(title: str, label: str, found: Mapping[str, Mapping[float, int]]) -> Draw:
    edges = _edges(np.array([value for counts in found.values() for value in counts]))
    rows = [
        np.histogram(list(counts), edges, weights=list(counts.values()))[0]
        for counts in found.values()
    ]
    shares = np.array([row / row.sum() for row in rows])
    names = [f"{_label(who)} ({int(row.sum()):,})" for who, row in zip(found, rows, strict=True)]

    def draw(axes: Any) -> None:
        places = np.arange(len(names) + 1) - 0.5
        axes.pcolormesh(edges, places, shares, cmap="Blues", vmin=0, edgecolor="white")
        axes.set_yticks(range(len(names)), names)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.invert_yaxis()
        axes.set_title(title)
        axes.set_xlabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)

    return draw


def _habits(judges: Mapping[str, JSONObject], measured: list[JSONObject]) -> Iterable[Figure]:
    """All habits in one figure or, of many judges, one for each habit."""
    by_habit = {
        habit: {n: mark for n, judge in judges.items() if (mark := _mark(n, dig(judge, *place)))}
        for place, habit in HABITS.items()
    }
    known = {bench["judge"]: bench.get("accuracy") for bench in measured}
    by_habit[KNOWN] = {n: mark for n, share in known.items() if (mark := _mark(n, share))}
    names = {name for marks in by_habit.values() for name in marks}
    several = len(names) > 1
    intro = "Bars: 95 % intervals that know patients; a coin in each order is at the line."
    together = [
        mark._replace(label=f"{mark.label}: {habit}" if several else habit)
        for habit, found in by_habit.items()
        for mark in found.values()
    ]
    is_one = len(together) <= MAX_TOGETHER
    yield _figure("judge-habits", "Habits (%)", intro, together if is_one else [])
    for habit, found in by_habit.items():
        marks = [] if is_one else list(found.values())
        name = f"judge-{habit.replace(' ', '-')}"
        yield _figure(name, f"{habit.capitalize()} (%)", intro, marks)


def _mark(name: str, share: Any) -> Mark | None:
    percent, n = number(dig(share, "percent")), number(dig(share, "n"))
    if percent is None or n is None:
        return None
    return Mark(_label(name), percent, dig(share, "clustered"), int(n))


def _label(name: str) -> str:
    return short(name, MAX_LABEL)


def _figure(name: str, title: str, caption: str, marks: Sequence[Mark]) -> Figure:
    if not marks:
        return Figure(name, caption, None)

    def draw(axes: Any) -> None:
        axes.axvline(CHANCE, color=SERIES[2], linewidth=0.8)
        for y, mark in enumerate(marks):
            if mark.interval:
                axes.plot(list(mark.interval), [y, y], color=SERIES[1], linewidth=1.8)
            axes.plot([mark.value], [y], "o", color=SERIES[1], markersize=5)
        axes.set_yticks(range(len(marks)), [f"{mark.label}, n={mark.n:,}" for mark in marks])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(max(len(marks), 2) - 0.4, -0.6)
        axes.set_xlim(-3, 103)
        axes.spines["left"].set_visible(False)
        axes.set_title(title)
        axes.grid(axis="x")

    return Figure(name, caption, draw, 0.9 + 0.26 * max(3, len(marks)))

"""The judge of a run on its page: how consistent it is, its habits, what it was measured at."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stllava.judging.audit_run import audit_run
from stllava.records import JSONObject
from stllava.report.figures import INK, SERIES, SIZE, Draw, bars, save
from stllava.report.load import Reader, dig, number

CHANCE = 50.0  # percent


class Row(NamedTuple):
    """One share of a judge."""

    label: str
    note: str
    value: str
    interval: str
    n: int


class JudgeTable(NamedTuple):
    """One judge's rows, and what it cost in words."""

    name: str
    rows: list[Row]
    cost: str


class Figure(NamedTuple):
    name: str
    caption: str
    draw: Draw | None
    height: float = SIZE[1]  # inches


# Where in a judge's audit a share stands, its name, and what it means.
SHARES = (
    (("states", "ok"), "pairs with a winner", "every order asked names the same answer"),
    (("states", "tie"), "ties", "of all pairs"),
    (("states", "inconsistent"), "inconsistent", "the orders name different answers, or a tie"),
    (("states", "refused"), "refused", "of all pairs"),
    (("states", "unparsed"), "unparsed", "replies without a readable verdict"),
    (("states", "transport_failed"), "failed", "no reply after all tries"),
    (("consistency", "same"), "same in both orders", "of pairs judged in both"),
    (("position", "first_shown_wins"), "first shown wins", "50 % without a habit"),
    (("length", "longer_wins"), "longer answer wins", "of decided pairs that differ in length"),
    (("blank", "unchanged"), "same winner without the image", "of those asked again on a blank"),
)
HABITS = {  # label -> what it is called in the figure
    "same in both orders": "consistent",
    "first shown wins": "first wins",
    "longer answer wins": "longer wins",
    "same winner without the image": "same if blank",
    "right on known answers": "right",
}


def audited(reader: Reader) -> JSONObject:
    """The audit of what can be read; its "judges" are empty where nothing was judged."""
    return audit_run(reader.records)


def benches(reader: Reader) -> list[JSONObject]:
    """Measurements of judges on known answers, the latest last."""
    files = sorted(reader.path.glob("judge/bench/*/bench.json"), key=lambda f: f.stat().st_mtime)
    found = [reader.json(str(file.relative_to(reader.path))) for file in files]
    return [bench for bench in found if isinstance(bench.get("judge"), str)]


def tables(audit: JSONObject, measured: list[JSONObject]) -> list[JudgeTable]:
    """Judges of the run, then those that were only measured on known answers."""
    by_name = {str(bench["judge"]): bench for bench in measured}
    judges: dict[str, Any] = audit["judges"]
    return [
        JudgeTable(
            name, _rows(judges.get(name, {}), by_name.get(name, {})), _cost(judges.get(name))
        )
        for name in dict.fromkeys([*judges, *by_name])
    ]


def _rows(judge: JSONObject, bench: JSONObject) -> list[Row]:
    found = [_row(label, note, dig(judge, *place)) for place, label, note in SHARES]
    found.append(
        _row("right on known answers", "pairs of a true and a wrong one", bench.get("accuracy"))
    )
    return [row for row in found if row is not None]


def _row(label: str, note: str, share: Any) -> Row | None:
    percent = number(dig(share, "percent"))
    if percent is None:
        return None
    bounds = dig(share, "clustered")
    interval = f"{bounds[0]:.1f} to {bounds[1]:.1f}" if bounds else ""
    return Row(label, note, f"{percent:.1f} %", interval, int(share["n"]))


def _cost(judge: JSONObject | None) -> str:
    cost = (judge or {}).get("cost", {})
    parts = []
    if cost.get("with_usage"):
        tokens = cost["prompt_tokens"], cost["completion_tokens"], cost["with_usage"]
        parts.append("{:,} tokens read and {:,} written in {:,} verdicts".format(*tokens))
    if cost.get("cost_usd") is not None:
        parts.append(f"{cost['cost_usd']:.2f} dollars")
    if cost.get("models_returned"):
        parts.append("answered by " + ", ".join(cost["models_returned"]))
    return "; ".join(parts)


def figures(audit: JSONObject, measured: list[JSONObject]) -> list[Figure]:
    """States, scores and habits; `draw` is None where there is nothing to draw."""
    judges: dict[str, Any] = audit["judges"]
    states: Counter[str] = Counter()
    scores: Counter[float] = Counter()
    for judge in judges.values():
        states.update(judge["verdict_states"])
        scores.update({float(k): n for k, n in judge["scores"]["histogram"].items()})
    rows = [
        (table.name, row)
        for table in tables(audit, measured)
        for row in table.rows
        if row.label in HABITS
    ]
    each = f"n = {states.total():,} verdicts, one per pair and order."
    given = f"n = {scores.total():,} scores, two per verdict that has any."
    habits = (
        "Habits of the judge; bars: 95 % intervals that know patients. A coin in each order is at "
        "the line."
    )
    return [
        Figure("judge-states", each, bars("Verdicts by state", states)),
        Figure("judge-scores", given, _histogram(scores)),
        Figure("judge-habits", habits, _habits(rows), 0.9 + 0.26 * max(3, len(rows))),
    ]


def write_figures(audit: JSONObject, measured: list[JSONObject], folder: Path) -> list[Path]:
    """Write those that have something to show as PNG files; returns them."""
    found = []
    for figure in figures(audit, measured):
        if figure.draw is not None:
            size = (SIZE[0], figure.height)
            save(folder, figure.name, figure.caption, figure.draw, size=size)
            found.append(folder / f"{figure.name}.png")
    return found


def _habits(rows: list[tuple[str, Row]]) -> Draw | None:
    if not rows:
        return None
    several = len({name for name, _ in rows}) > 1

    def draw(axes: Any) -> None:
        axes.axvline(CHANCE, color=SERIES[2], linewidth=0.8)
        for y, (_, row) in enumerate(rows):
            if row.interval:
                low, high = map(float, row.interval.split(" to "))
                axes.plot([low, high], [y, y], color=SERIES[1], linewidth=1.8)
            axes.plot([float(row.value.split()[0])], [y], "o", color=SERIES[1], markersize=5)
        short = [(name[:12], HABITS[row.label]) for name, row in rows]
        names = [f"{name}: {habit}" if several else habit for name, habit in short]
        axes.set_yticks(range(len(rows)), names)
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(max(len(rows), 2) - 0.4, -0.6)
        axes.set_xlim(-3, 103)
        axes.spines["left"].set_visible(False)
        axes.set_title("Habits (%)")
        axes.grid(axis="x")

    return draw


def _histogram(scores: Mapping[float, int]) -> Draw | None:
    if not scores:
        return None
    values, counts = np.array(list(scores)), np.array(list(scores.values()))
    edges = np.arange(np.floor(values.min()) - 0.5, np.ceil(values.max()) + 1)
    if len(edges) > 40 or len(edges) < 6:
        edges = np.histogram_bin_edges(values, 10) if len(edges) > 40 else np.arange(0.5, 11)

    def draw(axes: Any) -> None:
        axes.hist(values, edges, weights=counts, color=SERIES[1], rwidth=0.82)
        axes.set_title("Scores given by the judge")
        axes.set_xlabel("score")
        axes.set_ylabel("number of scores")
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")

    return draw

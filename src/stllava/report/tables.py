"""The tables of results: models, blind baselines, changes against stage 1 and against controls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from stllava.report.compare import Comparison, Estimate, Wins, gain
from stllava.report.load import Evaluation, dig, number
from stllava.report.measures import METRICS, show, show_interval

Models = Sequence[tuple[Evaluation, Mapping[str, Estimate]]]
BLIND = {
    "yes": "always “yes”",
    "no": "always “no”",
    "yes_there_is_no": "always “Yes, there is no”",
    "majority": "the usual training answer",
}


class Cell(NamedTuple):
    """A number of a table; `tone` is good, bad, moved or "" and never the only sign of it."""

    value: str = "–"
    interval: str = ""
    tone: str = ""


class Row(NamedTuple):
    name: str
    note: str
    cells: list[Cell]
    kind: str = ""  # base, sft, dpo, control, blind


class WinBar(NamedTuple):
    """Shares in percent for the bar, counts and rate for the reader."""

    name: str
    wins: Wins
    shares: tuple[float, float, float]
    rate: Cell


class Change(NamedTuple):
    """One model against another."""

    name: str
    comparison: Comparison
    met: bool
    verdict: str


def metric_head(keys: Sequence[str]) -> list[tuple[str, str]]:
    return [(metric.label, metric.unit) for metric in METRICS if metric.key in keys]


def present(models: Models) -> list[str]:
    """Keys of the metrics that any model has, in the order of METRICS."""
    return [m.key for m in METRICS if any(m.key in found for _, found in models)]


def model_rows(models: Models) -> list[Row]:
    """A row per model: each metric with its interval."""
    keys = present(models)
    rows = []
    for evaluation, found in models:
        scored = sum(not item.missing for item in evaluation.items)
        num_missing = len(evaluation.items) - scored
        note = f"n = {scored:,}" + (f", {num_missing} missing" if num_missing else "")
        cells = [_cell(key, found.get(key)) for key in keys]
        kind = "control" if evaluation.key.startswith("control/") else evaluation.key
        rows.append(Row(evaluation.label, note, cells, kind))
    return rows


def _cell(key: str, estimate: Estimate | None) -> Cell:
    if estimate is None:
        return Cell()
    return Cell(show(key, estimate.value), show_interval(key, estimate.interval))


def blind_rows(blind: dict[str, Any], keys: Sequence[str]) -> list[Row]:
    """Answers that never look at the picture."""
    rows = []
    best = dig(blind, "closed", "best_constant", "answer")
    known = {name: {"accuracy": dig(blind, "closed", name)} for name in BLIND}
    known["majority"].update(
        {name: dig(blind, "open", "majority", name) for name in ("recall", "f1")}
    )
    known["best"] = {"accuracy": dig(blind, "closed", "best_constant", "accuracy")}
    names = {**BLIND, "best": f"best constant: “{best}”"}
    for name, values in known.items():
        found = {key: number(values.get(key)) for key in keys}
        if all(value is None for value in found.values()):
            continue
        cells = [Cell() if v is None else Cell(show(key, v)) for key, v in found.items()]
        rows.append(Row(names[name], "", cells, "blind"))
    return rows


def change_rows(changes: Sequence[Change]) -> list[Row]:
    """A row per metric, a column per comparison; tone and arrow where the interval excludes 0."""
    rows = []
    for metric in METRICS:
        if not any(metric.key in change.comparison.changes for change in changes):
            continue
        unit = "points" if metric.unit == "%" else metric.unit
        cells = [_change_cell(metric.key, change.comparison) for change in changes]
        rows.append(Row(metric.label, unit, cells))
    return rows


def _change_cell(key: str, comparison: Comparison) -> Cell:
    change = comparison.changes.get(key)
    if change is None:
        return Cell()
    better = next(metric.better for metric in METRICS if metric.key == key)
    tone = ""
    if change.direction:
        tone = {1: "good", -1: "bad", 0: "moved"}[change.direction * better]
    interval = show_interval(key, change.interval)
    return Cell(show(key, change.value, sign=True), interval, tone)


def change(name: str, comparison: Comparison) -> Change:
    met, verdict = gain(comparison)
    return Change(name, comparison, met, verdict)


def win_bars(changes: Sequence[Change], field: str) -> list[WinBar]:
    """Win, tie and lose of each comparison; `field`: "wins" or "matched"."""
    bars = []
    for one in changes:
        wins: Wins | None = getattr(one.comparison, field)
        if wins is None:
            continue
        total = wins.win + wins.tie + wins.lose
        shares = (100 * wins.win / total, 100 * wins.tie / total, 100 * wins.lose / total)
        bars.append(WinBar(one.name, wins, shares, _rate(wins)))
    return bars


def _rate(wins: Wins) -> Cell:
    if wins.rate is None:
        return Cell()
    low, high = wins.rate.interval or (0.0, 100.0)
    tone = "good" if low > 50 else "bad" if high < 50 else ""
    return Cell(show("f1", wins.rate.value), show_interval("f1", wins.rate.interval), tone)

"""Figures as PNG files, each drawn for light and for dark pages, small enough for a phone."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure

from stllava.report.compare import Estimate
from stllava.report.load import Evaluation, number
from stllava.report.measures import METRICS

SIZE = (4.2, 2.7)  # inches; at DPI about what a column of the page is wide, twice over
DPI = 170


class Theme(NamedTuple):
    """Colours that hold on one background."""

    paper: str
    ink: str
    muted: str
    rule: str
    models: tuple[str, str, str, str]  # base, sft, dpo, controls
    series: tuple[str, str, str]


LIGHT = Theme(
    paper="#ffffff",
    ink="#22262b",
    muted="#6b7178",
    rule="#dcdcd6",
    models=("#8d939b", "#2f6f9f", "#c2602b", "#7a6aa6"),
    series=("#22262b", "#2f6f9f", "#c2602b"),
)
DARK = Theme(
    paper="#1b1e22",
    ink="#e6e4df",
    muted="#9aa0a7",
    rule="#34393f",
    models=("#9aa0a7", "#78b4dc", "#eb955f", "#b3a4dd"),
    series=("#e6e4df", "#78b4dc", "#eb955f"),
)

Draw = Callable[[Any, Theme], None]  # onto matplotlib Axes


class Picture(NamedTuple):
    """One figure of the page."""

    name: str
    caption: str
    light: str  # data URI
    dark: str


def save(folder: Path, name: str, caption: str, draw: Draw, size: Any = SIZE) -> Picture:
    """Write NAME.png (light) and NAME-dark.png, and return both for embedding."""
    folder.mkdir(parents=True, exist_ok=True)
    uris = []
    for theme, suffix in ((LIGHT, ""), (DARK, "-dark")):
        file = folder / f"{name}{suffix}.png"
        # An odd control name must not be read as TeX, nor warn about a glyph.
        with mpl.rc_context(_style(theme)), warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            figure = Figure(figsize=size, layout="constrained")
            axes = figure.add_subplot()
            draw(axes, theme)
            figure.savefig(file, format="png", dpi=DPI)
        uris.append("data:image/png;base64," + base64.b64encode(file.read_bytes()).decode())
    return Picture(name, caption, *uris)


def _style(theme: Theme) -> dict[str, Any]:
    return {
        "font.family": "DejaVu Sans",
        "font.size": 8.5,
        "text.parse_math": False,
        "text.color": theme.ink,
        "figure.facecolor": theme.paper,
        "axes.facecolor": theme.paper,
        "axes.edgecolor": theme.rule,
        "axes.labelcolor": theme.muted,
        "axes.titlesize": 9.5,
        "axes.titlelocation": "left",
        "axes.titlecolor": theme.ink,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.axisbelow": True,
        "xtick.color": theme.muted,
        "ytick.color": theme.muted,
        "xtick.major.size": 0,
        "ytick.major.size": 0,
        "grid.color": theme.rule,
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "legend.fontsize": 8,
    }


def curve(title: str, lines: Sequence[Mapping[str, Any]], keys: Mapping[str, str]) -> Draw | None:
    """Metrics over steps: thin as measured, thick a running mean. None if none was logged.

    `keys`: name in metrics.jsonl -> label.
    """
    found = {
        label: [(s, v) for x in lines if (s := number(x.get("step"))) and _is(v := x.get(key))]
        for key, label in keys.items()
    }
    found = {label: points for label, points in found.items() if points}
    if not found:
        return None

    def draw(axes: Any, theme: Theme) -> None:
        for (label, points), color in zip(found.items(), theme.series, strict=False):
            steps, values = np.array(points, dtype=np.float64).T
            axes.plot(steps, values, color=color, linewidth=0.6, alpha=0.35)
            axes.plot(steps, _smooth(values), color=color, linewidth=1.6, label=label)
        axes.set_title(title)
        axes.set_xlabel("optimiser step")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(axis="y")
        if len(found) > 1:
            axes.legend(loc="best")

    return draw


def _is(value: Any) -> bool:
    return number(value) is not None


def _smooth(values: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """A running mean over a fifteenth of the steps, shorter at the ends."""
    half = max(1, len(values) // 30)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    index = np.arange(len(values))
    low, high = np.maximum(0, index - half), np.minimum(len(values), index + half + 1)
    smooth: np.ndarray[Any, Any] = (sums[high] - sums[low]) / (high - low)
    return smooth


def model_color(key: str, theme: Theme) -> str:
    order = {"base": 0, "sft": 1, "dpo": 2}
    return theme.models[order.get(key, 3)]


def dots(key: str, models: Sequence[tuple[Evaluation, Mapping[str, Estimate]]]) -> Draw | None:
    """One metric over models, a dot and its interval each."""
    rows = [(e, found[key]) for e, found in models if key in found]
    if not rows:
        return None
    metric = next(metric for metric in METRICS if metric.key == key)

    def draw(axes: Any, theme: Theme) -> None:
        for y, (evaluation, estimate) in enumerate(rows):
            color = model_color(evaluation.key, theme)
            if estimate.interval is not None:
                axes.plot(list(estimate.interval), [y, y], color=color, linewidth=1.8)
            axes.plot([estimate.value], [y], "o", color=color, markersize=5)
        axes.set_yticks(range(len(rows)), [e.label[:28] for e, _ in rows])
        axes.tick_params(axis="y", labelcolor=theme.ink)
        axes.set_ylim(len(rows) - 0.4, -0.6)
        axes.spines["left"].set_visible(False)
        axes.set_title(f"{metric.label} ({metric.unit})")
        axes.grid(axis="x")

    return draw


def bars(title: str, counts: Mapping[str, int]) -> Draw | None:
    """Counts as horizontal bars with their numbers, the largest first."""
    rows = sorted(((n, name) for name, n in counts.items() if n), reverse=True)
    if not rows:
        return None
    total = sum(n for n, _ in rows)

    def draw(axes: Any, theme: Theme) -> None:
        values = [n for n, _ in rows]
        axes.barh(range(len(rows)), values, color=theme.series[1], height=0.62)
        for y, n in enumerate(values):
            axes.text(n, y, f"  {n:,} ({100 * n / total:.0f} %)", va="center", color=theme.ink)
        axes.set_yticks(range(len(rows)), [name.replace("_", " ") for _, name in rows])
        axes.tick_params(axis="y", labelcolor=theme.ink)
        axes.set_ylim(max(len(rows), 3) - 0.5, -0.6)
        axes.set_xlim(0, max(values) * 1.35)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set_title(title)

    return draw

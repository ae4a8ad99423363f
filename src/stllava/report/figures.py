"""Figures as PNG files, sized for a column of the page or a phone."""

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

SIZE = (3.6, 2.5)  # inches; at 96 dots an inch about what a column of the page is wide
DPI = 180


INK, MUTED, RULE = "#22262b", "#6b7178", "#dcdcd6"
SERIES = (INK, "#2f6f9f", "#c2602b")
CONTROL_COLOR = "#7a6aa6"
MODEL_COLORS = {"base": "#8d939b", "sft": "#2f6f9f", "dpo": "#c2602b"}
STYLE = {
    "font.family": "DejaVu Sans",
    "font.size": 8.5,
    "text.parse_math": False,  # an odd control name is no TeX
    "text.color": INK,
    "axes.edgecolor": RULE,
    "axes.labelcolor": MUTED,
    "axes.titlesize": 9.5,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "legend.fontsize": 8,
}

Draw = Callable[[Any], None]  # onto matplotlib Axes


class Picture(NamedTuple):
    """One figure of the page."""

    name: str
    caption: str
    uri: str  # data URI


def save(folder: Path, name: str, caption: str, draw: Draw, size: Any = SIZE) -> Picture:
    """Write NAME.png and return it for embedding. On a dark page the style sheet inverts it."""
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / f"{name}.png"
    with mpl.rc_context(STYLE), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph that the font lacks
        figure = Figure(figsize=size, layout="constrained")
        draw(figure.add_subplot())
        figure.savefig(file, format="png", dpi=DPI)
    uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    return Picture(name, caption, uri)


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

    def draw(axes: Any) -> None:
        for (label, points), color in zip(found.items(), SERIES, strict=False):
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


def model_color(key: str) -> str:
    return MODEL_COLORS.get(key, CONTROL_COLOR)


def dots(key: str, models: Sequence[tuple[Evaluation, Mapping[str, Estimate]]]) -> Draw | None:
    """One metric over models, a dot and its interval each."""
    rows = [(e, found[key]) for e, found in models if key in found]
    if not rows:
        return None
    metric = next(metric for metric in METRICS if metric.key == key)

    def draw(axes: Any) -> None:
        for y, (evaluation, estimate) in enumerate(rows):
            color = model_color(evaluation.key)
            if estimate.interval is not None:
                axes.plot(list(estimate.interval), [y, y], color=color, linewidth=1.8)
            axes.plot([estimate.value], [y], "o", color=color, markersize=5)
        axes.set_yticks(range(len(rows)), [e.label[:28] for e, _ in rows])
        axes.tick_params(axis="y", labelcolor=INK)
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

    def draw(axes: Any) -> None:
        values = [n for n, _ in rows]
        axes.barh(range(len(rows)), values, color=SERIES[1], height=0.62)
        for y, n in enumerate(values):
            axes.text(n, y, f"  {n:,} ({100 * n / total:.0f} %)", va="center", color=INK)
        axes.set_yticks(range(len(rows)), [name.replace("_", " ") for _, name in rows])
        axes.tick_params(axis="y", labelcolor=INK)
        axes.set_ylim(max(len(rows), 3) - 0.5, -0.6)
        axes.set_xlim(0, max(values) * 1.35)
        axes.spines[["left", "bottom"]].set_visible(False)
        axes.set_xticks([])
        axes.set_title(title)

    return draw

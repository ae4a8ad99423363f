"""Judges against one another and against experts: votes, kappas, each left out, thresholds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stllava.records import JSONObject
from stllava.report.grid import (
    Grid,
    Line,
    count_cell,
    counts_grid,
    kappa_cell,
    number_cell,
    share_cell,
    short,
    signed,
)
from stllava.report.load import dig, number
from stllava.report.tables import Cell


def grids(done: JSONObject, audit: JSONObject, habits: Grid) -> list[Grid]:
    """Of a jury its votes, its members' habits and agreement; of experts theirs; calibration."""
    votes: Any = dig(done, "votes")
    votes = votes if isinstance(votes, dict) else {}
    by_member = {who: counts for who, counts in votes.items() if isinstance(counts, dict)}
    panels = (
        ("the jury's members", dig(audit, "jury", "panel")),
        ("the judges", dig(audit, "panel")),
        ("the experts", dig(audit, "experts")),
    )
    return [
        counts_grid("Votes of the jury's members, by state", by_member),
        habits,
        *(
            grid
            for who, panel in panels
            if panel
            for grid in (_kappas(who, panel), _left(who, panel))
        ),
        _calibrations(audit.get("calibration") or {}),
    ]


def _kappas(who: str, panel: JSONObject) -> Grid:
    """Cohen's kappa of every two, below the diagonal."""
    judges: Sequence[str] = panel["judges"]
    found = {(row["a"], row["b"]): row for row in panel["kappas"]}
    lines = [
        Line(
            f"{n + 1} {short(judge)}",
            "",
            [kappa_cell(found.get((other, judge)), with_n=False) for other in judges[:n]]
            + [Cell("")] * (len(judges) - 1 - n),
        )
        for n, judge in enumerate(judges)
    ]
    sizes = [row["num_items"] for row in panel["kappas"]] or [0]
    said = f"n = {min(sizes):,}" + (f" to {max(sizes):,}" if max(sizes) > min(sizes) else "")
    caption = (
        f"Cohen's kappa over winner and tie, {said} pairs that both decided, with 95 % intervals "
        f"over patients. {_agreement(panel)}"
    )
    head = [str(n + 1) for n in range(len(judges) - 1)]
    return Grid(f"Agreement of {who}, beyond chance", head, lines, caption)


def _agreement(panel: JSONObject) -> str:
    alphas = ", ".join(
        f"{signed(value)} ({level})"
        for level in ("nominal", "interval")
        if (value := number(panel[f"alpha_{level}"])) is not None
    )
    parts = [f"Krippendorff's alpha {alphas or 'undefined'}, n = {panel['pairs']:,} pairs"]
    if (fleiss := number(panel["fleiss_kappa"])) is not None:
        parts.append(f"Fleiss' kappa {signed(fleiss)}, n = {panel['fleiss_pairs']:,} all voted on")
    if (n_eff := number(panel["n_eff"])) is not None:
        mean = number(panel["mean_correlation"])
        of = f", mean correlation of votes {signed(mean)}" if mean is not None else ""
        parts.append(f"worth {signed(n_eff, 1)} independent votes of {len(panel['judges'])}{of}")
    return "; ".join(parts) + "."


def _left(who: str, panel: JSONObject) -> Grid:
    """What remains without each, and how it agrees with the majority of the others."""
    lines = [
        Line(
            short(name),
            "",
            [
                count_cell(panel["votes"].get(name)),
                kappa_cell(row["kappa_with_the_others"]),
                number_cell(row["alpha_nominal"]),
                number_cell(row["n_eff"]),
            ],
        )
        for name, row in panel["left_out"].items()
    ]
    head = ["votes", "kappa with the others", "alpha without it", "votes' worth without it"]
    return Grid(
        f"Each of {who} left out", head, lines, "Alpha that rises without one: it stands apart."
    )


def _calibrations(found: Mapping[str, Any]) -> Grid:
    """Every judge against the experts; the margin chosen on one half, reported on the other."""
    head = ["kappa", "right, both decided", "right, of all decided", "margin", "right above it",
            "kept above it"]  # fmt: skip
    lines = []
    for name, one in found.items():
        margin = number(dig(one, "threshold", "margin"))
        reported = dig(one, "threshold", "reported_on")
        cells = [
            kappa_cell(one["kappa"]),
            share_cell(one["accuracy"]),
            share_cell(one["accuracy_of_all"]),
            Cell("–" if margin is None else f"{margin:g} or more"),
            share_cell(dig(reported, "accuracy")),
            share_cell(dig(reported, "kept")),
        ]
        lines.append(Line(short(name), "", cells))
    caption = (
        "Intervals know patients. The margin was chosen on one half of the patients; the last two "
        "columns are of the other half."
    )
    return Grid("Against the experts", head, lines, caption)

"""Tables about a judge for a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from stllava.cli.tables import Part
from stllava.records import JSONObject

Shares = Iterable[tuple[str, Mapping[str, Any] | None]]


def audit_parts(found: JSONObject) -> list[Part]:
    """All judges of a run, then the jury's members, then experts."""
    parts: list[Part] = [
        Text(f"{found['num_answers']:,} questions with verdicts, {found['num_groups']:,} patients")
    ]
    for name, judge in found["judges"].items():
        parts += _judge(name, judge)
    for title, panel in (
        ("members of the jury", found.get("jury", {}).get("panel")),
        ("judges of this run", found.get("panel")),
        ("experts", found.get("experts")),
    ):
        parts += _panel(title, panel) if panel else []
    for name, calibration in found.get("calibration", {}).items():
        parts += _calibration(name, calibration)
    return parts


def _judge(name: str, judge: JSONObject) -> list[Part]:
    shares: list[tuple[str, Any]] = [(f"pairs: {k}", v) for k, v in judge["states"].items()]
    shares += [
        ("same in both orders", judge["consistency"]["same"]),
        ("winner flips with the order", judge["consistency"]["flipped"]),
        ("of these to the first shown", judge["consistency"]["flipped_to_first_shown"]),
        (f"first shown wins ({judge['position']['basis']})", judge["position"]["first_shown_wins"]),
        ("longer answer wins", judge["length"]["longer_wins"]),
    ]
    shares += [(f"  by {gap} words", v) for gap, v in judge["length"]["by_gap"].items()]
    shares += [("same winner without the image", judge["blank"]["unchanged"])]
    for what in ("by_source", "by_kind"):
        for part, rows in judge[what].items():
            shares += [(f"{part}: same in both orders", rows["consistent"])]
    title = f"{name}: {judge['pairs']:,} pairs, {judge['verdicts']:,} verdicts, percent"
    return [_table(title, shares), Text("\n".join(_lines(judge)))]


def _lines(judge: JSONObject) -> list[str]:
    found = []
    if (model := judge["position"]["model"]) is not None:
        low, high = model["slope_interval"] or (float("nan"),) * 2
        found.append(
            f"at equal length the first shown wins {model['at_equal_length']:.1f} %; with "
            f"{model['sd_words']:.1f} words more the longer one wins {model['longer_by_sd']:.1f} % "
            f"(slope {model['slope']:+.2f}, {low:+.2f} to {high:+.2f})"
        )
    flagged = judge["blank"]["unchanged_pairs"]
    if flagged:
        shown = ", ".join(flagged[:5]) + (" …" if len(flagged) > 5 else "")
        found.append(f"decided alike without the image: {shown}")
    cost = judge["cost"]
    if cost["with_usage"]:
        found.append(
            f"{cost['prompt_tokens']:,} tokens read, {cost['completion_tokens']:,} written"
        )
    if cost["cost_usd"] is not None:
        found.append(f"{cost['cost_usd']:.4f} dollars for {cost['priced']:,} verdicts")
    return found


def _panel(title: str, panel: JSONObject) -> list[Part]:
    table = _empty(f"{title}: agreement beyond chance", ("kappa", "interval", "pairs"))
    for row in panel["kappas"]:
        cells = _number(row["kappa"]), _interval(row["interval"], 2), str(row["num_items"])
        table.add_row(f"{row['a']} and {row['b']}", *cells)
    left = ", ".join(
        f"{name} {_number(row['alpha_nominal'])}" for name, row in panel["left_out"].items()
    )
    return [
        table,
        Text(
            f"Krippendorff's alpha {_number(panel['alpha_nominal'])} (nominal), "
            f"{_number(panel['alpha_interval'])} (interval); Fleiss' kappa "
            f"{_number(panel['fleiss_kappa'])} on {panel['fleiss_pairs']} pairs that all voted on\n"
            f"worth {_number(panel['n_eff'])} independent votes of {len(panel['judges'])}; "
            f"alpha without {left}"
        ),
    ]


def _calibration(name: str, found: JSONObject) -> list[Part]:
    kappa = found["kappa"]
    shares: list[tuple[str, Any]] = [
        ("right where both name a winner", found["accuracy"]),
        ("right of all that the experts decided", found["accuracy_of_all"]),
    ]
    threshold = found["threshold"]
    if threshold is not None:
        margin = f"margin {threshold['margin']:g} or more"
        for half in ("chosen_on", "reported_on"):
            where = half.replace("_", " ")
            shares.append((f"{margin}, {where}: right", threshold[half]["accuracy"]))
            shares.append((f"{margin}, {where}: kept", threshold[half]["kept"]))
    title = f"{name} against the experts, percent"
    confusion = "; ".join(
        f"experts {row}: " + ", ".join(f"{n} {said}" for said, n in cells.items())
        for row, cells in found["confusion"].items()
    )
    if threshold is not None and not threshold["reached"]:
        confusion += f"\nno margin reaches {threshold['target']:g} %; shown is the best there is"
    agreed = f"kappa {_number(kappa['kappa'])} ({_interval(kappa['interval'], 2)})"
    return [_table(title, shares), Text(f"{agreed} on {kappa['num_items']} pairs; {confusion}")]


def bench_parts(found: JSONObject) -> list[Part]:
    """Accuracy on known pairs by category, position and length."""
    shares: list[tuple[str, Any]] = [
        ("right (a tie counts half)", found["accuracy"]),
        ("right in every order, of all pairs", found["right_of_all"]),
    ]
    for what in ("by_category", "by_position", "by_length"):
        shares += list(found[what].items())
    states = ", ".join(f"{n:,} {state}" for state, n in found["states"].items())
    title = f"{found['judge']} ({found['rubric']}, {found['orders']} orders): known pairs, percent"
    parts: list[Part] = [_table(title, shares), Text(f"pairs by state: {states}")]
    if (model := found["at_equal_length"]) is not None:
        rate = f"{model['at_equal_length']:.1f} %"
        parts.append(Text(f"single verdicts, right at equal length: {rate}"))
    return parts


def _table(title: str, shares: Shares) -> Table:
    table = _empty(title, ("share", "interval", "n", "images"))
    for label, share in shares:
        if share is not None and share["percent"] is not None:
            cells = f"{share['percent']:.1f}", _interval(share["clustered"], 1)
            table.add_row(label, *cells, f"{share['n']:,}", f"{share['num_groups']:,}")
    return table


def _empty(title: str, columns: Sequence[str]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name in columns:
        table.add_column(name, justify="right")
    return table


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _interval(bounds: Sequence[float] | None, digits: int) -> str:
    return "-" if bounds is None else f"{bounds[0]:.{digits}f} to {bounds[1]:.{digits}f}"

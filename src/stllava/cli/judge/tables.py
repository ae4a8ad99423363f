"""Tables about a judge for a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.text import Text

from stllava.cli.judge.cells import empty, interval, plain, table
from stllava.cli.judge.panels import calibration_parts, panel_parts
from stllava.cli.tables import Part
from stllava.records import JSONObject

PARTS = {  # of an audit's breakdown
    "decided": "with a winner",
    "consistent": "same in both orders",
    "first_shown_wins": "first shown wins",
    "longer_wins": "longer answer wins",
}


def audit_parts(found: JSONObject) -> list[Part]:
    """All judges of a run, then the jury's members, then experts."""
    parts: list[Part] = [
        Text(f"{found['num_answers']:,} questions with verdicts, {found['num_groups']:,} patients")
    ]
    for name, judge in found["judges"].items():
        parts += _judge(name, judge)
    for name, member in found.get("jury", {}).get("judges", {}).items():
        parts += _judge(f"member {name}", member)
    for title, panel in (
        ("members of the jury", found.get("jury", {}).get("panel")),
        ("judges of this run", found.get("panel")),
        ("experts", found.get("experts")),
    ):
        parts += panel_parts(title, panel) if panel else []
    if votes := found.get("votes"):
        used, outdated = f"{votes['used']:,} used", f"{votes['outdated']:,}"
        line = f"experts' votes: {used}, {outdated} about texts that are no longer there"
        parts.append(Text(line))
    for name, calibration in found.get("calibration", {}).items():
        parts += calibration_parts(name, calibration)
    return parts


def _judge(name: str, judge: JSONObject) -> list[Part]:
    shares: list[tuple[str, Any]] = [(f"pairs: {k}", v) for k, v in judge["states"].items()]
    shares += [
        ("same in both orders", judge["consistency"]["same"]),
        ("winner flips with the order", judge["consistency"]["flipped"]),
        ("of these to the first shown", judge["consistency"]["flipped_to_first_shown"]),
        ("a winner in one order, a tie in the other", judge["consistency"]["winner_and_tie"]),
        (f"first shown wins ({judge['position']['basis']})", judge["position"]["first_shown_wins"]),
        ("  at equal length (model)", _modelled(judge["position"]["model"])),
        ("longer answer wins", judge["length"]["longer_wins"]),
    ]
    shares += [(f"  by {gap} words", v) for gap, v in judge["length"]["by_gap"].items()]
    shares += [("same winner without the image", judge["blank"]["unchanged"])]
    title = f"{name}: {judge['pairs']:,} pairs, {judge['verdicts']:,} verdicts, percent"
    return [table(title, shares), *_parts_of(judge), *map(plain, _lines(judge))]


def _modelled(model: JSONObject | None) -> JSONObject | None:
    """A length model's rate as a share."""
    if model is None:
        return None
    bounds = model["at_equal_length_interval"]
    n = {"n": model["num_items"], "num_groups": model["num_groups"]}
    return {"percent": model["at_equal_length"], "clustered": bounds, **n}


def _parts_of(judge: JSONObject) -> list[Part]:
    """By source and by kind of question, where there is more than one."""
    found: list[Part] = []
    for what in ("by_source", "by_kind"):
        if len(judge[what]) > 1:
            grid = empty(what.replace("_", " "), tuple(PARTS.values()))
            for name, part in judge[what].items():
                grid.add_row(plain(name), *(_short(part[key]) for key in PARTS))
            found.append(grid)
    return found


def _short(share: Mapping[str, Any]) -> str:
    if share["percent"] is None:
        return "-"
    return f"{share['percent']:.1f} ({interval(share['clustered'], 1)}; n={share['n']:,})"


def _lines(judge: JSONObject) -> list[str]:
    found = []
    if (model := judge["position"]["model"]) is not None:
        found.append(
            f"with {model['sd_words']:.1f} words more, all else equal, an answer wins "
            f"{model['longer_by_sd']:.1f} % (slope {model['slope']:+.2f}, interval "
            f"{interval(model['slope_interval'], 2)}; 0: length does not matter)"
        )
    flagged = judge["blank"]["unchanged_pairs"]
    if flagged:
        shown = ", ".join(flagged[:5]) + (" …" if len(flagged) > 5 else "")
        found.append(f"decided alike without the image: {shown}")
    return [*found, *_cost(judge["cost"])]


def _cost(cost: JSONObject) -> list[str]:
    """Who was asked and what it cost; nothing of a judge that asks nobody."""
    found = []
    asked = (
        ("rubric", cost["rubrics"]),
        ("asked for", cost["models_asked"]),
        ("answered by", cost["models_returned"]),
    )
    names = [f"{what} {', '.join(counts)}" for what, counts in asked if counts]
    if names:
        found.append("; ".join([*names, f"{cost['first']} to {cost['last']}"]))
    if cost["with_usage"]:
        read, written = cost["prompt_tokens"], cost["completion_tokens"]
        paid = "price unknown"
        if cost["cost_usd"] is not None:
            paid = f"{cost['cost_usd']:.4f} dollars for {cost['priced']:,} verdicts"
        found.append(f"{cost['calls']:,} calls, {read:,} tokens read, {written:,} written; {paid}")
    return found


def bench_parts(found: JSONObject) -> list[Part]:
    """Accuracy on known pairs by category, position and length."""
    shares: list[tuple[str, Any]] = [
        ("right (a tie counts half)", found["accuracy"]),
        ("right in every order, of all pairs", found["right_of_all"]),
        (f"right without the image: {found['text_only']['rule']}", found["text_only"]),
    ]
    for what in ("by_category", "by_position", "by_length"):
        shares += list(found[what].items())
    shares += [("at equal length (model; single verdicts)", _modelled(found["at_equal_length"]))]
    states = ", ".join(f"{n:,} {state}" for state, n in found["states"].items())
    title = f"{found['judge']} ({found['rubric']}, {found['orders']} orders): known pairs, percent"
    return [table(title, shares), Text(f"pairs by state: {states}")]

"""The judge of a run on its page: what it was asked, what became of every pair, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, get_args

from stllava.judging.audit.run import audit_run
from stllava.metrics.interval import wilson
from stllava.records import JSONObject, VerdictState
from stllava.report import habits, jury, known
from stllava.report.grid import Grid, Line, bounds, count_cell, share_cell, short
from stllava.report.load import Reader, dig, number
from stllava.report.tables import Cell

STATES = get_args(VerdictState)


def audited(reader: Reader) -> JSONObject:
    """The audit of what can be read; its "judges" are empty where nothing was judged."""
    return audit_run(reader.records)


def section(
    reader: Reader, audit: JSONObject, measured: list[JSONObject], recipe: Mapping[str, Any]
) -> dict[str, Any]:
    """What the template needs: `judge_facts` (label, value) and `judge_grids`."""
    done = reader.json("judge/stage.json")
    members: dict[str, Any] = dig(audit, "jury", "judges") or {}
    grids = [
        _states(done, audit["judges"]),
        _asked(members or audit["judges"]),
        *habits.grids(audit["judges"]),
        *(habits.by_source(name, judge) for name, judge in audit["judges"].items()),
        known.grid(measured),
        *jury.grids(done, audit, habits.table(members, "Habits of the jury's members")),
    ]
    return {
        "judge_facts": _facts(done, audit, recipe) if done or audit["judges"] else [],
        "judge_grids": [grid for grid in grids if grid is not None and grid.lines],
    }


def _facts(done: JSONObject, audit: JSONObject, recipe: Mapping[str, Any]) -> list[tuple[str, str]]:
    judges = dig(audit, "jury", "judges") or audit["judges"]
    rubrics = dict.fromkeys(name for j in judges.values() for name in j["cost"]["rubrics"])
    found = [("rubric and version", ", ".join(map(short, rubrics)) or "none: no prompt was sent")]
    both = sum(judge["pairs_in_both_orders"] for judge in judges.values())
    pairs = sum(judge["pairs"] for judge in judges.values())
    whose = ", members counted one by one" if len(judges) > 1 else ""
    found.append(("orders", f"{both:,} of {pairs:,} pairs judged in both{whose}"))
    if "left_out" in done:
        found.append(("options the server refused", _words(done["left_out"]) or "none"))
    found.append(("blank-image audit", _blank(done, audit["judges"], recipe)))
    return found


def _words(value: Any) -> str:
    """Names, or names by judge, in one line."""
    if isinstance(value, dict):
        return "; ".join(f"{short(k)}: {_words(v) or 'none'}" for k, v in value.items())
    if isinstance(value, list):
        return ", ".join(_words(one) for one in value)
    return "" if value is None else short(value)


def _blank(done: JSONObject, judges: Mapping[str, Any], recipe: Mapping[str, Any]) -> str:
    """How many pairs were judged again without the image, and how many kept their winner."""
    said: Any = dig(done, "blank")
    pairs, won, same = (number(dig(said, k)) for k in ("pairs", "with_winner", "unchanged"))
    if pairs is None or won is None or same is None:
        is_off = not number(dig(dict(recipe), "judge", "blank_share"))
        return "not done (judge.blank_share is 0)" if is_off else "no figures on disk"
    text = f"{pairs:,.0f} pairs judged again without the image, {won:,.0f} of them with a winner"
    shares = [dig(judge, "blank", "unchanged") for judge in judges.values()]
    if won and len(shares) == 1:
        cell = share_cell(shares[0])
        text += f"; of these {same:,.0f} kept it: {cell.value} {cell.interval}"
    else:
        text += f"; {same:,.0f} kept it"
    return f"{text}; listed in judge/blank.jsonl" if same else text


def _states(done: JSONObject, judges: Mapping[str, Any]) -> Grid | None:
    """Every pair in exactly one state. From stage.json, or from the verdicts while it is not there.

    Intervals know images where the verdicts are of one judge, else they are Wilson's.
    """
    told: Any = dig(done, "pair_states")
    audited = [judge["states"] for judge in judges.values()]
    if not isinstance(told, dict):
        told = {s: sum(one[s]["hits"] for one in audited if s in one) for s in STATES}
    counts = {state: int(n) for state in STATES if (n := number(told.get(state)))}
    total = sum(counts.values())
    if not total and not done:
        return None
    lines = []
    for state, n in counts.items():
        share = dig(audited[0], state) if len(audited) == 1 else None
        cell = share_cell(share, with_n=False)
        if dig(share, "hits") != n or dig(share, "n") != total:
            interval = wilson(n, total)
            cell = Cell(f"{100 * n / total:.1f} %", bounds(interval, 1))
        lines.append(Line(state.replace("_", " "), "", [count_cell(n), cell]))
    lines.append(Line("all states", "", [count_cell(total), Cell("")]))
    return Grid("Pairs by state", ["pairs", "share"], lines, _sum_check(done, counts, total))


def _sum_check(done: JSONObject, counts: Mapping[str, int], total: int) -> str:
    never = [s.replace("_", " ") for s in STATES[:9] if s not in counts]
    text = f"No pair: {', '.join(never)}. " if never else ""
    pairs = number(done.get("pairs"))
    if pairs is None:
        return text + "The stage is not complete: these are the verdicts so far."
    if int(pairs) == total:
        return text + f"They sum to the {total:,} pairs of the stage."
    return text + f"{total:,} of the {pairs:,.0f} pairs of the stage have a verdict."


def _asked(judges: Mapping[str, Any]) -> Grid:
    """Who was asked, who answered, and what it cost."""
    head = ["verdicts", "calls", "tokens read", "written", "dollars"]
    lines = []
    for name, judge in judges.items():
        cost = judge["cost"]
        tokens = [cost["prompt_tokens"], cost["completion_tokens"]] if cost["with_usage"] else []
        lines.append(
            Line(
                short(name),
                _models(cost),
                [
                    count_cell(cost["verdicts"]),
                    count_cell(cost["calls"]),
                    *(count_cell(n) for n in tokens or (None, None)),
                    Cell(money(cost)),
                ],
            )
        )
    caption = (
        "Model ids as they were asked for and as the server gave them; calls with repairs and "
        "blank images, from the verdicts on disk."
    )
    return Grid("Who was asked, and what it cost", head, lines, caption)


def _models(cost: Mapping[str, Any]) -> str:
    """Ids asked for and returned; a name that moves under the run shows as two."""
    said = (("asked for", cost["models_asked"]), ("answered by", cost["models_returned"]))
    return "; ".join(f"{what} {', '.join(map(short, ids))}" for what, ids in said if ids)


def money(cost: Mapping[str, Any]) -> str:
    """Dollars; how many verdicts have no price; "price unknown"; "–" where nobody was asked."""
    if cost["cost_usd"] is None:
        return "price unknown" if cost["models_asked"] else "–"
    unpriced = cost["with_usage"] - cost["priced"]
    return f"{cost['cost_usd']:.4f}" + (f"; {unpriced:,} unpriced" if unpriced > 0 else "")

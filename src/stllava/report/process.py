"""What happened on the way: stages, preflights, questions, the funnel, what was lost."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any, NamedTuple

from stllava.records import Dropped
from stllava.report.load import PIPELINE, Evaluation, Reader, dig, number
from stllava.report.preferred import RULES

MAX_REASONS = 8  # of one stage
GROUP = ("group", "tensors", "parameters", "learning_rate", "with_gradient", "checked")


class StageRow(NamedTuple):
    name: str
    state: str
    seconds: float | None
    finished: str


class Training(NamedTuple):
    """What one training stage trained."""

    name: str
    groups: list[dict[str, Any]]  # rows of preflight.json
    facts: list[tuple[str, str]]


class Step(NamedTuple):
    """One step of the funnel: what came in, what went on."""

    name: str
    note: str
    num_in: int | None
    num_out: int | None


class Lost(NamedTuple):
    stage: str
    total: int
    reasons: list[tuple[str, int]]
    others: int


class Control(NamedTuple):
    name: str
    overrides: list[str]
    preferences: int | None
    steps: int | None
    seconds: float
    state: str


def stage_rows(reader: Reader, evaluations: list[Evaluation]) -> list[StageRow]:
    """Every stage with its state; evaluations and controls in one row each."""
    rows = []
    for name in PIPELINE:
        done = reader.json(f"{name}/stage.json")
        finished = str(done.get("finished", ""))
        rows.append(StageRow(name, reader.state(name), number(done.get("seconds")), finished))
    own = [e for e in evaluations if not e.key.startswith("control/")]
    seconds = sum(e.seconds or 0.0 for e in own)
    names = ", ".join(e.key for e in own)
    state = f"complete: {names}" if own else "not run yet"
    rows.append(StageRow("eval", state, seconds if own else None, ""))
    for control in controls(reader, {}):
        state = control.state
        rows.append(StageRow(f"control {control.name}", state, control.seconds or None, ""))
    return rows


def controls(reader: Reader, recipe: dict[str, Any]) -> list[Control]:
    """Controls of the recipe and of the disk."""
    named: Any = dig(recipe, "controls")
    named = named if isinstance(named, dict) else {}
    there = [folder.name for folder in sorted(reader.path.glob("controls/*")) if folder.is_dir()]
    return [_control(reader, name, named.get(name)) for name in dict.fromkeys([*named, *there])]


def _control(reader: Reader, name: str, overrides: Any) -> Control:
    root = f"controls/{name}"
    done = [str(p.relative_to(reader.path)) for p in reader.path.glob(f"{root}/**/stage.json")]
    seconds = sum(number(reader.json(file).get("seconds")) or 0.0 for file in done)
    return Control(
        name=name,
        overrides=[str(text) for text in overrides] if isinstance(overrides, list) else [],
        preferences=_count(reader.json(f"{root}/prefer/stage.json"), "preferences"),
        steps=_count(reader.json(f"{root}/dpo/stage.json"), "steps"),
        seconds=seconds,
        state=reader.state(f"{root}/dpo"),
    )


def trainings(reader: Reader) -> list[Training]:
    """Preflight tables and facts of sft and dpo."""
    found = []
    for name in ("sft", "dpo"):
        rows = reader.json(f"{name}/preflight.json").get("groups")
        rows = rows if isinstance(rows, list) else []
        groups = [{key: dig(row, key) for key in GROUP} for row in rows if dig(row, "group")]
        done = reader.json(f"{name}/stage.json")
        known = {
            "records": "records",
            "steps": "optimiser steps",
            "cut": "texts cut at max_tokens",
            "precision": "precision",
            "merge_difference": "largest difference after merging (nats)",
        }
        facts = [(label, fact(done[key])) for key, label in known.items() if key in done]
        found.append(Training(name, groups, facts))
    return found


def fact(value: Any) -> str:
    """A value of any kind as a reader expects it."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "–" if value is None else str(value)
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.3g}"


def questions(reader: Reader, recipe: dict[str, Any]) -> list[tuple[str, str]]:
    """How many questions were asked and how good they are, as (label, value)."""
    done = reader.json("ask/stage.json")
    if not done:
        return []
    total = number(done.get("questions"))
    distinct = number(done.get("distinct"))
    rows = [("asked and kept", fact(done.get("questions")))]
    if total and distinct is not None:
        rows.append(("distinct wordings", f"{distinct:,.0f} ({100 * distinct / total:.1f} %)"))
    labels = {
        "distinct_2": "distinct word pairs (distinct-2)",
        "well_formed": "well-formed, by the grammar of the drawn world",
        "answerable": "answerable from the picture",
    }
    for key, label in labels.items():
        if (value := number(done.get(key))) is not None:
            rows.append((label, f"{value:.1f} %"))
    ask = {key: dig(recipe, "ask", key) for key in ("temperature", "top_k", "top_p")}
    rows += [(key.replace("_", "-"), fact(v)) for key, v in ask.items() if v is not None]
    return rows


def funnel(reader: Reader) -> list[Step]:
    """From pictures to preferences; None where a stage has not said its number."""
    ask, answer = reader.json("ask/stage.json"), reader.json("answer/stage.json")
    judge, prefer = reader.json("judge/stage.json"), reader.json("prefer/stage.json")
    kept, dropped = _count(ask, "questions"), _count(ask, "dropped")
    asked = None if kept is None else kept + (dropped or 0)
    draws, cut = _count(answer, "draws"), _count(answer, "cut_off") or 0
    whole = None if draws is None else draws - cut
    verdicts = _count(judge, "verdicts")
    decided = _count(judge.get("states"), "ok") if verdicts is not None else None
    images, num_pairs = _count(ask, "images"), _count(judge, "pairs")
    steps = [
        Step("pictures", "asked about", images, images),
        Step("questions", "kept: whole and not a repetition", asked, kept),
        Step("answers", "draws that ended by themselves", draws, whole),
        Step("pairs", "of draws, given to the judge", num_pairs, num_pairs),
        Step("verdicts", "with a winner", verdicts, decided or (0 if verdicts else None)),
    ]
    for name, counts in reader.json("prefer/counts.json").items():
        if isinstance(counts, dict) and {"in", "out"} <= counts.keys():
            note = RULES.get(name, "")
            steps.append(Step(name, note, _count(counts, "in"), _count(counts, "out")))
    total = _count(prefer, "preferences")
    steps.append(Step("preferences", "training pairs of stage 2", total, total))
    return [step for step in steps if step.num_in is not None]


def _count(data: Any, key: str) -> int | None:
    value = number(dig(data, key))
    return None if value is None else int(value)


def lost(reader: Reader) -> list[Lost]:
    """Dropped records per stage and reason, the most frequent first."""
    found = []
    for name in PIPELINE:
        reasons = Counter(
            _general(dropped.reason) for dropped in reader.records(f"{name}/dropped.jsonl", Dropped)
        )
        if reasons:
            shown = reasons.most_common(MAX_REASONS)
            total = sum(reasons.values())
            found.append(Lost(name, total, shown, total - sum(n for _, n in shown)))
    return found


def _general(reason: str) -> str:
    """The reason without the file it is about, so that equal reasons count together."""
    return re.sub(r"^\S*[/\\]\S*: ", "", reason)


def seconds_text(seconds: float | None) -> str:
    """As "42 s", "3 min 05 s", "2 h 10 min", "–"."""
    if seconds is None:
        return "–"
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 90:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"

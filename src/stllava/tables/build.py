"""A run's evaluations as one table: what a figure is, its interval, its n, and what kind of row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stllava.tables.quoted import BENCHMARKS, NUM_CLOSED, TABLES, is_possible
from stllava.tables.read import Scores, dig, evaluated, recipe_of, trained_on

PAPER_METRICS = ("recall", "f1", "accuracy")  # of open, open and closed questions, in percent
METRICS = ("recall", "f1", "judged", "accuracy")  # and an optional judge's mean mark
BLIND = {
    "yes": "always “yes”",
    "no": "always “no”",
    "yes_there_is_no": "always “Yes, there is no”",
    "best_constant": "best constant, chosen on these questions",
    "majority": "the usual training answer",
    "keywords": "17 likely words, to every question",
    "train_keywords": "the 40 usual training words",
}
VIEWS = {"blank": "image − blank", "other": "image − another's image"}


class Cell(NamedTuple):
    """A figure in percent or, in rows of deltas, in points."""

    value: float
    interval: tuple[float, float] | None = None  # 95 %, clustered by group
    n: int | None = None  # questions
    impossible: bool = False  # no count of answers gives a quoted value


class Row(NamedTuple):
    """`kind`: model, control, blind, delta, published or quoted; cells by (benchmark, metric)."""

    name: str
    kind: str
    cells: dict[tuple[str, str], Cell]


class Table(NamedTuple):
    """`layout`: the number of the paper's table that it follows, 2 zero-shot or 4 fine-tuned."""

    layout: int
    benchmarks: tuple[str, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]


def build(run: Path) -> Table | None:
    """The table of all complete evaluations; None without any. Unreadable files are left out."""
    models = {name: scores for name, scores in evaluated(run) if scores}
    if not models:
        return None
    known = {name for scores in models.values() for name in scores}
    in_paper = [name for name in BENCHMARKS if name in known]
    others = sorted(known - set(in_paper), key=lambda name: (not name.startswith(BENCHMARKS), name))
    benchmarks = (*in_paper, *others)
    recipe = recipe_of(run)
    layout = 4 if trained_on(recipe) & set(BENCHMARKS) else 2
    rows = [
        *(Row(name, _kind(name), _measured(scores)) for name, scores in models.items()),
        *_blind_rows(models),
        *(row for name, scores in models.items() for row in _delta_rows(name, scores)),
        *_published_rows(models),
        *_quoted_rows(layout, in_paper),
    ]
    return Table(layout, benchmarks, tuple(rows), tuple(_notes(models, benchmarks, layout)))


def _kind(name: str) -> str:
    return "control" if name.startswith("control ") else "model"


def _part(metric: str) -> str:
    return "closed" if metric == "accuracy" else "open"


def _measured(scores: Mapping[str, Scores]) -> dict[tuple[str, str], Cell]:
    cells = {}
    for benchmark, said in scores.items():
        for metric in METRICS:
            part = dig(said, _part(metric))
            value = dig(part, metric)
            if isinstance(value, int | float):
                interval = _interval(dig(part, "ci95", metric))
                if metric == "accuracy" and interval is not None and interval[0] == interval[1]:
                    interval = _interval(dig(part, "wilson95"))  # 0 or 100 % has no other
                cells[benchmark, metric] = Cell(value, interval, dig(part, "n"))
        marks = dig(said, "judged")
        if isinstance(value := dig(marks, "mean"), int | float):
            interval = _interval(dig(marks, "ci95"))
            cells[benchmark, "judged"] = Cell(value, interval, dig(marks, "n"))
    return cells


def _blind_rows(models: Mapping[str, Mapping[str, Scores]]) -> list[Row]:
    """Answers that never look at the image; a benchmark's are the same for every model."""
    rows: dict[str, dict[tuple[str, str], Cell]] = {}
    for scores in models.values():
        for benchmark, said in scores.items():
            for metric in METRICS:
                part = dig(said, "blind_baselines", _part(metric))
                for name, value in part.items() if isinstance(part, dict) else ():
                    figure = dig(value, metric) if isinstance(value, dict) else value
                    single = metric == "accuracy" or isinstance(value, dict)
                    if name != "n" and single and isinstance(figure, int | float):
                        cell = Cell(figure, None, part.get("n"))
                        rows.setdefault(name, {}).setdefault((benchmark, metric), cell)
    return [Row(BLIND.get(name, name), "blind", cells) for name, cells in rows.items()]


def _delta_rows(name: str, scores: Mapping[str, Scores]) -> list[Row]:
    rows = []
    for section, views in (("grounding", VIEWS), ("stress", {})):
        there = {v for said in scores.values() for v in dig(said, section) or ()}
        for view in [*(v for v in views if v in there), *sorted(there - set(views))]:
            cells = {}
            for benchmark, said in scores.items():
                for metric in METRICS:
                    found = dig(said, section, view, "metrics", metric)
                    if isinstance(value := dig(found, "delta"), int | float):
                        interval = _interval(dig(found, "ci95"))
                        cells[benchmark, metric] = Cell(value, interval, dig(found, "n"))
            rows.append(Row(f"{name}: {views.get(view, f'given − {view}')}", "delta", cells))
    return rows


def _published_rows(models: Mapping[str, Mapping[str, Scores]]) -> list[Row]:
    """The same answers by the rule of the quoted rows, and the string that such a rule rewards."""
    by_rule = {
        name: {b: said["as_published"] for b, said in scores.items() if dig(said, "as_published")}
        for name, scores in models.items()
    }
    rows = [Row(name, "published", _measured(scores)) for name, scores in by_rule.items() if scores]
    blind = [row for row in _blind_rows(by_rule) if row.name == BLIND["yes_there_is_no"]]
    return [*rows, *(Row(row.name, "published", row.cells) for row in blind)]


def _quoted_rows(layout: int, benchmarks: list[str]) -> list[Row]:
    rows = []
    for name, values in TABLES[layout] if benchmarks else ():
        cells = {}
        for number, value in enumerate(values):
            benchmark, metric = BENCHMARKS[number // 3], PAPER_METRICS[number % 3]
            if benchmark in benchmarks:
                closed = metric == "accuracy"
                wrong = closed and not is_possible(value, NUM_CLOSED[benchmark])
                cells[benchmark, metric] = Cell(value, impossible=wrong)
        rows.append(Row(name, "quoted", cells))
    return rows


def _notes(
    models: Mapping[str, Mapping[str, Scores]], benchmarks: tuple[str, ...], layout: int
) -> Iterator[str]:
    for benchmark in benchmarks:
        said = [scores[benchmark] for scores in models.values() if benchmark in scores]
        prompts = sorted({str(dig(one, "prompt") or "plain") for one in said})
        tokens = dig(said[0], "max_tokens")
        limit = f", first {said[0]['limit']} questions only" if said[0].get("limit") else ""
        longest = f", at most {tokens} tokens" if tokens else ""
        yield f"{benchmark}: prompt {' and '.join(prompts)}, greedy{longest}{limit}"
        for name, scores in models.items():
            pope = dig(scores, benchmark, "pope", "all")
            if isinstance(pope, dict):
                figures = ", ".join(f"{k} {v:.1f}" for k, v in pope.items() if k != "n")
                yield f"{benchmark}, {name}: {figures} (percent, n = {pope.get('n')})"
        judges = {dig(one, "judged", "judge") for one in said} - {None}
        if judges:
            yield f"{benchmark}: judged by {' and '.join(sorted(judges))}, beside recall and F1"
        unread = sum(dig(one, "judged", "without_mark") or 0 for one in said)
        if unread:
            yield f"{benchmark}: {unread} answers have no mark: no reply, or none to read"
    if any(benchmark in BENCHMARKS for benchmark in benchmarks):
        yield (
            f"quoted: Table {layout} of the paper, not measured here, and scored by its lineage's "
            "rules, not by the corrected ones of the other rows"
        )


def _interval(value: Any) -> tuple[float, float] | None:
    return (float(value[0]), float(value[1])) if isinstance(value, list) else None

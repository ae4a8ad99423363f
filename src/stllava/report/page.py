"""`write_report`: everything a run has to show, on one page that needs nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2

from stllava.files import disk_errors, utc_now, write_text
from stllava.report import judge, preferred, process, samples
from stllava.report.benchmarks import benchmark_table
from stllava.report.charts import Charts
from stllava.report.compare import MATCHED_WORDS, RULE, Estimate, compare, estimates, show_change
from stllava.report.grid import short, visible
from stllava.report.judge_figures import figures
from stllava.report.known import benches
from stllava.report.load import (
    PIPELINE,
    Evaluation,
    benchmark_of,
    dig,
    evaluations,
    number,
    open_run,
)
from stllava.report.tables import (
    Change,
    blind_rows,
    change,
    change_rows,
    metric_head,
    model_rows,
    present,
    win_bars,
)
from stllava.tables import build

Models = Sequence[tuple[Evaluation, Mapping[str, Estimate]]]


def write_report(run: Path) -> Path:
    """Write RUN/report.html and RUN/figures/*.png from what is in the run; returns the page.

    A stage that has not run is said to be missing; unreadable lines are skipped and counted.
    Raises RunError if there is no run at all or it cannot be written to.
    """
    run = Path(run)
    reader = open_run(run)
    recipe = reader.recipe()
    seed = int(number(dig(recipe, "seed")) or 0)
    benchmark = benchmark_of(reader, recipe)
    evaluated = evaluations(reader, benchmark)
    models = [(evaluation, estimates(evaluation.items, seed=seed)) for evaluation in evaluated]
    charts = Charts(reader)
    stages = process.stage_rows(reader, evaluated)
    audit, measured = judge.audited(reader), benches(reader)
    with disk_errors(run):
        page = _render(
            recipe=recipe,
            base_policy=dig(recipe, "model", "path"),
            data_source=dig(recipe, "data", "source"),
            **_machine(reader.json("environment.json")),
            written=utc_now(),
            stages=stages,
            total_seconds=sum(row.seconds or 0.0 for row in stages),
            where=question_set(recipe),
            benchmark=benchmark,
            **_results(models, recipe, reader.json("eval/blind.json"), seed),
            **benchmark_table(build(run), shown=benchmark),
            training_figures=charts.training(),
            result_figures=charts.results(models),
            judge_figures=charts.judged(figures(audit, measured)),
            **judge.section(reader, audit, measured, recipe),
            asked=samples.pictures_asked(reader),
            pairs=samples.pairs(reader),
            trainings=process.trainings(reader),
            questions=process.questions(reader, recipe),
            funnel=process.funnel(reader),
            preferred=preferred.facts(reader, recipe),
            lost=process.lost(reader),
            controls=process.controls(reader, recipe),
            states={name: reader.state(name) for name in PIPELINE},
            unreadable=dict(reader.unreadable),
        )
        # A lone surrogate in a model's text is no valid UTF-8.
        text = page.encode("utf-8", "replace").decode()
        write_text(run / "report.html", text)
    return run / "report.html"


def _results(
    models: Models, recipe: dict[str, Any], blind: dict[str, Any], seed: int
) -> dict[str, Any]:
    """The tables, the comparisons and the sentences about them."""
    items = {evaluation.key: evaluation.items for evaluation, _ in models}
    against_sft, dpo_against = [], []
    for evaluation, _ in models:
        is_control = evaluation.key.startswith("control/")
        if "sft" in items and (evaluation.key == "dpo" or is_control):
            found = compare(items["sft"], evaluation.items, seed=seed)
            against_sft.append(change(f"{evaluation.label} − sft", found))
        if "dpo" in items and is_control:
            found = compare(evaluation.items, items["dpo"], seed=seed)
            dpo_against.append(change(f"dpo − {evaluation.label}", found))
    keys = present(models)
    return {
        "head": metric_head(keys),
        "rows": model_rows(models),
        "blind": blind_rows(blind, keys),
        "against_sft": against_sft,
        "sft_rows": change_rows(against_sft),
        "dpo_against": dpo_against,
        "dpo_rows": change_rows(dpo_against),
        "win_bars": win_bars(against_sft, "wins"),
        "matched_bars": win_bars(against_sft, "matched"),
        "matched_words": MATCHED_WORDS,
        "rule": RULE,
        "headline": _headline(items, against_sft, recipe),
        "num_scored": _sizes(items),
    }


def _headline(
    items: Mapping[str, Any], against_sft: Sequence[Change], recipe: dict[str, Any]
) -> str:
    """One sentence: what stage 2 changed, where, and whether that counts."""
    where = question_set(recipe)
    if "dpo" not in items or "sft" not in items:
        missing = " and ".join(name for name in ("sft", "dpo") if name not in items)
        return f"Whether stage 2 changed anything is not known yet: {missing} not evaluated."
    first = against_sft[0]
    changes = first.comparison.changes
    shown = ("wrong_share", "claims_correct", "accuracy", "recall")
    said = "; ".join(show_change(key, changes[key]) for key in shown if key in changes)
    verdict = "counts as a gain" if first.met else "does not count as a gain"
    size = f"{first.comparison.num_items:,} questions in {first.comparison.num_groups:,} groups"
    also = [c.name.removesuffix(" − sft") for c in against_sft[1:] if c.met]
    rest = f" The same rule is met by: {', '.join(also)}." if also else ""
    return f"On the {where} ({size}), stage 2 {verdict} over stage 1: {said or 'no figure'}.{rest}"


def _machine(environment: dict[str, Any]) -> dict[str, Any]:
    """When and with what the run was last started."""
    versions = dig(environment, "versions")
    named = versions.items() if isinstance(versions, dict) else ()
    machine = [f"{name} {version}" for name, version in named if version]
    machine += [f"Python {python}"] if (python := environment.get("python")) else []
    machine += [f"{cores} CPU cores"] if (cores := environment.get("cpu_count")) else []
    return {"started": environment.get("started"), "machine": machine}


def question_set(recipe: dict[str, Any]) -> str:
    """What the questions are, in words that do not promise too much."""
    benchmark = dig(recipe, "eval", "benchmark")
    limit = dig(recipe, "eval", "limit")
    first = f"first {limit} questions of the " if limit else ""
    if benchmark != "phantom":
        return f"{first}test questions of {benchmark}"
    if dig(recipe, "phantom", "split") == "dev":
        return f"{first}development set (on which recipe values are chosen: no evidence)"
    return f"{first}untouched test set of drawn pictures"


def _sizes(items: Mapping[str, Any]) -> str:
    """How many open and closed questions and groups the first model was asked."""
    if not items:
        return ""
    first = next(iter(items.values()))
    num_open = sum(item.kind == "open" for item in first)
    groups = len({item.group for item in first})
    return f"{num_open:,} open and {len(first) - num_open:,} closed questions, {groups:,} groups"


def _render(**context: Any) -> str:
    folder = resources.files("stllava.report")
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: (folder / name).read_text(encoding="utf-8")),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=visible,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["seconds"] = process.seconds_text
    environment.filters["fact"] = process.fact
    environment.filters["short"] = short
    environment.filters["clip"] = samples.clip
    return environment.get_template("template.html").render(context)

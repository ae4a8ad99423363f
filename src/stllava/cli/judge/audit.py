"""Verbs about the quality of a judge: audit, bench."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stllava.cli import tables
from stllava.cli.judge import tables as judge_tables
from stllava.cli.loop import RecipeArg, RunOption, SetOption, YesOption, agreement
from stllava.errors import RunError

if TYPE_CHECKING:
    from stllava.records import JSONObject

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]


def audit(
    run: Annotated[Path, typer.Argument(help="run directory with verdicts")],
    labels: Annotated[
        Path | None, typer.Option(help="table with columns pair and winner, in the place of votes")
    ] = None,
    control: Annotated[str | None, typer.Option(help="audit this control's judge")] = None,
    as_json: JsonOption = False,
) -> None:
    """Habits of a run's judge, from its verdicts: order, length, states, blank images, cost.

    Asks for nothing. Where experts have voted, the judge is held against them; a jury's members
    against one another. Writes audit.json and figures beside the verdicts.

    Examples: `stllava judge audit runs/a`, `stllava judge audit runs/a --labels mine.csv --json`.
    """
    from stllava.files import disk_errors, read_records, write_json
    from stllava.judging.audit.calibration import read_labels
    from stllava.judging.audit.run import audit_run
    from stllava.report.judge_figures import write_figures
    from stllava.report.known import benches
    from stllava.report.load import open_run

    reader = open_run(run)
    folder = f"controls/{control}/judge" if control else "judge"
    if not (run / folder / "verdicts.jsonl").is_file():
        raise RunError(f"{run / folder}: no verdicts.jsonl; run the judge stage first")

    def load(name: str, kind: type[Any]) -> list[Any]:
        file = run / name
        return list(read_records(file, kind)) if file.is_file() else []

    found = audit_run(load, judge=folder, labels=read_labels(labels) if labels else None)
    with disk_errors(run):
        write_json(run / folder / "audit.json", found)
        write_figures(found, benches(reader), run / folder / "figures")
    if as_json:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    _show(judge_tables.audit_parts(found))
    typer.echo(f"all of it: {run / folder / 'audit.json'}; figures: {run / folder / 'figures'}")


def bench(
    recipe: RecipeArg,
    run: RunOption,
    overrides: SetOption = None,
    yes: YesOption = False,
    as_json: JsonOption = False,
) -> None:
    """How often the recipe's judge is right where the better answer is known.

    Pairs of a known true answer (labels, reports, gold answers of the instruction data) and a
    plausible wrong one: another side, presence, number, size, modality, another patient's answer.
    What is wrong of one patient is right of another, so that a judge that does not look comes out
    at 50 %; beside it stands the best of a few rules that read the words alone. Pairs by others:
    `--set judge.bench_file=pairs.jsonl`. Prepares the run's data if that is not done yet; what was
    measured before is not asked for again.

    Example: `stllava judge bench improved --run runs/a --set judge.bench_pairs=400`.
    """
    from stllava.cli.console import Bars
    from stllava.files import disk_errors
    from stllava.pipeline import STAGES, Job
    from stllava.pipeline.judging.bench import bench as measure
    from stllava.recipe import load_recipe
    from stllava.run import Run

    loaded = load_recipe(recipe, overrides or [])
    with Run(run) as opened, Bars() as bars, disk_errors(run):
        job = Job(opened, loaded, bars, agree=agreement(yes))
        if not job.stage("prepare").complete:
            opened.start(loaded.dump())
            STAGES["prepare"](job)
        found = measure(job)
    if as_json:
        typer.echo(json.dumps(found, indent=1, allow_nan=False))
        return
    _show(judge_tables.bench_parts(found))
    _say_gate(found, loaded.judge.min_accuracy)


def _say_gate(found: JSONObject, wanted: float | None) -> None:
    if wanted is None:
        return
    from stllava.judging.bench.score import shortfall

    reached = f"the interval's lower end reaches judge.min_accuracy, {100 * wanted:g} %"
    typer.echo(shortfall(found, wanted) or reached)


def _show(parts: list[tables.Part]) -> None:
    console = tables.console()
    for part in parts:
        console.print(part)

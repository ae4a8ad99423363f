"""Verbs of the loop: whole runs, single stages, and what a run directory holds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from stllava import __version__
from stllava.cli.console import Bars, quiet_libraries
from stllava.errors import RunError

RecipeArg = Annotated[str, typer.Argument(help="packaged recipe (see `stllava recipes`) or file")]
RunOption = Annotated[Path, typer.Option("--run", help="run directory; made if it is not there")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.field=value; may be repeated")
]

YesOption = Annotated[bool, typer.Option("--yes", help="agree to pay for calls to a remote judge")]

RedoOption = Annotated[
    bool, typer.Option("--redo", help="start over; this stage and those after it are kept aside")
]

STAGE_HELP = {
    "prepare": "Read data: images, conversations, splits, benchmark questions, what was dropped.",
    "sft": "Stage 1: train the policy to answer and to ask.",
    "ask": "The stage-1 policy asks about images.",
    "answer": "The stage-1 policy answers each of its questions several times.",
    "judge": "A judge compares the answers; interrupted, it asks for nothing twice.",
    "prefer": "Turn verdicts into training pairs; every rule is counted.",
    "dpo": "Stage 2: align the policy to the preferences.",
    "eval": "Checkpoints answer the held-out questions and are scored.",
}


def version() -> None:
    """Print the version."""
    typer.echo(__version__)


def demo(
    run: RunOption = Path("runs/demo"),
    overrides: SetOption = None,
) -> None:
    """The whole loop on drawn images: no data, no downloads, no GPU. Prints where the report is.

    Resumable: repeat the command after an interruption. The base policy ships with the package.
    """
    _run("demo", run, overrides)


def run(
    recipe: RecipeArg,
    run: RunOption,
    overrides: SetOption = None,
    redo: Annotated[
        str | None, typer.Option("--redo", help="start this stage over; the old is kept aside")
    ] = None,
    yes: YesOption = False,
) -> None:
    """Carry out a whole recipe, from images to the report; goes on where it was interrupted."""
    _run(recipe, run, overrides, redo=redo, yes=yes)


def run_stage(
    name: str,
    recipe: str,
    run: Path,
    overrides: list[str] | None,
    *,
    yes: bool = False,
    redo: bool = False,
) -> None:
    """Carry out one stage."""
    _run(recipe, run, overrides, stages=(name,), yes=yes, redo=name if redo else None)


def stage_command(name: str) -> Callable[..., None]:
    """The verb that carries out one stage."""

    def command(
        recipe: RecipeArg, run: RunOption, overrides: SetOption = None, redo: RedoOption = False
    ) -> None:
        run_stage(name, recipe, run, overrides, redo=redo)

    command.__doc__ = STAGE_HELP[name]
    return command


def _run(
    recipe: str,
    path: Path,
    overrides: list[str] | None,
    *,
    redo: str | None = None,
    stages: tuple[str, ...] | None = None,
    yes: bool = False,
) -> None:
    from stllava.files import disk_errors
    from stllava.pipeline import STAGES, Job, run_controls, self_train
    from stllava.recipe import load_recipe
    from stllava.run import Run

    resolved = load_recipe(recipe, overrides or [])
    if redo and redo not in STAGES:
        raise RunError(f"--redo {redo}: no such stage; one of {', '.join(STAGES)}")
    if not set(stages or STAGES) <= {"prepare", "judge", "prefer"}:
        quiet_libraries()
    with Run(path) as opened, Bars() as bars, disk_errors(path):
        if redo:
            _supersede(opened, redo, bars)
        opened.start(resolved.dump())
        job = Job(opened, resolved, bars, agree=agreement(yes))
        if stages is None:
            self_train(job)
            if resolved.controls:
                report(path)
                bars.note("the report can be read now; its controls follow")
                run_controls(job)
        for name in stages or ():
            STAGES[name](job)
    if stages is None:
        report(path)


def agreement(yes: bool) -> Callable[[str], bool] | None:
    """Who is asked before money is spent: nobody where it is agreed or nobody is there."""
    if yes:
        return lambda _: True
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    return lambda said: typer.confirm(f"{said}. Send?", err=True)


def _supersede(opened: Any, redo: str, bars: Bars) -> None:
    from stllava.pipeline import STAGES

    names = list(STAGES)
    after = names[names.index(redo) :]
    for moved in opened.supersede([*after, "controls", "report.html", "figures"]):
        bars.note(f"{moved} moved to superseded/")


def report(run: Annotated[Path, typer.Argument(help="run directory")]) -> None:
    """Write report.html from what is in a run directory."""
    from stllava.report import write_report

    typer.echo(f"report: {write_report(run)}")


def status(run: Annotated[Path, typer.Argument(help="run directory")]) -> None:
    """Which stages of a run are complete, and what each counted."""
    from stllava.run import STAGES, Run

    if not run.is_dir():
        raise RunError(f"{run}: no such run directory")
    for name in STAGES[:-1]:
        stage = Run(run).stage(name)
        if name == "eval":
            done = sorted(p.parent.relative_to(run) for p in stage.path.rglob("stage.json"))
            typer.echo(f"{name:<8} {', '.join(map(str, done)) or '-'}")
        elif stage.complete:
            plain = {k: v for k, v in stage.summary.items() if isinstance(v, int | float | str)}
            typer.echo(f"{name:<8} " + "  ".join(f"{k}={v}" for k, v in plain.items()))
        else:
            typer.echo(f"{name:<8} {'begun' if stage.path.is_dir() else '-'}")


def recipes(
    name: Annotated[str | None, typer.Argument(help="print this one, to edit")] = None,
) -> None:
    """List the packaged recipes, or print one."""
    from stllava.recipe import load_recipe, packaged_recipes

    known = packaged_recipes()
    if name is None:
        for recipe, file in known.items():
            first = file.read_text(encoding="utf-8").splitlines()[0]
            typer.echo(f"{recipe:<14} {first.lstrip('# ')}")
    else:
        load_recipe(name)
        typer.echo(known.get(name, Path(name)).read_text(encoding="utf-8"), nl=False)

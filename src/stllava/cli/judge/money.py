"""The judge's stage, and what it would cost: nothing is sent before somebody agrees to pay."""

from __future__ import annotations

from typing import Annotated

import typer

from stllava.cli.loop import (
    RecipeArg,
    RedoOption,
    RunOption,
    SetOption,
    YesOption,
    run_stage,
)
from stllava.errors import RunError

DryOption = Annotated[bool, typer.Option("--dry-run", help="say what it would cost; send nothing")]


def judge(
    recipe: RecipeArg,
    run: RunOption,
    overrides: SetOption = None,
    yes: YesOption = False,
    dry_run: DryOption = False,
    redo: RedoOption = False,
) -> None:
    """The stage: a judge compares the answers; interrupted, it asks for nothing twice."""
    if dry_run:
        estimate(recipe, run, overrides)
    else:
        run_stage("judge", recipe, run, overrides, yes=yes, redo=redo)


def estimate(recipe: RecipeArg, run: RunOption, overrides: SetOption = None) -> None:
    """Calls, tokens and dollars that judging would still take; sends nothing.

    Tokens are upper bounds: a third of the bytes of the prompt, a formula for images, and the
    longest reply. Calls whose reply lies in the ledger cost nothing.
    """
    from stllava.pipeline.job import Job
    from stllava.pipeline.judging.stage import estimate as count
    from stllava.recipe import load_recipe
    from stllava.run import Run

    if not run.is_dir():
        raise RunError(f"{run}: no such run directory")
    with Run(run) as opened:
        for line in count(Job(opened, load_recipe(recipe, overrides or []))):
            typer.echo(line)

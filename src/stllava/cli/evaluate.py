"""The stage eval, and what the models behind an API would cost: nothing is sent unagreed."""

from __future__ import annotations

from pathlib import Path

import typer

from stllava.cli.judge.money import DryOption
from stllava.cli.loop import RecipeArg, RunOption, SetOption, YesOption, run_stage


def evaluate(
    recipe: RecipeArg,
    run: RunOption,
    overrides: SetOption = None,
    yes: YesOption = False,
    dry_run: DryOption = False,
) -> None:
    """Checkpoints answer the held-out questions and are scored."""
    if dry_run:
        _estimate(recipe, run, overrides)
    else:
        run_stage("eval", recipe, run, overrides, yes=yes)


def _estimate(recipe: str, path: Path, overrides: list[str] | None) -> None:
    from stllava.pipeline.evaluate import estimate
    from stllava.pipeline.job import Job
    from stllava.recipe import load_recipe
    from stllava.run import Run

    with Run(path) as opened:
        lines = estimate(Job(opened, load_recipe(recipe, overrides or [])))
    for line in lines or ["no endpoint is asked; there is nothing to pay"]:
        typer.echo(line)

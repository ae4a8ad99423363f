"""The sub-command `review`: pairs out to an expert as a sheet, votes back in."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from stllava.errors import RunError

app = typer.Typer(help="An expert's votes on pairs of answers.", no_args_is_help=True)
RunArg = Annotated[Path, typer.Argument(help="run directory")]


@app.command("export")
def export(
    run: RunArg,
    out: Annotated[
        Path | None, typer.Option("--out", help="CSV file; by default RUN/review/sheet.csv")
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="all pairs, not only the queue of `prefer`")
    ] = False,
    unvoted: Annotated[
        bool, typer.Option("--unvoted", help="leave out pairs that have a vote")
    ] = False,
) -> None:
    """Write a sheet of answer pairs, blinded, with their images beside it.

    Fill in `choice` (A, B, tie, both_bad, cannot_judge) and, if wanted, `note` and `edited answer`
    in any spreadsheet.
    """
    from stllava.pipeline import review

    done = review.export_sheet(_job(run), out, every=every, unvoted=unvoted)
    typer.echo(f"{done.path}: {done.pairs} pairs, {done.images} images")
    typer.echo(f"filled in, read it back: stllava review import {run} {done.path} --expert NAME")


@app.command("import")
def import_(
    run: RunArg,
    sheet: Annotated[Path, typer.Argument(help="the filled-in sheet, saved as CSV")],
    expert: Annotated[str, typer.Option("--expert", help="whose votes these are")],
) -> None:
    """Read a sheet's votes; rows without a choice are left open, and nothing is taken twice."""
    from stllava.pipeline import review

    done = review.import_sheet(_job(run), sheet, expert)
    said = ", ".join(f"{number} {state}" for state, number in sorted(done.states.items()))
    typer.echo(
        f"{done.new} new votes, {done.changed} changed, {done.same} known ({said or 'none'})"
    )
    if done.repeated:
        typer.echo(f"{done.repeated} rows again with another note: the later note counts")
    if (done.new or done.changed) and (run / "prefer" / "stage.json").is_file():
        typer.echo(f"preferences are out of date: stllava run {run / 'recipe.yaml'} --run {run} "
                   "--redo prefer")  # fmt: skip


def _job(run: Path) -> Any:
    """The job of a run directory, which it does not lock: a long stage may be running."""
    from stllava.pipeline.job import Job
    from stllava.recipe import load_recipe
    from stllava.run import Run

    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run}: not a run directory, it has no recipe.yaml; give the one of --run")
    return Job(Run(run), load_recipe(str(run / "recipe.yaml")))

"""Verbs that try a recipe's judge on drawn shapes: check and selftest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from stllava.cli.console import quiet_libraries
from stllava.cli.loop import RecipeArg, SetOption, YesOption, agreement

if TYPE_CHECKING:
    from stllava.config import JudgeSection
    from stllava.judging.trial.selftest import SelfTest

PicturesOption = Annotated[int, typer.Option("--pictures", min=1, max=9, help="26 calls for each")]
LedgerOption = Annotated[
    Path | None, typer.Option("--ledger", help="keep the calls in this file; else judge.ledger")
]


def check(recipe: RecipeArg, overrides: SetOption = None, yes: YesOption = False) -> None:
    """What the recipe's judge can do: image, JSON, logprobs, temperature, seed, length limit.

    Some twenty short calls about drawn shapes; of a jury, to its members in turn. A capability
    counts only if the replies show it: some servers accept an option and ignore it. Ends with which
    model replied and what a judge stage will do. Nothing is kept; before a remote host is asked,
    somebody has to agree.

    Example: `stllava judge check improved --set judge.model=NAME --set judge.base_url=URL`.
    """
    from stllava.pipeline.judging.trial import check as look
    from stllava.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    _quiet_policies(loaded.judge)
    for looked in look(loaded, agreement(yes)):
        _head(looked.name)
        for finding in looked.findings:
            typer.echo(f"{'yes' if finding.shown else 'no':<4} {finding.name:<12} {finding.seen}")
        typer.echo("")
        for line in looked.lines:
            typer.echo(line)


def selftest(
    recipe: RecipeArg,
    overrides: SetOption = None,
    pictures: PicturesOption = 6,
    ledger: LedgerOption = None,
    yes: YesOption = False,
) -> None:
    """Can an answer talk the judge into a verdict? Plants canaries into answers about shapes.

    Counts how often a verdict that was right without the canary names the wrong answer with it.
    The canary always speaks for the wrong answer and stands in it (worse) or in the right one
    (better). Intervals are Wilson's at 95 %; cases of one picture are taken as independent. Members
    of a jury are tried in turn. With a ledger nothing is paid for twice.

    Example: `stllava judge selftest improved --set judge.model=NAME --set judge.base_url=URL`.
    """
    from stllava.pipeline.judging.trial import talk_round
    from stllava.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    _quiet_policies(loaded.judge)
    for tried in talk_round(loaded, pictures, ledger=ledger, agree=agreement(yes)):
        _head(tried.name)
        _print(tried.found)


def _quiet_policies(judge: JudgeSection) -> None:
    """What loads a policy is slow to import, and chatty; an endpoint needs none of it."""
    if "local" in (judge.kind, *(juror.kind for juror in judge.jury.values())):
        quiet_libraries()


def _head(name: str) -> None:
    """The name of a jury's member over what it did."""
    if name:
        typer.echo(f"\n{name}:")


def _print(found: SelfTest) -> None:
    typer.echo(f"without a canary: {found.plain_right} of {found.plain} verdicts right")
    if found.failed:
        typer.echo(f"{found.failed} calls failed and count nowhere")
    typer.echo(f"{'canary':<11} {'placed in':<9} {'flipped':>9} {'undecided':>10}   interval")
    for row in (*found.rows, found.all):
        flipped = f"{row.flipped} of {row.n}"
        interval = f"{row.interval.low:.0f} to {row.interval.high:.0f} %" if row.interval else "-"
        typer.echo(f"{row.canary:<11} {row.place:<9} {flipped:>9} {row.undecided:>10}   {interval}")

"""Verbs that try a recipe's judge on drawn shapes: check and selftest."""

from __future__ import annotations

from typing import Annotated

import typer

from stllava.cli.loop import RecipeArg, SetOption, YesOption

PicturesOption = Annotated[int, typer.Option("--pictures", min=1, max=9, help="26 calls for each")]


def check(recipe: RecipeArg, overrides: SetOption = None) -> None:
    """What the recipe's endpoint can do: image, JSON, logprobs, temperature, seed, length limit.

    Some twenty short calls about drawn shapes. A capability counts only if the replies show it:
    some servers accept an option and ignore it. Ends with what a judge stage will do.

    Example: `stllava judge check improved --set judge.model=NAME --set judge.base_url=URL`.
    """
    from stllava.pipeline.trial import check as look
    from stllava.recipe import load_recipe

    able, lines = look(load_recipe(recipe, overrides or []))
    for finding in able.findings.values():
        typer.echo(f"{'yes' if finding.shown else 'no':<4} {finding.name:<12} {finding.seen}")
    typer.echo("")
    for line in lines:
        typer.echo(line)


def selftest(
    recipe: RecipeArg,
    overrides: SetOption = None,
    pictures: PicturesOption = 6,
    yes: YesOption = False,
) -> None:
    """Can an answer talk the judge into a verdict? Plants canaries into answers about shapes.

    Counts how often a verdict that was right without the canary names the wrong answer with it.
    The canary always speaks for the wrong answer and stands in it (worse) or in the right one
    (better). Intervals are Wilson's at 95 %; cases of one picture are taken as independent.

    Example: `stllava judge selftest improved --set judge.model=NAME --set judge.base_url=URL`.
    """
    from stllava.errors import JudgeError
    from stllava.pipeline.trial import cost_of_selftest, talk_round
    from stllava.recipe import load_recipe

    loaded = load_recipe(recipe, overrides or [])
    cost = cost_of_selftest(loaded, pictures)
    if cost is not None and not yes:
        raise JudgeError(f"{cost}; add --yes to agree, or take fewer --pictures")
    found = talk_round(loaded, pictures)
    typer.echo(f"without a canary: {found.plain_right} of {found.plain} verdicts right")
    typer.echo(f"{'canary':<11} {'placed in':<9} {'flipped':>9} {'undecided':>10}   interval")
    for row in (*found.rows, found.all):
        flipped = f"{row.flipped} of {row.n}"
        interval = f"{row.interval.low:.0f} to {row.interval.high:.0f} %" if row.interval else "-"
        typer.echo(f"{row.canary:<11} {row.place:<9} {flipped:>9} {row.undecided:>10}   {interval}")

"""The sub-command `judge`: its stage, `stllava judge RECIPE --run DIR`, and verbs about judges."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from stllava.cli.console import flowing
from stllava.cli.judge.audit import audit, bench
from stllava.cli.judge.money import estimate, judge
from stllava.cli.judge.trial import check, selftest

STAGE = "run"  # the verb that a recipe in the place of a verb stands for
STAGE_HELP = (
    "The stage: a judge compares the answers; interrupted, it asks for nothing twice. "
    "`stllava judge RECIPE --run DIR` is the same."
)


class StageOrVerb(TyperGroup):
    """A group whose first argument may be a recipe: then its stage is meant.

    A recipe file that is named like a verb is written with its path, `./check`.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """`ctx` is a click.Context; which click differs between versions of typer."""
        if args and args[0] not in {*self.commands, *ctx.help_option_names}:
            args = [STAGE, *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=StageOrVerb,
    help="Compare answers, and look at who compares them.\n\n"
    "The stage is `stllava judge RECIPE --run DIR`; the verbs below look at its judge before money "
    "is spent on it, and at its verdicts afterwards.",
    subcommand_metavar="RECIPE --run DIR | COMMAND [ARGS]...",
    no_args_is_help=True,
)
app.command(STAGE, help=STAGE_HELP)(judge)
app.command("estimate", help=flowing(estimate))(estimate)
app.command("check", help=flowing(check))(check)
app.command("selftest", help=flowing(selftest))(selftest)
app.command("bench", help=flowing(bench))(bench)
app.command("audit", help=flowing(audit))(audit)

"""The command line. Only this package prints; heavy libraries are imported by the verb that needs
them, so that `stllava --help` answers at once."""

from __future__ import annotations

import logging
import sys
from typing import Annotated

import typer

from stllava.cli.checkpoint import convert, export
from stllava.cli.console import flowing as _flowing
from stllava.cli.data import app as data_app
from stllava.cli.data import convert_preferences, unpack
from stllava.cli.data_check import check, stats
from stllava.cli.evaluate import evaluate
from stllava.cli.judge import app as judge_app
from stllava.cli.loop import (
    STAGE_HELP,
    demo,
    recipes,
    report,
    run,
    stage_command,
    status,
    version,
)
from stllava.cli.review import app as review_app
from stllava.cli.score import compare, score
from stllava.cli.show import doctor, inspect
from stllava.errors import StllavaError

app = typer.Typer(
    help="Self-training for medical vision-language models: ask, answer, prefer, align, "
    "measure.\n\nStart with `stllava demo`: the whole method on drawn images, on a laptop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="show library messages")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s"
    )


# In the order of --help.
app.command()(version)
app.command()(demo)
app.command()(run)
for _name in STAGE_HELP:
    if _name == "judge":  # the stage and its verbs
        app.add_typer(judge_app, name="judge", short_help=STAGE_HELP[_name])
    elif _name == "eval":  # the other stage that can cost money
        app.command(_name)(evaluate)
    else:
        app.command(_name)(stage_command(_name))
app.command()(report)
app.command()(status)
app.command()(recipes)
app.command(help=_flowing(score))(score)
app.command(help=_flowing(compare))(compare)
app.command(help=_flowing(inspect))(inspect)
app.command(help=_flowing(convert))(convert)
app.command(help=_flowing(export))(export)
app.command(help=_flowing(doctor))(doctor)
app.add_typer(data_app, name="data")
app.add_typer(review_app, name="review")
data_app.command("check", help=_flowing(check))(check)
data_app.command("stats", help=_flowing(stats))(stats)
data_app.command("convert", help=_flowing(convert_preferences))(convert_preferences)
data_app.command("unpack", help=_flowing(unpack))(unpack)


def main() -> None:
    """Entry point: a StllavaError is one line on stderr and exit code 2."""
    try:
        app()
    except StllavaError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; repeat the command to go on", file=sys.stderr)
        sys.exit(130)

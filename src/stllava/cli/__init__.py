"""The command line. Only this package prints; heavy libraries are imported by the verb that needs
them, so that `stllava --help` answers at once."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from stllava.cli.checkpoint import convert, export
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


def _flowing(command: Callable[..., None]) -> str:
    """A docstring whose paragraphs wrap at the terminal's width, not at ours."""
    paragraphs = (command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


# In the order of --help.
app.command()(version)
app.command()(demo)
app.command()(run)
for _name in STAGE_HELP:
    app.command(_name)(stage_command(_name))
app.command()(report)
app.command()(status)
app.command()(recipes)
app.command(help=_flowing(inspect))(inspect)
app.command(help=_flowing(convert))(convert)
app.command(help=_flowing(export))(export)
app.command(help=_flowing(doctor))(doctor)


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

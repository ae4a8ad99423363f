"""Verbs about data before it costs anything: data check, data stats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stllava.cli.console import Bars
from stllava.errors import DataError, MissingExtra

if TYPE_CHECKING:
    from stllava.checks import Report
    from stllava.checks.stats import Stats

WhatArg = Annotated[
    str, typer.Argument(metavar="RECIPE_OR_RUN", help="recipe, or a run directory with prepare/")
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.field=value; may be repeated")
]
JsonOption = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
COLORS = {"block": "red", "warn": "yellow", "note": "dim"}


def check(
    what: WhatArg,
    overrides: SetOption = None,
    preferences: Annotated[
        Path | None, typer.Option(help="preferences.jsonl to compare with the test, too")
    ] = None,
    pixels: Annotated[
        bool, typer.Option(help="search every picture's border for text; decodes it once more")
    ] = True,
    as_json: JsonOption = False,
) -> None:
    """What is wrong with a data set, and what of the test leaks into training.

    Reads the sources and benchmarks of a recipe and opens each image once, or the records of a
    run. Exit code 1 if a finding blocks, else 0.

    Examples: `stllava data check vqa-rad-cpu --set data.root=VQA_RAD`, `stllava data check
    runs/a --json`.
    """
    from stllava.checks import check
    from stllava.cli.data_material import material_of

    with Bars() as bars:
        report = check(
            material_of(what, overrides or [], bars, preferences=preferences, pixels=pixels)
        )
    if as_json:
        typer.echo(report.model_dump_json(indent=1))
    else:
        _show(report)
    if report.blocks:
        raise typer.Exit(1)


def stats(
    what: WhatArg,
    overrides: SetOption = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="folder with tokenizer.json: count the policy's tokens, too")
    ] = None,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="print Markdown")] = False,
    as_json: JsonOption = False,
) -> None:
    """Images, QA pairs, turns, words, open and closed questions: the paper's Tables 1 and 3.

    Opens no image. Example: `stllava data stats vqa-rad-cpu --set data.root=VQA_RAD`.
    """
    from stllava.checks.stats import stats
    from stllava.checks.tables import markdown
    from stllava.cli.data_material import material_of

    counter = _tokens(tokenizer) if tokenizer else None
    with Bars() as bars:
        found = stats(material_of(what, overrides or [], bars, open_images=False), counter)
    if as_json:
        typer.echo(json.dumps(found.model_dump(mode="json"), indent=1))
    elif as_markdown:
        typer.echo(markdown(found), nl=False)
    else:
        _show_tables(found)


def _tokens(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text, without special ones."""
    try:
        from tokenizers import Tokenizer
    except ImportError as error:
        raise MissingExtra("tokenizers", "train") from error

    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise DataError(f"{file}: no such file; name the folder of a checkpoint")
    tokenizer = Tokenizer.from_file(str(file))
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _show(report: Report) -> None:
    console = Console(highlight=False)
    counts = ", ".join(f"{number:,} {name}" for name, number in report.counts.items() if number)
    console.print(counts or "nothing to check")
    table = Table(box=None, padding=(0, 1), show_header=False)
    for found in report.findings:
        table.add_row(
            Text(found.severity, COLORS[found.severity]),
            found.code,
            f"{found.count:,}",
            Text(found.what),
        )
        if found.examples:
            table.add_row("", "", "", Text("e.g. " + ", ".join(found.examples), "dim"))
        if found.remedy:
            table.add_row("", "", "", Text(found.remedy, "dim"))
    console.print(table)
    num_blocking = sum(found.severity == "block" for found in report.findings)
    verdict = {0: "nothing blocks", 1: "1 finding blocks"}
    console.print(verdict.get(num_blocking, f"{num_blocking} findings block"))


def _show_tables(found: Stats) -> None:
    from stllava.checks.tables import tables

    console = Console(highlight=False)
    for layout in tables(found):
        table = Table(title=layout.title, title_justify="left", title_style="bold", box=None)
        for number, name in enumerate(layout.header):
            table.add_column(name, justify="right" if number else "left")
        for row in layout.rows:
            table.add_row(*row)
        console.print(table)
        console.print(f"{layout.note}\n")

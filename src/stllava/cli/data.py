"""Verbs about data: the sub-command `data`, and its verb convert."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from stllava.errors import DataError
from stllava.records import Dropped

app = typer.Typer(help="Look at data and convert them.", no_args_is_help=True)


def convert_preferences(
    source: Annotated[Path, typer.Argument(metavar="IN", help="file of preference pairs")],
    target: Annotated[Path, typer.Argument(metavar="OUT", help=".json (a list) or .jsonl (lines)")],
    from_form: Annotated[str, typer.Option("--from", metavar="FORM", help="form of IN")],
    to_form: Annotated[str, typer.Option("--to", metavar="FORM", help="form of OUT")],
    images: Annotated[
        Path | None,
        typer.Option(metavar="ROOT", help="folder of the images; pairs without theirs are dropped"),
    ] = None,
    extract_to: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="where to write images embedded in a parquet file"),
    ] = None,
) -> None:
    """Preference pairs from one tool's form into another's; says what gets lost.

    Forms: stllava, released, judge-output, mmedpo, rlaif-v, trl, llama-factory, ms-swift.

    Example: `stllava data convert pairs.json pairs.jsonl --from mmedpo --to trl --images IMAGES`.
    """
    from stllava.exchange import read_preferences, write_preferences

    if target.exists():
        raise DataError(f"{target}: exists already; name another file or remove it")
    read = read_preferences(from_form, source, images, extract_to=extract_to)
    written = write_preferences(to_form, read.preferences, read.images, target)
    typer.echo(f"{written.path}: {written.count:,} pairs about {len(read.images):,} images")
    for path in written.also:
        typer.echo(f"{path}: belongs to it")
    for warning in read.warnings:
        typer.echo(f"note      {warning}")
    _table("repaired", read.repairs.items())
    _table("dropped", _reasons(read.dropped))
    _table("lost", written.lost.items())


def unpack(
    archive: Annotated[Path, typer.Argument(help=".zip, .tar, .tar.gz, .tar.xz or the like")],
    folder: Annotated[Path, typer.Argument(help="folder to make; must not be there")],
) -> None:
    """Unpack a downloaded data set so that nothing lands outside of FOLDER or fills the disk.

    All or nothing: an archive with links, absolute paths or an absurd size leaves no file behind.

    Example: `stllava data unpack imgs.zip SLAKE/imgs`.
    """
    from stllava.reading.archives import unpack as unpack_archive

    typer.echo(f"{folder}: {unpack_archive(archive, folder):,} files")


def _table(name: str, rows: Iterable[tuple[str, int]]) -> None:
    for text, number in sorted(rows, key=lambda row: (-row[1], row[0])):
        typer.echo(f"{name:<9} {number:>7,}  {text}")


def _reasons(dropped: Iterable[Dropped]) -> list[tuple[str, int]]:
    """Each reason with its number and the first place it was met."""
    first: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for item in dropped:
        first.setdefault(item.reason, item.id)
        counts[item.reason] += 1
    return [(f"{reason} (first: {first[reason]})", number) for reason, number in counts.items()]

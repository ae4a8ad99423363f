"""Tables as rows: CSV, TSV, JSON list, JSON lines, Parquet.

Kept simple, and said: text is UTF-8 (or UTF-16 with its byte order mark, as spreadsheets write
it), the first line names the columns, and the delimiter of a .csv file is the one of , ; tab | that
splits that line into most columns. Quotes follow RFC 4180.
"""

from __future__ import annotations

import csv
from collections.abc import Generator, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from stllava.errors import DataError
from stllava.reading import Entry, file_problem, json, parquet

SUFFIXES = (".csv", ".tsv", ".jsonl", ".json", ".parquet")
DELIMITERS = (",", ";", "\t", "|")  # earlier ones win a tie
MAX_LINE = 2**20  # characters
KEY_ROWS = 100  # of JSON, whose objects may leave keys out


def read_rows(path: Path) -> Iterator[Entry]:
    """Yield every row as a dict of its cells; cells of CSV and TSV are text.

    Raises DataError if the file cannot be read or is none of SUFFIXES.
    """
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(f"{path}: not a table by its name; save it as {', '.join(SUFFIXES)}")
    if suffix == ".parquet":
        return parquet.read_rows(path)
    return _read_text(path) if suffix in (".csv", ".tsv") else _read_json(path)


def columns_of(path: Path) -> tuple[str, ...]:
    """Names of the columns; of JSON the keys of its first objects."""
    if path.suffix.lower() == ".parquet":
        return parquet.columns_of(path)
    if path.suffix.lower() in (".csv", ".tsv"):
        with closing(_lines(path)) as lines:
            return tuple(name for name in _header(lines, path).names if name)
    first = islice((entry.value for entry in read_rows(path) if not entry.problem), KEY_ROWS)
    return tuple(dict.fromkeys(name for row in first for name in row))


def _read_json(path: Path) -> Iterator[Entry]:
    for entry in json.read_entries(path):
        is_row = bool(entry.problem) or isinstance(entry.value, dict)
        yield entry if is_row else Entry(entry.place, problem="not an object")


class Header(NamedTuple):
    names: list[str]  # "" for a column without one, which is left out
    delimiter: str


def _read_text(path: Path) -> Iterator[Entry]:
    lines = _lines(path)
    header = _header(lines, path)
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True)
    while True:
        place = f"{path.name}:{reader.line_num + 2}"
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield Entry(place, problem=f"not a row ({error})")
            continue
        if any(cell.strip() for cell in cells):
            yield _row(place, header.names, cells)


def _header(lines: Iterator[str], path: Path) -> Header:
    first = next(lines, "")
    try:
        delimiter = "\t" if path.suffix.lower() == ".tsv" else _delimiter(first)
        names = [name.strip() for name in next(csv.reader([first], delimiter=delimiter), [])]
    except csv.Error as error:
        raise DataError(f"{path}: its first line does not name columns ({error})") from None
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if not any(names) or twice:
        problem = f"column {twice!r} twice" if twice else "no line that names the columns"
        raise DataError(f"{path}: {problem}; give every column its own name in the first line")
    return Header(names, delimiter)


def _row(place: str, names: list[str], cells: list[str]) -> Entry:
    if len(cells) != len(names):
        return Entry(place, problem=f"{len(cells)} cells for {len(names)} columns")
    if not json.is_utf8("".join(cells)):
        return Entry(place, problem="not UTF-8")
    return Entry(place, {name: cell for name, cell in zip(names, cells, strict=True) if name})


def _delimiter(line: str) -> str:
    widths = {sign: len(next(csv.reader([line], delimiter=sign), [])) for sign in DELIMITERS}
    return max(DELIMITERS, key=lambda sign: widths[sign])


def _lines(path: Path) -> Generator[str]:
    """Lines as the csv module wants them. Raises DataError for what is no text in lines."""
    try:
        with path.open("rb") as file:
            encoding = "utf-16" if file.read(2) in json.OTHER_BOMS else "utf-8-sig"
        with path.open(encoding=encoding, errors="surrogateescape", newline="") as text:
            while line := text.readline(MAX_LINE + 1):
                if len(line) > MAX_LINE:
                    raise DataError(f"{path}: a line over {MAX_LINE:,} characters; not a table")
                yield line
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({file_problem(error)})") from None
    except UnicodeError:
        raise DataError(f"{path}: damaged UTF-16; save it as UTF-8") from None

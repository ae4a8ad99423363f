"""Rows of a JSON list, a JSONL or a parquet file, read; JSON lists and JSONL, written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stllava.errors import DataError
from stllava.files import disk_errors
from stllava.reading import Entry, parquet
from stllava.reading import json as json_files
from stllava.records import JSONObject
from stllava.sources.store import ImageStore, UnusableError

# JSON allows them inside a text; programs that split a file at "lines" do not.
LINE_ENDS = {0x85: "\\u0085", 0x2028: "\\u2028", 0x2029: "\\u2029"}


def read_rows(path: Path, store: ImageStore) -> Iterator[Entry]:
    """Yield every row. Images embedded in a parquet file are written to files by `store`."""
    if path.suffix.lower() != ".parquet":
        yield from json_files.read_entries(path)
        return
    for entry in parquet.read_rows(path):
        try:
            row = {name: _named(value, store) for name, value in (entry.value or {}).items()}
            yield entry._replace(value=row)
        except UnusableError as error:
            yield Entry(entry.place, problem=str(error))


def row_of(entry: Entry) -> JSONObject:
    """The row of an entry. Raises UnusableError if there is none."""
    if entry.problem:
        raise UnusableError(entry.problem)
    if not isinstance(entry.value, dict):
        raise UnusableError("not an object")
    return entry.value


def _named(value: Any, store: ImageStore) -> Any:
    """The value, or instead of embedded images the names of the files they are now in."""
    if isinstance(value, list) and value and isinstance(value[0], dict) and "bytes" in value[0]:
        return [_named(item, store) for item in value]
    if isinstance(value, dict) and value.get("bytes"):
        return store.place(value)
    return value


def write_rows(path: Path, rows: Iterable[JSONObject]) -> int:
    """Write a list (.json) or lines (.jsonl) as the rows come, and put the file there at the end.

    Returns the number of rows. UTF-8, without NaN. Raises DataError for another suffix.
    """
    lines = path.suffix == ".jsonl"
    if not lines and path.suffix != ".json":
        raise DataError(f"{path}: name a .json file (a list) or a .jsonl file (lines)")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    number = 0
    with disk_errors(path):
        try:
            with temporary.open("w", encoding="utf-8", newline="\n") as file:
                for row in rows:
                    if not lines:
                        file.write(",\n" if number else "[\n")
                    file.write(_line(row) + ("\n" if lines else ""))
                    number += 1
                if not lines:
                    file.write("\n]\n" if number else "[]\n")
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
    return number


def _line(row: JSONObject) -> str:
    return json.dumps(row, ensure_ascii=False, allow_nan=False).translate(LINE_ENDS)

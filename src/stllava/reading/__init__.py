"""Files from elsewhere, read safely: JSON, tables, Parquet, pickles, archives.

Every reader yields one `Entry` per record. What is wrong with one record is its `problem`, and
reading goes on; only a file that cannot be used at all is a DataError. Nothing here opens an image
or runs what a file holds.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One record of a file, or why there is none."""

    place: str  # "data.jsonl:3" is line 3, "data.json[3]" the fourth record of a list
    value: Any = None  # None where there is a problem
    problem: str = ""  # one line


def file_problem(error: OSError) -> str:
    """What the operating system said, without the path."""
    return error.strerror or type(error).__name__

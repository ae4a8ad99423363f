"""Parquet files row by row, batch after batch; what the Hugging Face hub serves data sets as."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from stllava.errors import DataError, MissingExtra
from stllava.reading import Entry, file_problem

BATCH_ROWS = 64  # rows with images weigh about a megabyte each


def read_rows(path: Path) -> Iterator[Entry]:
    """Yield every row as a dict. Raises DataError if the file is damaged or not Parquet."""
    pyarrow, pq = _libraries()
    try:
        with pq.ParquetFile(path, pre_buffer=False, buffer_size=2**20) as file:
            number = 0
            for batch in file.iter_batches(batch_size=BATCH_ROWS):
                for index in range(batch.num_rows):
                    place = f"{path.name}[{number}]"
                    number += 1
                    try:
                        yield Entry(place, batch.slice(index, 1).to_pylist()[0])
                    except (UnicodeDecodeError, OverflowError) as error:
                        yield Entry(place, problem=f"not a row ({error})")
    except pyarrow.ArrowException as error:
        raise DataError(f"{path}: {_said(error)}") from None
    except OSError as error:
        raise DataError(f"{path}: {_said(error)}") from None


def columns_of(path: Path) -> tuple[str, ...]:
    """Names of the columns, from the file's footer."""
    pyarrow, pq = _libraries()
    try:
        return tuple(pq.read_schema(path).names)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: {_said(error)}") from None


def num_rows(path: Path) -> int:
    """Number of rows, from the file's footer."""
    pyarrow, pq = _libraries()
    try:
        return int(pq.read_metadata(path).num_rows)
    except (OSError, pyarrow.ArrowException) as error:
        raise DataError(f"{path}: {_said(error)}") from None


def _libraries() -> tuple[ModuleType, ModuleType]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise MissingExtra("pyarrow", "data") from None
    return pyarrow.lib, pyarrow.parquet


def _said(error: Exception) -> str:
    said = file_problem(error) if isinstance(error, OSError) and error.strerror else str(error)
    first = " ".join(said.split("\n")[0].split()) or type(error).__name__
    return f"cannot be read as Parquet ({first[:200]}); download it again"

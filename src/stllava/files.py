"""Records and JSON on disk: errors name file and line, and nothing is left half-written.

Lines end at a newline and nowhere else: sampled text holds U+2028 and its like.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from stllava.errors import DataError, RunError
from stllava.records import Record

R = TypeVar("R", bound=Record)


def read_records(path: Path, kind: type[R]) -> Iterator[R]:
    """Records of a JSONL file. Raises DataError naming file, line and field."""
    for number, line in _lines(path):
        try:
            yield kind.model_validate_json(line)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "line"
            raise DataError(
                f"{path}:{number}: not a {kind.__name__}: {where}: {first['msg']}"
            ) from error


def read_json_lines(path: Path, *, torn_ok: bool = False) -> Iterator[dict[str, Any]]:
    """Objects of a JSONL file; a torn last line ends the file if `torn_ok`."""
    if not path.is_file():
        return
    for number, line in _lines(path):
        try:
            yield json.loads(line)
        except ValueError as error:
            if torn_ok:
                return
            raise DataError(f"{path}:{number}: not JSON: {error}") from error


def _lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Lines that are not blank, with their numbers in the file."""
    try:
        with path.open("rb") as file:
            yield from ((n, line) for n, line in enumerate(file, start=1) if line.strip())
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; run the stage that writes it first") from error


def count_lines(path: Path) -> int:
    """Number of lines that are not blank; 0 for a file that is not there."""
    return sum(1 for _ in _lines(path)) if path.is_file() else 0


def end_of_last_line(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0


def truncate(path: Path, size: int) -> None:
    if path.is_file() and path.stat().st_size > size:
        with path.open("r+b") as file:
            file.truncate(size)


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step: never half-written, whatever happens."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Replace a JSON file in one step."""
    write_text(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises DataError if it is none."""
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read as JSON: {error}") from error
    return value


def sha256(path: Path) -> str:
    """Hex digest of a file's bytes; of all files' names and bytes for a folder."""
    if path.is_dir():
        parts = [f"{p.name}:{sha256(p)}" for p in sorted(path.iterdir()) if p.is_file()]
        return hashlib.sha256("\n".join(parts).encode()).hexdigest()
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=1024)
def _sha256(path: Path, size: int, mtime_ns: int) -> str:
    """A 7B checkpoint is the input of several stages of one process; it is read once."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def utc_now() -> str:
    """Now, UTC, ISO 8601, to the second."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


@contextmanager
def disk_errors(where: Path) -> Iterator[None]:
    """Turn a full or read-only disk into one line; what was written before stays resumable."""
    try:
        yield
    except OSError as error:
        if error.errno is None:
            raise
        raise RunError(
            f"{error.filename or where}: {error.strerror}; free space or fix it, "
            "then repeat the command"
        ) from error

"""Run directories: where every stage writes, how it resumes, and what makes it stale.

Only this module decides a path inside a run. A stage writes `plan.json` first (schema, inputs with
sha256, settings, number of work units), then its records unit by unit, then `stage.json`, whose
presence means complete. `progress.jsonl` holds the size of every file after each finished unit: on
resume the files are cut back to it, so a killed unit leaves nothing behind and the records are the
same as in an uninterrupted run.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import yaml
from pydantic import ValidationError

from stllava.errors import DataError, RunError
from stllava.records import SCHEMA, Dropped, Record

R = TypeVar("R", bound=Record)

STAGES = ("prepare", "sft", "ask", "answer", "judge", "prefer", "dpo", "eval", "report")


class Run:
    """A run directory, locked for this process while used as a context manager."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self._lock: Any = None
        self._stages: list[Stage] = []

    def __enter__(self) -> Run:
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = (self.path / ".lock").open("a+")
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written: {error.strerror}") from error
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._lock.seek(0)
            pid = self._lock.read().strip() or "unknown"
            self._lock.close()
            raise RunError(
                f"{self.path}: in use by process {pid}; wait for it or choose another --run"
            ) from error
        self._lock.truncate(0)
        self._lock.write(str(os.getpid()))
        self._lock.flush()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for stage in self._stages:
            stage.close()
        self._lock.close()

    def start(self, recipe: dict[str, Any]) -> None:
        """Write the resolved recipe and the environment; a run is never mixed from two recipes.

        A changed recipe is accepted here and found by the stages whose own settings it changes.
        """
        write_text(self.path / "recipe.yaml", yaml.safe_dump(recipe, sort_keys=False))
        write_json(self.path / "environment.json", environment())

    def stage(self, name: str) -> Stage:
        """A stage by its path inside the run: `ask`, `round-2/ask`, `eval/dpo/phantom/image`."""
        self._stages.append(Stage(self.path / name, name))
        return self._stages[-1]

    def supersede(self, names: Iterable[str]) -> list[str]:
        """Move stages aside, under superseded/; nothing is deleted. Returns what was moved."""
        moved = []
        for name in names:
            source = self.path / name
            if source.exists():
                target = self.path / "superseded" / f"{name}-{time.strftime('%Y%m%dT%H%M%S')}"
                target.parent.mkdir(parents=True, exist_ok=True)
                while target.exists():  # twice within a second
                    target = target.with_name(f"{target.name}+")
                source.rename(target)
                moved.append(name)
        return moved


class Stage:
    """One stage's folder: plan, appended records, progress, completion."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.next_unit = 0
        self._files: dict[str, Any] = {}
        self._started = time.monotonic()
        self.num_dropped = 0

    @property
    def complete(self) -> bool:
        return (self.path / "stage.json").is_file()

    @property
    def summary(self) -> dict[str, Any]:
        """What stage.json says; RunError if the stage is not complete."""
        if not self.complete:
            raise RunError(f"{self.path}: this stage is not complete; run it first")
        return read_json(self.path / "stage.json")

    def begin(
        self,
        *,
        inputs: Iterable[Path],
        settings: Any,
        num_units: int = 1,
        by_id: bool = False,
    ) -> bool:
        """Write or check the plan and cut files back to the last finished unit.

        `by_id`: records are resumed one by one, so only a torn last line is cut.
        Returns False if the stage is complete already. Raises RunError if the folder was made from
        other inputs or settings: old and new records are never mixed.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        plan = {
            "schema": SCHEMA,
            "inputs": {f"{p.parent.name}/{p.name}": sha256(p) for p in inputs},
            "settings": json.loads(json.dumps(settings)),
            "num_units": num_units,
        }
        file = self.path / "plan.json"
        if file.is_file():
            self._check_plan(read_json(file), plan)
        else:
            write_json(file, plan)
        if self.complete:
            return False
        self._started = time.monotonic()
        if by_id:
            for records in self.path.glob("*.jsonl"):
                _truncate(records, _end_of_last_line(records))
            self.num_dropped = count_lines(self.path / "dropped.jsonl")
        else:
            self._cut_back()
        return True

    def _check_plan(self, old: dict[str, Any], new: dict[str, Any]) -> None:
        if old.get("schema") != new["schema"]:
            raise RunError(
                f"{self.path}: written with record schema {old.get('schema')}, this version "
                f"writes {new['schema']}; start a new run"
            )
        changed = [key for key in ("inputs", "settings", "num_units") if old.get(key) != new[key]]
        if changed:
            what = _difference(old[changed[0]], new[changed[0]])
            raise RunError(
                f"{self.path}: made from other {changed[0]} ({what}); "
                f"redo it with --redo {self._verb}, or start a new run"
            )

    @property
    def _verb(self) -> str:
        """`judge` of `judge` and of `controls/random/judge`; `eval` of `eval/dpo/...`."""
        parts = self.name.split("/")
        return parts[2] if parts[0] == "controls" else parts[0]

    def _cut_back(self) -> None:
        progress = self.path / "progress.jsonl"
        last: dict[str, Any] = {"unit": -1, "sizes": {}}
        for last in read_json_lines(progress, torn_ok=True):  # noqa: B007
            pass
        self.next_unit = last["unit"] + 1
        if self.next_unit == 0:
            progress.unlink(missing_ok=True)
        for file in self.path.glob("*.jsonl"):
            if file != progress:
                _truncate(file, last["sizes"].get(file.name, 0))
        if self.next_unit:
            _truncate(progress, _end_of_last_line(progress))
        self.num_dropped = count_lines(self.path / "dropped.jsonl")

    def create(self, name: str) -> None:
        """A record file that is there even if nothing is appended to it."""
        (self.path / name).touch()

    def append(self, name: str, record: Record) -> None:
        """Append one record to the file `name`."""
        if name not in self._files:
            self._files[name] = (self.path / name).open("ab")
        line = record.model_dump_json(exclude_defaults=True).encode() + b"\n"
        with disk_errors(self.path / name):
            self._files[name].write(line)

    def drop(self, dropped: Dropped) -> None:
        """Write down what does not go further."""
        self.num_dropped += 1
        self.append("dropped.jsonl", dropped)

    def flush(self) -> None:
        """Everything appended so far is on disk when this returns."""
        with disk_errors(self.path):
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())

    def close(self) -> None:
        """Let go of the files; what a full disk keeps back is cut on resume."""
        for file in self._files.values():
            with suppress(OSError):
                file.close()
        self._files = {}

    def finish_unit(self, unit: int) -> None:
        """Everything of this unit is on disk before its line of progress is."""
        self.flush()
        names = [p for p in self.path.glob("*.jsonl") if p.name != "progress.jsonl"]
        sizes = {p.name: p.stat().st_size for p in sorted(names)}
        with (self.path / "progress.jsonl").open("ab") as file:
            file.write(json.dumps({"unit": unit, "sizes": sizes}).encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        self.next_unit = unit + 1

    def finish(self, **counts: Any) -> None:
        """Write stage.json: from now on the stage is complete."""
        self.flush()
        self.close()
        seconds = round(time.monotonic() - self._started, 1)
        write_json(
            self.path / "stage.json",
            {**counts, "dropped": self.num_dropped, "seconds": seconds, "finished": utc_now()},
        )

    def read(self, name: str, kind: type[R]) -> list[R]:
        """All records of one file of this stage."""
        return list(read_records(self.path / name, kind))


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


def _end_of_last_line(path: Path) -> int:
    return path.read_bytes().rfind(b"\n") + 1 if path.is_file() else 0


def _truncate(path: Path, size: int) -> None:
    if path.is_file() and path.stat().st_size > size:
        with path.open("r+b") as file:
            file.truncate(size)


def _difference(old: Any, new: Any) -> str:
    """The first thing that differs, for an error message of one line."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *new]:
            if old.get(key) != new.get(key):
                inner = _difference(old.get(key), new.get(key))
                return f"{key}.{inner}" if isinstance(old.get(key), dict) else f"{key}: {inner}"
    return f"{_short(old)} before, {_short(new)} now"


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else text[:37] + "..."


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


def environment() -> dict[str, Any]:
    """Versions and hardware, for the record. Imports nothing heavy."""
    versions: dict[str, str | None] = {}
    for name in ("stllava", "torch", "transformers", "peft", "accelerate", "numpy", "pydantic"):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    return {
        "versions": versions,
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "started": utc_now(),
    }


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

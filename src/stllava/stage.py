"""One stage's folder in a run: plan, appended records, progress, completion, resuming."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from stllava.errors import RunError
from stllava.files import (
    count_lines,
    disk_errors,
    end_of_last_line,
    read_json,
    read_json_lines,
    read_records,
    sha256,
    truncate,
    utc_now,
    write_json,
)
from stllava.records import SCHEMA, Dropped, Record

R = TypeVar("R", bound=Record)


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
                truncate(records, end_of_last_line(records))
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
                truncate(file, last["sizes"].get(file.name, 0))
        if self.next_unit:
            truncate(progress, end_of_last_line(progress))
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

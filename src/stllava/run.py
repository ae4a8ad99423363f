"""Run directories: where every stage writes, how it resumes, and what makes it stale.

Only this module decides a path inside a run. A stage writes `plan.json` first (schema, inputs with
sha256, settings, number of work units), then its records unit by unit, then `stage.json`, whose
presence means complete. `progress.jsonl` holds the size of every file after each finished unit: on
resume the files are cut back to it, so a killed unit leaves nothing behind and the records are the
same as in an uninterrupted run.
"""

from __future__ import annotations

import fcntl
import os
import platform
import sys
import time
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from stllava.errors import RunError
from stllava.files import utc_now, write_json, write_text
from stllava.stage import Stage

STAGES = ("prepare", "sft", "ask", "answer", "judge", "prefer", "dpo", "eval", "report")
LEDGER = "ledger.sqlite"  # of calls, in the judge's folder


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
                if any(source.glob("*.sqlite")):
                    _move_all_but_the_ledgers(source, target)
                else:
                    source.rename(target)
                moved.append(name)
        return moved


def _move_all_but_the_ledgers(source: Path, target: Path) -> None:
    """What was paid for is used again; SQLite keeps up to three files: .sqlite, -wal, -shm."""
    target.mkdir()
    for path in sorted(source.iterdir()):
        if not (path.is_file() and ".sqlite" in path.name):
            path.rename(target / path.name)


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

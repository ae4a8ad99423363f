"""Options that the judge's endpoint refused, kept in the stage's folder for its next process."""

from __future__ import annotations

from pathlib import Path

from stllava.files import read_json, write_json
from stllava.generation.asked import host_of
from stllava.generation.options import Options
from stllava.pipeline.job import Job

FILE = "left_out.json"  # "MODEL at HOST" -> names of options


def options(job: Job) -> Options:
    """The endpoint's options, less what it has refused; what more it refuses is written down."""
    name = _name(job)

    def keep(without: frozenset[str]) -> None:
        file = _file(job)
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, {**_kept(file), name: sorted(without)})

    return Options(_kept(_file(job)).get(name, ()), keep)


def left_out(job: Job) -> list[str]:
    """What the endpoint has refused in this stage so far, sorted."""
    return _kept(_file(job)).get(_name(job), [])


def _name(job: Job) -> str:
    section = job.recipe.judge
    return f"{section.model} at {host_of(section.base_url)}"


def _file(job: Job) -> Path:
    return job.stage("judge").path / FILE


def _kept(file: Path) -> dict[str, list[str]]:
    return read_json(file) if file.is_file() else {}

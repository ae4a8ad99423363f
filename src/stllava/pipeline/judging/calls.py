"""The judge's calls: where they are kept, what they may cost, and who agrees to pay for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from stllava.errors import JudgeError
from stllava.files import disk_errors, read_json_lines, read_records
from stllava.generation.wire import is_local
from stllava.judging.calls.budget import Plan, budget
from stllava.judging.calls.estimate import CountingGenerator
from stllava.judging.calls.ledger import Ledger
from stllava.judging.rubrics import load_rubric
from stllava.judging.states import UNSAID
from stllava.pipeline import paid
from stllava.pipeline.job import Job
from stllava.pipeline.judging import left_out
from stllava.records import Verdict
from stllava.run import LEDGER

if TYPE_CHECKING:
    from stllava.generation.endpoint import EndpointGenerator

# Of the section `judge`: how calls are sent and paid for changes no verdict.
OPERATION = frozenset({
    "api_key_env", "batch", "call_limit_s", "concurrency", "image_tokens",
    "images_are_deidentified", "key_file", "ledger", "max_calls", "max_failed", "max_tries",
    "max_usd", "prices", "retry", "self_judging", "server", "timeout_s",
})  # fmt: skip
ImageUri = Callable[[str], str] | None


def ledger_path(job: Job) -> Path:
    """A run, its controls and its rounds keep their calls in one file."""
    named = job.recipe.judge.ledger
    return Path(named) if named else job.run.path / "judge" / LEDGER


def open_ledger(job: Job) -> Ledger:
    """The ledger with the recipe's budget; what is there since the stage began stands."""
    plan = job.stage("judge").path / "plan.json"
    return Ledger(
        ledger_path(job),
        budget(job.recipe.judge),
        retry=job.recipe.judge.retry,
        since=plan.stat().st_mtime if plan.is_file() else 0.0,
    )


def endpoint(job: Job, calls: Ledger, rubric: str, image_uri: ImageUri = None) -> EndpointGenerator:
    """The recipe's endpoint, paid from the ledger.

    `rubric`: name and version. `image_uri` says what is sent for an image in its stead.
    """
    shown, options = _shown(job, image_uri), left_out.options(job)
    return paid.endpoint(job.recipe.judge, shown, calls, rubric=rubric, options=options)


def count(
    job: Job, calls: Ledger | None, rubric: str, image_uri: ImageUri = None
) -> CountingGenerator:
    """The same endpoint, of which nothing is asked."""
    section, shown = job.recipe.judge, _shown(job, image_uri)
    repair = load_rubric(section.rubric).repair if section.repair else None
    return paid.counting(section, shown, calls, rubric=rubric, repair=repair)


def _shown(job: Job, image_uri: ImageUri) -> paid.Shown:
    pixels = None if image_uri else lambda name: job.images[name].pixels_sha256
    return paid.Shown(job.image_path, image_uri, pixels)


def as_billed(job: Job, plan: Plan) -> Plan:
    """The plan at the price that the recipe's way of sending has."""
    batch = job.recipe.judge.batch
    return plan if batch is None else plan.in_batches(batch.price)


def check_leaving(job: Job) -> None:
    """No image goes to another machine unsaid. Raises JudgeError."""
    section = job.recipe.judge
    if not (is_local(section.base_url) or section.images_are_deidentified):
        raise JudgeError(
            f"judge {section.model}: images would leave this machine; if they are de-identified, "
            "say so with --set judge.images_are_deidentified=true"
        )


def ask_before_paying(job: Job, count_calls: Callable[[], Plan]) -> None:
    """Nothing is sent to a remote host that nobody agreed to pay for. Raises JudgeError."""
    paid.agree_to_pay(job.agree, job.recipe.judge, count_calls)


def standing(file: Path) -> set[str]:
    """Ids of the verdicts that need not be asked for again."""
    lines = read_json_lines(file, torn_ok=True)
    return {line["id"] for line in lines if line["state"] not in UNSAID}


def drop_passing(file: Path) -> set[str]:
    """Take verdicts that are none yet out of the file. Returns the ids of those that stand."""
    ids = standing(file)
    if not file.is_file():
        return ids
    kept = file.with_name(".verdicts.jsonl.kept")
    with disk_errors(file), kept.open("wb") as out:
        for verdict in read_records(file, Verdict):
            if verdict.state not in UNSAID:
                out.write(verdict.model_dump_json(exclude_defaults=True).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
    kept.replace(file)
    return ids

"""The judge's calls: where they are kept, what they may cost, and who agrees to pay for them."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from stllava.errors import JudgeError
from stllava.files import disk_errors, read_json_lines, read_records
from stllava.generation.asked import Asker, Pictures
from stllava.generation.protocol import Generator
from stllava.generation.wire import is_local
from stllava.judging.budget import Plan, budget
from stllava.judging.estimate import CountingGenerator
from stllava.judging.ledger import Ledger
from stllava.pipeline.job import Job
from stllava.records import Verdict
from stllava.run import LEDGER

# Of the section `judge`: how calls are sent and paid for changes no verdict.
OPERATION = frozenset({
    "api_key_env", "call_limit_s", "concurrency", "image_tokens", "images_are_deidentified",
    "key_file", "ledger", "max_calls", "max_tries", "max_usd", "prices", "retry", "self_judging",
    "server", "timeout_s",
})  # fmt: skip
ImageUri = Callable[[str], str] | None
PASSING = ("transport_failed", "budget_stopped")  # states that are asked for again


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


def endpoint(job: Job, calls: Ledger, rubric: str, image_uri: ImageUri = None) -> Generator:
    """The recipe's endpoint, paid from the ledger.

    `rubric`: name and version. `image_uri` says what is sent for an image in its stead.
    """
    from stllava.generation.endpoint import EndpointGenerator  # its client loads slowly

    section = job.recipe.judge
    return EndpointGenerator(
        section.base_url,
        section.model,
        api_key_env=section.api_key_env,
        key_file=Path(section.key_file) if section.key_file else None,
        image_path=job.image_path,
        image_uri=image_uri,
        image_pixels=None if image_uri else lambda name: job.images[name].pixels_sha256,
        timeout_s=section.timeout_s,
        call_limit_s=section.call_limit_s,
        max_tries=section.max_tries,
        concurrency=section.concurrency,
        calls=calls,
        rubric=rubric,
        tokens_per_image=section.image_tokens,
    )


def count(
    job: Job, calls: Ledger | None, rubric: str, image_uri: ImageUri = None
) -> CountingGenerator:
    """The same endpoint, of which nothing is asked."""
    section = job.recipe.judge
    pixels = None if image_uri else lambda name: job.images[name].pixels_sha256
    pictures = Pictures(job.image_path, image_uri, pixels)
    asker = Asker(
        section.base_url,
        section.model,
        pictures,
        rubric=rubric,
        tokens_per_image=section.image_tokens,
    )
    return CountingGenerator(asker, calls, budget(section))


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
    section = job.recipe.judge
    if is_local(section.base_url) or (plan := count_calls()).calls == 0:
        return
    said = f"judge {section.model}: " + "; ".join(plan.lines())
    if job.agree is None:
        raise JudgeError(f"{said}; add --yes to agree, or look first with --dry-run")
    if not job.agree(said):
        raise JudgeError(f"judge {section.model}: not agreed to; nothing was sent")


def standing(file: Path) -> set[str]:
    """Ids of the verdicts that need not be asked for again."""
    lines = read_json_lines(file, torn_ok=True)
    return {line["id"] for line in lines if line["state"] not in PASSING}


def drop_passing(file: Path) -> set[str]:
    """Take verdicts that are none yet out of the file. Returns the ids of those that stand."""
    ids = standing(file)
    if not file.is_file():
        return ids
    kept = file.with_name(".verdicts.jsonl.kept")
    with disk_errors(file), kept.open("wb") as out:
        for verdict in read_records(file, Verdict):
            if verdict.state not in PASSING:
                out.write(verdict.model_dump_json(exclude_defaults=True).encode() + b"\n")
        out.flush()
        os.fsync(out.fileno())
    kept.replace(file)
    return ids

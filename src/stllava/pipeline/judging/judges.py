"""Judges on this machine: the rule, a local policy, a server started for them; a jury's members."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image as PILImage

from stllava.config import JudgeSection
from stllava.errors import JudgeError
from stllava.files import sha256
from stllava.generation.key import access_key
from stllava.generation.protocol import Generator
from stllava.judging.known import KnownAnswers
from stllava.judging.protocol import Judge
from stllava.judging.reference import NAME as REFERENCE
from stllava.judging.reference import ReferenceJudge
from stllava.judging.server import running_server
from stllava.pipeline.job import Job
from stllava.records import Conversation

if TYPE_CHECKING:
    from stllava.generation.hf import PolicyGenerator
    from stllava.policy.policy import Policy

SELF = "self"  # the judge's name where a policy of the run judges its own answers


def members(job: Job) -> dict[str, Job]:
    """Name -> the job as if that member were the only judge; rubric, orders and caps are shared.

    What a member does not say of its endpoint is the default, not the section's own.
    """
    section = job.recipe.judge
    found = {}
    for name, juror in section.jury.items():
        said = {field: getattr(juror, field) for field in type(juror).model_fields}
        alone = section.model_copy(update={**said, "jury": {}})
        found[name] = replace(job, recipe=job.recipe.model_copy(update={"judge": alone}))
    return found


def models_asked(section: JudgeSection) -> list[str]:
    """Models behind an API that judge, be it as members of a jury."""
    judges = section.jury.values() or (section,)
    return [judge.model for judge in judges if judge.kind == "openai"]


def judge_name(job: Job) -> str:
    """Who the verdicts are from: part of their ids, and the source of preferences."""
    section = job.recipe.judge
    if section.kind == "openai":
        return section.model
    if section.kind == "local":
        return SELF if _is_own(job) else f"local:{_checkpoint(job).name}"
    return REFERENCE if section.kind == "reference" else section.kind


def reference_judge(job: Job) -> Judge:
    """The rule, with the run's instruction data as what is known. Raises JudgeError without any."""
    file = job.file("prepare", "conversations.jsonl")
    talks = job.stage("prepare").read(file.name, Conversation)
    if not talks:
        raise JudgeError(
            f"{file}: no known answer to judge by; give the data conversations, labels or reports, "
            "or take another judge.kind"
        )
    return ReferenceJudge(KnownAnswers(talks))


def inputs(job: Job) -> list[Path]:
    """Files beside the answers that the verdicts depend on; of a jury, those of its members too."""
    found: list[Path] = []
    for own in (job, *members(job).values()):
        if own.recipe.judge.kind == "reference":
            found.append(own.file("prepare", "conversations.jsonl"))
        elif own.recipe.judge.kind == "local":
            found.append(_checkpoint(own))
    return list(dict.fromkeys(found))


def check_self_judging(job: Job) -> None:
    """Raises JudgeError for a local judge that is the run's own policy, unless that is wanted."""
    if _is_own(job) and not job.recipe.judge.self_judging:
        raise JudgeError(
            f"judge.checkpoint: {job.recipe.judge.checkpoint} is this run's own policy, which "
            "prefers its own words; take another judge, or say so with --set "
            "judge.self_judging=true"
        )


def local_policy(job: Job) -> Policy:
    """The policy of judge.checkpoint, whoever's it is."""
    return _owner(job).load(_model(job))


def local_generator(job: Job) -> PolicyGenerator:
    """The policy of judge.checkpoint, in this process. Raises JudgeError if it is the run's own."""
    check_self_judging(job)
    if _is_own(job):
        job.reporter.note("the policy judges its own answers; its verdicts are marked 'self'")
    policy = local_policy(job)
    from stllava.generation.hf import PolicyGenerator  # needs torch

    return PolicyGenerator(policy, job.open_image, name=judge_name(job), **job.batching)


def without_images(job: Job, generator: PolicyGenerator) -> Generator:
    """The same policy, shown one colour in the place of every image."""
    from stllava.generation.hf import PolicyGenerator
    from stllava.pipeline.judging.verdicts import blank_image

    def blank(name: str) -> PILImage.Image:
        return blank_image(job, name)

    return PolicyGenerator(generator.policy, blank, name=generator.name, **job.batching)


@contextmanager
def managed_server(job: Job) -> Iterator[None]:
    """The recipe's judge.server for as long as the block runs; nothing where there is none."""
    section = job.recipe.judge
    if section.server is not None and section.kind == "openai":
        free_gpu()
        job.reporter.note(f"starting {section.server.command.split(' ')[0]} and waiting for it")
    with server_of(section, job.stage("judge").path):
        yield


@contextmanager
def server_of(section: JudgeSection, folder: Path) -> Iterator[None]:
    """The section's server, whose output goes to `folder`; nothing where there is none."""
    if section.server is None or section.kind != "openai":
        yield
        return
    assert section.base_url is not None  # the recipe's own check
    with running_server(
        section.server.command,
        ready_url=section.server.ready_url or f"{section.base_url.rstrip('/')}/models",
        folder=folder,
        timeout_s=section.server.timeout_s,
        env=section.server.env,
        secret=access_key(section),
    ):
        yield


def free_gpu() -> None:
    """Give back what an earlier policy left with the allocator of this process."""
    torch = sys.modules.get("torch")
    gc.collect()
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def _model(job: Job) -> str:
    """ "base" or "sft" of the run, or "base" of `_owner`."""
    given = job.recipe.judge.checkpoint
    assert given  # the recipe's own check
    return given if given in ("base", "sft") else "base"


def _owner(job: Job) -> Job:
    """A job whose base policy is the judge, where it is none of the run."""
    given = job.recipe.judge.checkpoint
    if given in ("base", "sft"):
        return job
    model = job.recipe.model.model_copy(update={"path": given, "image_side": None})
    return replace(job, recipe=job.recipe.model_copy(update={"model": model}))


def _checkpoint(job: Job) -> Path:
    return _owner(job).checkpoint(_model(job))


def _is_own(job: Job) -> bool:
    """Whether the judge is what the run starts from or has trained, under whatever path."""
    if job.recipe.judge.checkpoint in ("base", "sft"):
        return True
    judge = _checkpoint(job)
    own = {job.base_path} | ({job.checkpoint("sft")} if job.stage("sft").complete else set())
    return any(_same_files(judge, path) for path in own)


def _same_files(one: Path, other: Path) -> bool:
    """Whether two folders hold the same weights; sizes are compared before bytes are read."""
    if one.resolve() == other.resolve():
        return True
    sizes = [
        {p.name: p.stat().st_size for p in sorted(f.glob("*.safetensors"))} for f in (one, other)
    ]
    if not sizes[0] or sizes[0] != sizes[1]:
        return False
    return all(sha256(one / name) == sha256(other / name) for name in sizes[0])

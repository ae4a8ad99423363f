"""Who is asked: the recipe's judge as a `Judge`, with what has to be there for it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Literal

from stllava.errors import JudgeError
from stllava.generation.protocol import Generator, Sampling
from stllava.judging.budget import Plan
from stllava.judging.ledger import Ledger
from stllava.judging.pairing import Pair
from stllava.judging.protocol import Judge, ModelJudge
from stllava.judging.rubrics import load_rubric, rubric_hash
from stllava.phantom.oracle import OracleGenerator
from stllava.phantom.truth import read_truth
from stllava.pipeline import calls, judges
from stllava.pipeline import verdicts as written
from stllava.pipeline.job import Job
from stllava.pipeline.jury import opened_jury
from stllava.records import Answers, JSONObject
from stllava.stage import Stage

Items = Callable[[], Iterable[tuple[Answers, Pair]]]

# Of the section `judge`: what decides whether a judge is let in changes no verdict.
GATE = frozenset({"min_accuracy", "bench_pairs", "bench_file", "bench_images"})


def settings_of(job: Job) -> JSONObject:
    """What a verdict depends on, as plan.json holds it."""
    section = job.recipe.judge
    settings = section.model_dump(mode="json", exclude=set(calls.OPERATION | GATE))
    for juror in settings["jury"].values():
        for name in calls.OPERATION & juror.keys():
            del juror[name]
    if section.kind == "phantom":
        settings["accuracy"] = job.recipe.phantom.judge_accuracy
    if (text := rubric_hash(section.rubric)) is not None:
        settings["rubric_sha256"] = text
    settings["seed"] = job.recipe.seed
    return settings


@contextmanager
def opened_judge(
    job: Job, items: Items, *, stage: Stage, done: Container[str] = ()
) -> Iterator[Judge]:
    """The judge, ready to be asked about `items`: agreed to, its ledger open, its server running.

    Raises JudgeError for an expert, who is not asked here, and for what `calls` refuses.
    """
    kind = job.recipe.judge.kind
    if job.recipe.judge.jury:
        with opened_jury(job, stage, lambda own: opened_judge(own, items, stage=stage)) as jury:
            yield jury
    elif kind == "expert":
        raise JudgeError("judge.kind: expert: nobody to ask; see `stllava review`")
    elif kind == "reference":
        yield judges.reference_judge(job)
    else:
        with ExitStack() as stack:
            book = None
            if is_paid(job):
                calls.check_leaving(job)
                book = stack.enter_context(calls.open_ledger(job))
                calls.ask_before_paying(job, partial(_plan, job, book, items, done))
            stack.enter_context(judges.managed_server(job))
            yield model_judge(job, generator_of(job, book))


def _plan(job: Job, book: Ledger, items: Items, done: Container[str]) -> Plan:
    counting = calls.count(job, book, rubric_name(job))
    for _ in model_judge(job, counting).judge(items(), done=done):
        pass
    return counting.plan


def model_judge(job: Job, generator: Generator, view: Literal["image", "blank"] = "image") -> Judge:
    section = job.recipe.judge
    temperature = 0.0 if section.kind == "local" else section.temperature
    return ModelJudge(
        generator,
        name=judges.judge_name(job),
        orders=section.orders,
        rubric=section.rubric,
        view=view,
        samples=section.samples,
        repair=section.repair,
        model=section.model if section.kind == "openai" else None,
        sampling=Sampling(temperature=temperature, seed=job.recipe.seed),
        max_tokens=section.max_tokens,
    )


def is_paid(job: Job) -> bool:
    """Whether the judge is behind an API, so that its calls are kept and may cost money."""
    section = job.recipe.judge
    return section.kind == "openai" and not section.jury  # its members have their own


def rubric_name(job: Job) -> str:
    rubric = load_rubric(job.recipe.judge.rubric)
    return f"{rubric.name}-{rubric.version}"


def generator_of(job: Job, book: Ledger | None) -> Generator:
    if job.recipe.judge.kind == "phantom":
        if job.recipe.data.source != "phantom":
            raise JudgeError("judge.kind: phantom knows drawn images only; set judge.kind=openai")
        truth = read_truth(job.file("prepare", "truth.jsonl"))
        return OracleGenerator(truth, accuracy=job.recipe.phantom.judge_accuracy)
    if job.recipe.judge.kind == "local":
        return judges.local_generator(job)
    assert book is not None
    return calls.endpoint(job, book, rubric_name(job))


def without_images(job: Job, book: Ledger | None, generator: Any) -> Generator | None:
    """The same judge, shown nothing; None where it never looks."""
    if job.recipe.judge.kind == "local":
        return judges.without_images(job, generator)
    if book is None:
        return None
    return calls.endpoint(job, book, rubric_name(job), written.blank_uri(job))

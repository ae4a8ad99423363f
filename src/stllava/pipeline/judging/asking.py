"""Who is asked: the recipe's judge as a `Judge`, with what has to be there for it."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from stllava.errors import JudgeError
from stllava.generation.on_demand import OnDemand
from stllava.generation.protocol import Generator, Sampling
from stllava.judging.calls.budget import Plan
from stllava.judging.calls.ledger import Ledger
from stllava.judging.jury.turns import Views
from stllava.judging.pairing import Pair
from stllava.judging.protocol import Judge, ModelJudge
from stllava.judging.rubrics import load_rubric, rubric_hash
from stllava.judging.states import UNSAID
from stllava.phantom.oracle import OracleGenerator
from stllava.phantom.truth import read_truth
from stllava.pipeline.job import Job
from stllava.pipeline.judging import batch, calls, judges
from stllava.pipeline.judging import verdicts as written
from stllava.pipeline.judging.jury import jury, votes
from stllava.records import Answers, JSONObject, Verdict
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
        if juror["kind"] == "openai":  # as when there was no other kind: plans of then still hold
            del juror["kind"], juror["checkpoint"]
    if "phantom" in (section.kind, *(juror.kind for juror in section.jury.values())):
        settings["accuracy"] = job.recipe.phantom.judge_accuracy
    if (text := rubric_hash(section.rubric)) is not None:
        settings["rubric_sha256"] = text
    settings["seed"] = job.recipe.seed
    return settings


@contextmanager
def opened_judge(
    job: Job, items: Items, *, stage: Stage, done: Container[str] = ()
) -> Iterator[Views]:
    """The judge, ready to be asked about `items`: agreed to, its ledger open, batches collected.

    What has to run or be loaded for it is so from its first request on. A jury's members come one
    after the other, their votes go to `stage`, and it sees to the blank views itself. Raises
    JudgeError for an expert, who is not asked here, and for what `calls` refuses.
    """
    kind = job.recipe.judge.kind
    if job.recipe.judge.jury:
        said = {vote.id for vote in votes(stage.path) if vote.state not in UNSAID}
        before = (_check, partial(_agree, items=items, done=said))
        yield Views(jury(job, stage, before=before, turn=partial(_turn, items=items, done=said)))
    elif kind == "expert":
        raise JudgeError("judge.kind: expert: nobody to ask; see `stllava review`")
    else:
        if is_paid(job):
            calls.check_leaving(job)
        _agree(job, items, done)
        with _turn(job, items, done) as views:
            yield views


def _check(job: Job) -> None:
    """What a member would fail for at its turn, found before the first one is asked."""
    kind = job.recipe.judge.kind
    if kind == "reference":
        judges.reference_judge(job)
    elif kind == "local":
        judges.check_self_judging(job)
    elif kind == "phantom":
        generator_of(job, None)
    else:
        calls.check_leaving(job)
        with calls.open_ledger(job) as book:
            generator_of(job, book)  # reads the key


def _agree(job: Job, items: Items, done: Container[str]) -> None:
    if is_paid(job):
        with calls.open_ledger(job) as book:
            calls.ask_before_paying(
                job, lambda: calls.as_billed(job, planned_calls(job, book, items, done))
            )


@contextmanager
def _turn(job: Job, items: Items, done: Container[str]) -> Iterator[Views]:
    """A single judge, alone: its server and its policy are gone when the block ends."""
    if job.recipe.judge.kind == "reference":
        yield Views(judges.reference_judge(job))
        return
    with ExitStack() as stack:
        if job.recipe.judge.kind == "local":
            stack.callback(judges.free_gpu)
        book = stack.enter_context(calls.open_ledger(job)) if is_paid(job) else None

        if book is not None:
            _fill_from_batches(job, book, items, done)

        def start() -> Generator:
            stack.enter_context(judges.managed_server(job))
            return generator_of(job, book)

        def start_blank() -> Generator:
            blank = without_images(job, book, seeing.made())
            assert blank is not None
            return blank

        name = judges.judge_name(job)
        seeing = stack.enter_context(closing(OnDemand(name, start)))
        blank = stack.enter_context(closing(OnDemand(name, start_blank)))
        looks = job.recipe.judge.kind in written.SEEING
        yield Views(
            model_judge(job, seeing, book=book),
            model_judge(job, blank, "blank", book=book) if looks else None,
        )


def planned_calls(job: Job, book: Ledger | None, items: Items, done: Container[str]) -> Plan:
    """What a judge behind an API would still be sent, and what that would cost."""
    counting = calls.count(job, book, rubric_name(job))
    for _ in model_judge(job, counting).judge(items(), done=done):
        pass
    blank = calls.count(job, book, rubric_name(job), written.blank_uri(job))
    again = written.blank_sample(job, items())
    for _ in model_judge(job, blank, "blank").judge(again, done=done):
        pass
    return counting.plan.plus(blank.plan)


def _fill_from_batches(job: Job, book: Ledger, items: Items, done: Container[str]) -> None:
    """In batch mode, have in the ledger what batches bring; the rest is agreed to once more."""
    if job.recipe.judge.batch is None:
        return
    # What repairs what a batch brings is asked one by one: few calls, and another day.
    section = job.recipe.judge.model_copy(update={"repair": False})
    once = replace(job, recipe=job.recipe.model_copy(update={"judge": section}))

    def image(generator: Generator) -> Iterator[Verdict]:
        return model_judge(once, generator).judge(items(), done=done)

    def blank(generator: Generator) -> Iterator[Verdict]:
        again = written.blank_sample(job, items())
        return model_judge(once, generator, "blank").judge(again, done=done)

    views = [batch.View(None, image), batch.View(written.blank_uri(job), blank)]
    batch.fill(job, book, rubric_name(job), views)
    calls.ask_before_paying(job, partial(planned_calls, job, book, items, done))


def model_judge(
    job: Job,
    generator: Generator,
    view: Literal["image", "blank"] = "image",
    *,
    book: Ledger | None = None,
) -> Judge:
    """The recipe's judge; `book` is told which of its replies are refusals or cannot be read."""
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
        mark=book.mark if book is not None else None,
        sampling=Sampling(temperature=temperature, seed=job.recipe.seed),
        max_tokens=section.max_tokens,
    )


def is_paid(job: Job) -> bool:
    """Whether the judge is behind an API, so that its calls are kept and may cost money."""
    section = job.recipe.judge
    return section.kind == "openai" and not section.jury  # its members have their own


def rubric_name(job: Job) -> str:
    return load_rubric(job.recipe.judge.rubric).label


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

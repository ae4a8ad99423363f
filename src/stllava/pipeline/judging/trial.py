"""A recipe's judge on drawn shapes, before a run: what it can do, what talks it round.

Endpoints and local policies; of a jury, its members in turn. What a check asks is asked afresh; a
self-test's calls are kept where the recipe or the caller names a ledger. Either holds to the caps.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import NamedTuple

from stllava.config import JudgeSection, Recipe
from stllava.errors import JudgeError
from stllava.generation.protocol import Generator, Sampling
from stllava.judging.calls.afresh import Afresh, CountingAfresh
from stllava.judging.calls.budget import Plan, budget
from stllava.judging.calls.ledger import Ledger
from stllava.judging.protocol import ModelJudge
from stllava.judging.rubrics import load_rubric
from stllava.judging.trial.looked_at import listed_lines, model_lines, plan_lines
from stllava.judging.trial.probe import OF_A_POLICY, Finding, probe
from stllava.judging.trial.selftest import SelfTest, selftest
from stllava.judging.trial.shapes import shape_picture, shape_uri
from stllava.pipeline import paid
from stllava.pipeline.job import Job
from stllava.pipeline.judging import judges
from stllava.run import LEDGER, Run

SHAPES = paid.Shown(uri=shape_uri)
MAX_TRIES = 3  # somebody waits for the answer
SEEING = ("openai", "local")


class Looked(NamedTuple):
    """What one judge showed. `name`: of a jury's member, else ""."""

    name: str
    findings: tuple[Finding, ...]
    lines: list[str]  # which model it is, and what a stage will do


class Tried(NamedTuple):
    """One judge's self-test."""

    name: str
    found: SelfTest


def check(recipe: Recipe, agree: paid.Agree = None) -> Iterator[Looked]:
    """What every judge shows it can do. Nothing of it is kept. Raises JudgeError."""
    every = _judges(recipe)
    for one in every.values():
        if one.judge.kind == "openai":
            paid.agree_to_pay(agree, one.judge, partial(_calls_of_check, one.judge), otherwise="")
    for name, one in every.items():
        yield (_look_inside if one.judge.kind == "local" else _look)(name, one)


def talk_round(
    recipe: Recipe, num_pictures: int, *, ledger: Path | None = None, agree: paid.Agree = None
) -> Iterator[Tried]:
    """The self-test of every judge, with the recipe's rubric, sampling and limits.

    Calls are kept in `ledger`, else in the recipe's, else nowhere. Raises JudgeError.
    """
    every = _judges(recipe)
    named = ledger or (Path(recipe.judge.ledger) if recipe.judge.ledger else None)
    for one in every.values():
        if one.judge.kind == "openai":
            count = partial(_calls_of_selftest, one, named, num_pictures)
            fewer = ", or take fewer --pictures"
            paid.agree_to_pay(agree, one.judge, count, otherwise=fewer)
    with tempfile.TemporaryDirectory() as folder:
        for name, one in every.items():
            with _generator(one, named or Path(folder) / LEDGER) as generator:
                yield Tried(name, selftest(_model_judge(one, generator), num_pictures=num_pictures))


def _judges(recipe: Recipe) -> dict[str, Recipe]:
    """By name, the recipe with each judge that reads and sees; "" is the only one. A jury's rules
    are passed over."""
    kinds = {recipe.judge.kind}
    every = {"": recipe}
    if recipe.judge.jury:
        every = {name: own.recipe for name, own in judges.members(_job(recipe)).items()}
        kinds = {one.judge.kind for one in every.values()}
    found = {name: _hasty(one) for name, one in every.items() if one.judge.kind in SEEING}
    if not found:
        raise JudgeError(
            f"judge.kind: {', '.join(sorted(kinds))} is no endpoint and no local policy; nothing "
            "to look at (judge.kind=openai or local)"
        )
    for one in found.values():
        if one.judge.kind == "local" and one.judge.checkpoint == "sft":
            raise JudgeError(
                "judge.checkpoint: sft is a run's; name its folder, "
                "--set judge.checkpoint=RUN/sft/checkpoint"
            )
    return found


def _hasty(recipe: Recipe) -> Recipe:
    tries = min(recipe.judge.max_tries, MAX_TRIES)
    judge = recipe.judge.model_copy(update={"max_tries": tries})
    return recipe.model_copy(update={"judge": judge})


def _job(recipe: Recipe) -> Job:
    return Job(Run(Path()), recipe)  # nothing is read from a run or written to one


def _look(name: str, recipe: Recipe) -> Looked:
    section = recipe.judge
    with _server(recipe) as folder, Ledger(folder / LEDGER, budget(section)) as book:
        endpoint = paid.endpoint(section, SHAPES, Afresh(book))
        with closing(paid.UpToTheCap(endpoint, section)) as capped:
            able = probe(capped, refused=lambda: endpoint.options.without)
        listed = endpoint.models()
    lines = [
        *model_lines(section.model, able.models),
        *listed_lines(listed, {section.model, *able.models}),
        *plan_lines(able, load_rubric(section.rubric)),
    ]
    return Looked(name, tuple(able.findings.values()), lines)


def _look_inside(name: str, recipe: Recipe) -> Looked:
    able = probe(_policy(recipe), names=OF_A_POLICY)
    plan = plan_lines(able, load_rubric(recipe.judge.rubric), names=OF_A_POLICY)
    lines = [f"model: {recipe.judge.checkpoint}, in this process", *plan]
    return Looked(name, tuple(able.findings.values()), lines)


def _calls_of_check(section: JudgeSection) -> Plan:
    counting = CountingAfresh(paid.asker(section, SHAPES), budget(section))
    probe(counting)
    return counting.plan


def _calls_of_selftest(recipe: Recipe, ledger: Path | None, num_pictures: int) -> Plan:
    section, rubric = recipe.judge, load_rubric(recipe.judge.rubric)
    there = ledger is not None and ledger.is_file()
    with Ledger(ledger, budget(section)) if ledger and there else nullcontext() as book:
        counting = paid.counting(
            section,
            SHAPES,
            book,
            rubric=rubric.label,
            repair=rubric.repair if section.repair else None,
        )
        selftest(_model_judge(recipe, counting), num_pictures=num_pictures)
    return counting.plan


@contextmanager
def _generator(recipe: Recipe, ledger: Path) -> Iterator[Generator]:
    """The judge's model, shown drawn shapes; an endpoint's calls are kept in `ledger`."""
    section, rubric = recipe.judge, load_rubric(recipe.judge.rubric)
    if section.kind == "local":
        yield _policy(recipe)
        return
    with _server(recipe), Ledger(ledger, budget(section)) as book:
        endpoint = paid.endpoint(section, SHAPES, book, rubric=rubric.label)
        with closing(paid.UpToTheCap(endpoint, section)) as capped:
            yield capped


def _policy(recipe: Recipe) -> Generator:
    """The local policy, shown drawn shapes. That it may be a run's own matters to its verdicts."""
    job = _job(recipe)
    policy = judges.local_policy(job)
    from stllava.generation.hf import PolicyGenerator  # needs torch

    name = f"local:{recipe.judge.checkpoint}"
    return PolicyGenerator(policy, shape_picture, name=name, **job.batching)


def _model_judge(recipe: Recipe, generator: Generator) -> ModelJudge:
    section = recipe.judge
    temperature = 0.0 if section.kind == "local" else section.temperature
    return ModelJudge(
        generator,
        name=section.model,
        orders="one",
        rubric=section.rubric,
        repair=section.repair,
        sampling=Sampling(temperature=temperature, seed=recipe.seed),
        max_tokens=section.max_tokens,
    )


@contextmanager
def _server(recipe: Recipe) -> Iterator[Path]:
    """The recipe's own server, where there is one, and a folder for as long as it is up."""
    with tempfile.TemporaryDirectory() as folder, judges.server_of(recipe.judge, Path(folder)):
        yield Path(folder)

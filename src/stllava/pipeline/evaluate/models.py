"""Who is asked: the run's policies, other checkpoints, models behind an API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from stllava.config import RUN_MODELS, PaidSection, Recipe
from stllava.errors import RecipeError
from stllava.generation.protocol import Generator
from stllava.generation.wire import is_local
from stllava.judging.calls.budget import budget
from stllava.pipeline.evaluate.payment import JUDGE, endpoints, paid_generator, shown_in
from stllava.pipeline.evaluate.views import View, opener
from stllava.pipeline.job import Job
from stllava.pipeline.judging.judges import models_asked


class Candidate(NamedTuple):
    """A model that answers; a policy is loaded when it is first asked for a generator."""

    name: str
    inputs: tuple[Path, ...]  # files that its answers depend on
    settings: dict[str, Any]  # and what else they depend on
    opened: Callable[[View], AbstractContextManager[Generator]]


def model_names(job: Job) -> list[str]:
    """base, sft, dpo of the run, then further checkpoints, then endpoints. A control has a dpo."""
    section = job.recipe.eval
    if job.control:
        return ["dpo"]
    # Where stage 1 was left out, sft would be base again.
    own = [name for name in section.models if not (name == "sft" and job.skips_sft)]
    return [*own, *section.checkpoints, *section.endpoints]


def candidates(job: Job) -> Iterator[Candidate]:
    """The models of `model_names`, in that order."""
    section = job.recipe.eval
    for name in model_names(job):
        if name in RUN_MODELS:
            yield _policy(job, job, name, name)
        elif name in section.checkpoints:
            # Elsewhere it would be the policy that a run starts from; its own size goes with it.
            path = section.checkpoints[name]
            start = job.recipe.model.model_copy(update={"path": path, "image_side": None})
            there = replace(job, recipe=job.recipe.model_copy(update={"model": start}))
            yield _policy(job, there, "base", name)
        else:
            yield _endpoint(job, name, section.endpoints[name])


def _policy(job: Job, where: Job, model: str, name: str) -> Candidate:
    @cache
    def loaded() -> Any:
        return where.load(model, to_speak=True, called=name)

    def opened(view: View) -> AbstractContextManager[Generator]:
        policy = loaded()
        from stllava.generation.hf import PolicyGenerator  # needs torch

        return nullcontext(PolicyGenerator(policy, opener(job, view), name=name, **job.batching))

    return Candidate(name, (where.checkpoint(model),), dict(job.batching), opened)


def _endpoint(job: Job, name: str, section: PaidSection) -> Candidate:
    def opened(view: View) -> AbstractContextManager[Generator]:
        return paid_generator(job, section, f"eval.endpoints.{name}", shown_in(job, view))

    return Candidate(name, (), {"model": section.model, "base_url": section.base_url}, opened)


def check_endpoints(recipe: Recipe) -> None:
    """No image leaves this machine unsaid, no cap is one in name only, no judge marks its pupil."""
    named = endpoints(recipe)
    if recipe.eval.judge is not None:
        named[JUDGE] = recipe.eval.judge
    for where, section in named.items():
        if not (is_local(section.base_url) or section.images_are_deidentified):
            what = "texts" if where == JUDGE else "images"
            raise RecipeError(
                f"{where}: {what} would leave this machine; if they are de-identified, say so "
                f"with --set {where}.images_are_deidentified=true"
            )
        budget(section, where)
    marker = recipe.eval.judge
    if marker is not None and marker.model in models_asked(recipe.judge):
        raise RecipeError(
            f"eval.judge: {marker.model} labelled the preferences of this run and cannot rate "
            "their result; choose another model"
        )

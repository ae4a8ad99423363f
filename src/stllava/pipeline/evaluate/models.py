"""Who is asked: the run's policies, other checkpoints, models behind an API."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from stllava.config import EndpointSection, Recipe
from stllava.errors import RecipeError
from stllava.generation.protocol import Generator
from stllava.generation.wire import is_local
from stllava.images import encode_jpeg_base64
from stllava.pipeline.evaluate.views import OpenImage
from stllava.pipeline.job import Job


class Candidate(NamedTuple):
    """A model that answers; it is loaded when it is first asked for a generator."""

    name: str
    inputs: tuple[Path, ...]  # files that its answers depend on
    settings: dict[str, Any]  # and what else they depend on
    generator: Callable[[OpenImage], Generator]


def candidates(job: Job) -> Iterator[Candidate]:
    """base, sft, dpo of the run, then further checkpoints, then endpoints. A control has a dpo."""
    section = job.recipe.eval
    if job.control:
        yield _policy(job, job, "dpo", "dpo")
        return
    for model_name in section.models:
        if model_name == "sft" and job.skips_sft:
            continue  # stage 1 was left out: it would be base again
        yield _policy(job, job, model_name, model_name)
    for name, path in section.checkpoints.items():
        # Elsewhere it would be the policy that a run starts from; its own size goes with it.
        start = job.recipe.model.model_copy(update={"path": path, "image_side": None})
        there = replace(job, recipe=job.recipe.model_copy(update={"model": start}))
        yield _policy(job, there, "base", name)
    for name, endpoint in section.endpoints.items():
        yield _endpoint(name, endpoint)


def _policy(job: Job, where: Job, model: str, name: str) -> Candidate:
    @cache
    def loaded() -> Any:
        return where.load(model, to_speak=True, called=name)

    def generator(open_image: OpenImage) -> Generator:
        policy = loaded()
        from stllava.generation.hf import PolicyGenerator  # needs torch

        return PolicyGenerator(policy, open_image, name=name, **job.batching)

    return Candidate(name, (where.checkpoint(model),), dict(job.batching), generator)


def _endpoint(name: str, section: EndpointSection) -> Candidate:
    def generator(open_image: OpenImage) -> Generator:
        return endpoint_generator(section, f"eval.endpoints.{name}", open_image)

    settings = {"model": section.model, "base_url": section.base_url}
    return Candidate(name, (), settings, generator)


def endpoint_generator(
    section: EndpointSection, where: str, open_image: OpenImage | None
) -> Generator:
    """A model behind an API as a Generator; `where` is its place in the recipe.

    Without `open_image` it is sent texts only.
    """

    def image_uri(name: str) -> str:
        if open_image is None:
            return ""
        return "data:image/jpeg;base64," + encode_jpeg_base64(open_image(name))

    from stllava.generation.endpoint import EndpointGenerator  # its client loads slowly

    return EndpointGenerator(
        section.base_url,
        section.model,
        api_key_env=section.api_key_env,
        key_file=Path(section.key_file) if section.key_file else None,
        image_uri=image_uri,
        section=where,
        timeout_s=section.timeout_s,
        call_limit_s=section.call_limit_s,
        max_tries=section.max_tries,
        concurrency=section.concurrency,
    )


def check_endpoints(recipe: Recipe) -> None:
    """No image leaves this machine unsaid, and no judge marks what it has taught."""
    named = {f"eval.endpoints.{name}": one for name, one in recipe.eval.endpoints.items()}
    if recipe.eval.judge is not None:
        named["eval.judge"] = recipe.eval.judge
    for where, section in named.items():
        if not (is_local(section.base_url) or section.images_are_deidentified):
            what = "texts" if where == "eval.judge" else "images"
            raise RecipeError(
                f"{where}: {what} would leave this machine; if they are de-identified, say so "
                f"with --set {where}.images_are_deidentified=true"
            )
    judge, marker = recipe.judge, recipe.eval.judge
    if marker is not None and judge.kind == "openai" and judge.model == marker.model:
        raise RecipeError(
            f"eval.judge: {marker.model} labelled the preferences of this run and cannot rate "
            "their result; choose another model"
        )

"""A recipe's judge on drawn shapes, before a run: what its endpoint can do, what talks it round."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from stllava.config import JudgeSection, Recipe
from stllava.errors import JudgeError
from stllava.generation.protocol import Sampling
from stllava.generation.wire import is_local
from stllava.judging.probe import Capabilities, plan_lines, probe
from stllava.judging.protocol import ModelJudge
from stllava.judging.rubrics import load_rubric
from stllava.judging.selftest import SelfTest, num_calls, selftest
from stllava.judging.server import running_server
from stllava.judging.shapes import shape_uri

if TYPE_CHECKING:
    from stllava.generation.endpoint import EndpointGenerator


@contextmanager
def shapes_endpoint(recipe: Recipe) -> Iterator[EndpointGenerator]:
    """The recipe's endpoint, shown drawn shapes for images; its server is up meanwhile.

    Its calls are kept nowhere. Raises JudgeError where the judge is no endpoint.
    """
    section = _endpoint_section(recipe)
    from stllava.generation.endpoint import EndpointGenerator  # its client loads slowly

    endpoint = EndpointGenerator(
        section.base_url,
        section.model,
        api_key_env=section.api_key_env,
        key_file=Path(section.key_file) if section.key_file else None,
        image_uri=shape_uri,
        timeout_s=section.timeout_s,
        call_limit_s=section.call_limit_s,
        max_tries=min(section.max_tries, 3),
        concurrency=section.concurrency,
    )
    with tempfile.TemporaryDirectory() as folder, _server(recipe, Path(folder)):
        yield endpoint


def check(recipe: Recipe) -> tuple[Capabilities, list[str]]:
    """What the endpoint shows it can do, and what a stage with the recipe's rubric will do."""
    rubric = load_rubric(recipe.judge.rubric)
    with shapes_endpoint(recipe) as endpoint:
        able = probe(endpoint, refused=lambda: endpoint.options.without)
    return able, plan_lines(able, rubric)


def cost_of_selftest(recipe: Recipe, num_pictures: int) -> str | None:
    """What to agree to before a self-test; None where the judge is on this machine."""
    section = _endpoint_section(recipe)
    if is_local(section.base_url):
        return None
    host = section.base_url or "the provider"
    return f"judge {section.model}: {num_calls(num_pictures)} calls will be sent to {host}"


def talk_round(recipe: Recipe, num_pictures: int) -> SelfTest:
    """The self-test with the recipe's rubric, sampling and limits."""
    section = recipe.judge
    with shapes_endpoint(recipe) as endpoint:
        judge = ModelJudge(
            endpoint,
            name=section.model,
            orders="one",
            rubric=section.rubric,
            repair=section.repair,
            sampling=Sampling(temperature=section.temperature, seed=recipe.seed),
            max_tokens=section.max_tokens,
        )
        return selftest(judge, num_pictures=num_pictures)


def _endpoint_section(recipe: Recipe) -> JudgeSection:
    section = recipe.judge
    if section.kind != "openai":
        raise JudgeError(
            f"judge.kind: {section.kind} is no endpoint; nothing to look at (judge.kind=openai)"
        )
    return section


@contextmanager
def _server(recipe: Recipe, folder: Path) -> Iterator[None]:
    section = recipe.judge
    if section.server is None or section.base_url is None:
        yield
        return
    ready_url = section.server.ready_url or f"{section.base_url.rstrip('/')}/models"
    with running_server(
        section.server.command,
        ready_url=ready_url,
        folder=folder,
        timeout_s=section.server.timeout_s,
        env=section.server.env,
    ):
        yield

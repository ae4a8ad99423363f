"""Judging on servers that run: what the places of image, instruction and texts cost there.

A server is named by its base URL and asked as a judge's is, so that it may be of any make. Every
measurement has a picture and questions of its own: no cache holds anything of it. Servers and
rubrics take turns.
"""

from __future__ import annotations

import os
import time
from itertools import count, product
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import NamedTuple

import openai
from PIL import Image as PILImage

from benchmarks.judge import example
from benchmarks.table import show
from stllava.generation.endpoint import EndpointGenerator
from stllava.judging.protocol import ModelJudge
from stllava.prompts import FAITHFUL_RUBRIC, LOCAL_RUBRIC, PAPER_RUBRIC, Rubric

RUBRICS = {
    "paper, image last": PAPER_RUBRIC,
    "paper, image first": PAPER_RUBRIC._replace(name="paper-image-first", image_last=False),
    "local, image first": LOCAL_RUBRIC,
    "faithful, image first": FAITHFUL_RUBRIC,
}
QUESTIONS = (1, 5)  # about one picture, two answers each
SIDES = (512, 512)
REPLY_TOKENS = 4  # at most: what is compared is reading, not writing


class Cost(NamedTuple):
    """Of the pairs of one picture in both orders; tokens as the server counts them."""

    wall_s: float
    prompt: int
    cached: int  # of the prompt


def run(
    servers: dict[str, str],
    *,
    rounds: int = 3,
    in_flight: int = 1,
    questions: tuple[int, ...] = QUESTIONS,
) -> dict[tuple[int, str, str], Cost]:
    """Medians by questions, rubric and server; `servers` are base URLs by the name to show."""
    taken: dict[tuple[int, str, str], list[Cost]] = {}
    models = {name: _model(url) for name, url in servers.items()}
    numbers = count(int(time.time()))  # of questions and pictures: none twice, in no other run
    with TemporaryDirectory() as folder:

        def measure(name: str, rubric: Rubric, num: int) -> Cost:
            image = Path(folder) / f"{next(numbers)}.png"
            PILImage.frombytes("RGB", (64, 64), os.urandom(64 * 64 * 3)).resize(SIDES).save(image)
            asked = [next(numbers) for _ in range(num)]
            return _judge(servers[name], models[name], rubric, image, asked, in_flight)

        for name in servers:
            measure(name, LOCAL_RUBRIC, 1)  # warms up
        for _ in range(rounds):
            for num, (label, rubric), name in product(questions, RUBRICS.items(), servers):
                taken.setdefault((num, label, name), []).append(measure(name, rubric, num))
    found = {
        key: Cost(*(median(values) for values in zip(*costs, strict=True)))
        for key, costs in taken.items()
    }
    _show(found, tuple(servers), rounds, in_flight)
    return found


def _judge(
    url: str, model: str, rubric: Rubric, image: Path, numbers: list[int], in_flight: int
) -> Cost:
    generator = EndpointGenerator(
        url, model, api_key_env="", image_path=lambda _: image,
        concurrency=in_flight, max_tries=1, timeout_s=300,
    )  # fmt: skip
    judge = ModelJudge(generator, name=model, orders="both", rubric=rubric, max_tokens=REPLY_TOKENS)
    start = time.perf_counter()
    pairs = ((example(f"q{n}", image.stem, n), (0, 1)) for n in numbers)
    found = list(judge.judge(pairs))
    wall_s = time.perf_counter() - start
    usages = [verdict.usage for verdict in found if verdict.usage is not None]
    assert len(usages) == 2 * len(numbers), [verdict.state for verdict in found]
    return Cost(wall_s, sum(u.prompt_tokens for u in usages), sum(u.cached_tokens for u in usages))


def _model(url: str) -> str:
    """The first model that the server lists."""
    with openai.OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        return client.models.list().data[0].id


def _show(
    found: dict[tuple[int, str, str], Cost],
    servers: tuple[str, ...],
    rounds: int,
    in_flight: int,
) -> None:
    rows = []
    for num, label in dict.fromkeys((num, label) for num, label, _ in found):
        costs = [found[num, label, name] for name in servers]
        cells: list[object] = [num, label, round(costs[0].prompt / num)]
        for cost in costs:
            cells += [round((cost.prompt - cost.cached) / num), cost.wall_s / num]
        rows.append(cells)
    show(
        f"judging, both orders, {in_flight} in flight, replies of at most {REPLY_TOKENS} tokens, "
        f"{rounds} rounds",
        ["questions an image", "rubric", "prompt tokens a pair"]
        + [f"{name}: {what} a pair" for name in servers for what in ("tokens read", "seconds")],
        rows,
    )

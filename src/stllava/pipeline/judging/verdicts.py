"""What the judge stage says about its verdicts, and which pairs are judged again without image."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from PIL import Image as PILImage

from stllava.files import read_records
from stllava.generation.protocol import draw_seed
from stllava.images import encode_jpeg_base64
from stllava.judging.pairing import Pair
from stllava.judging.routing import blank_counts, blank_items
from stllava.judging.states import pair_states
from stllava.pipeline.evaluate.views import BLANK_COLOR
from stllava.pipeline.job import Job
from stllava.records import Answers, Verdict
from stllava.stage import Stage

SEEING = ("openai", "local")  # kinds of judge that are shown the image

Item = tuple[Answers, Pair]


def blank_sample(job: Job, items: Iterable[Item]) -> Iterator[Item]:
    """A seeded share of the pairs; whether one is in it depends on no other."""
    section = job.recipe.judge
    judges = section.jury.values() or (section,)
    if section.blank_share == 0 or not any(judge.kind in SEEING for judge in judges):
        return
    for answers, pair in items:
        chance = draw_seed(job.recipe.seed, f"blank/{answers.id}/{pair[0]}-{pair[1]}", 0) / 2**63
        if chance < section.blank_share:
            yield answers, pair


def blank_uri(job: Job) -> Callable[[str], str]:
    """What is sent for an image in its place."""

    def uri(name: str) -> str:
        return "data:image/jpeg;base64," + encode_jpeg_base64(blank_image(job, name))

    return uri


def blank_image(job: Job, name: str) -> PILImage.Image:
    """One colour, in the size of the image."""
    image = job.images[name]
    return PILImage.new("RGB", (image.width, image.height), BLANK_COLOR)


def states(stage: Stage) -> tuple[dict[str, Counter[str]], float | None]:
    """How often each state occurs, by view, and what all cost; None: price unknown."""
    found: dict[str, Counter[str]] = {"image": Counter(), "blank": Counter()}
    costs = []
    for verdict in _read(stage):
        found[verdict.view][verdict.state] += 1
        if verdict.cost_usd is not None:
            costs.append(verdict.cost_usd)
    return found, math.fsum(costs) if costs else None


def summary(job: Job, stage: Stage) -> dict[str, Any]:
    """For stage.json: pairs by state, and the blank-image audit, whose pairs it writes too."""
    by_state = Counter(pair_states(_read(stage)).values())
    found: dict[str, Any] = {"pair_states": dict(by_state)}
    if job.recipe.judge.blank_share:
        (stage.path / "blank.jsonl").unlink(missing_ok=True)  # of an earlier try
        every = list(_read(stage))
        answers = read_records(job.stage("answer").path / "answers.jsonl", Answers)
        for item in blank_items(answers, every):
            stage.append("blank.jsonl", item)
        found["blank"] = blank_counts(every)
    return found


def _read(stage: Stage) -> Iterator[Verdict]:
    file = stage.path / "verdicts.jsonl"
    if file.is_file():
        yield from read_records(file, Verdict)

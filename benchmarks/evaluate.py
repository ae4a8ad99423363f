"""Answering a benchmark: all questions of an image in one pass, or each on its own.

Questions per image and their lengths are SLAKE's and VQA-RAD's. Answers are greedy and must be
the same on both sides, token by token. They are as long as the reference answer (its tokens and
the end token), or 32 tokens each: what a policy says that nobody taught to be brief.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks import data, model
from benchmarks.generate import Naive
from benchmarks.table import show, times
from benchmarks.timing import cpu_seconds, interleave, ratio
from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.records import Request, Turn

GREEDY = Sampling()
LONG = 32


def requests(images: Sequence[data.Asked], *, tokens: int | None) -> list[Request]:
    """`tokens` a question; as many as the reference answer and the end token have if None."""
    return [
        Request(
            id=f"{image.name}/{number}",
            image=image.name,
            turns=(Turn(question=question),),
            max_tokens=tokens or len(answer.split()) + 1,
        )
        for image in images
        for number, (question, answer) in enumerate(image.turns)
    ]


def compare(
    title: str,
    images: Sequence[data.Asked],
    *,
    tokens: int | None,
    rounds: int,
    shape: model.Shape = model.MID,
) -> tuple[float, int, int]:
    """Ratio of CPU time; questions answered alike, of how many."""
    policy = model.make_policy(shape)
    naive = Naive(policy, data.open_file)
    generator = PolicyGenerator(policy, data.open_file, name="drawn")
    asked = requests(images, tokens=tokens)
    alone: list[list[int]] = []
    together: list[list[int]] = []

    def plain() -> None:
        alone[:] = [naive.say(request, GREEDY) for request in asked]

    def ours() -> None:
        together[:] = [list(d.token_ids or ()) for d in generator.generate(asked, GREEDY)]

    seconds = interleave(
        {"one at a time": lambda: cpu_seconds(plain), "together": lambda: cpu_seconds(ours)},
        rounds,
        warm_up=False,  # a round is many calls
    )
    alike = sum(a == b for a, b in zip(alone, together, strict=True))
    rows = [
        [
            name,
            sorted(taken)[len(taken) // 2] / len(asked),
            times(ratio(seconds["one at a time"], taken)),
        ]
        for name, taken in seconds.items()
    ]
    said = sum(map(len, together))
    show(
        f"{title}: {len(asked):,} questions on {len(images)} images, {said:,} answer tokens; "
        f"{alike:,} answers equal",
        ["", "CPU s a question", "faster"],
        rows,
    )
    return ratio(seconds["one at a time"], seconds["together"]), alike, len(asked)


def run(
    root: Path,
    *,
    full: bool = False,
    rounds: int = 3,
    shape: model.Shape = model.MID,
    num_images: int = 4,
) -> dict[str, tuple[float, int, int]]:
    """Both benchmarks, short and long answers; a seeded sample of images unless `full`."""
    found = {}
    sets = {"SLAKE validation": data.slake(root), "VQA-RAD test": data.vqa_rad(root, "test")}
    for title, images in sets.items():
        total = f"{title} ({data.num_questions(images):,} on {len(images)})"
        number = num_images if title.startswith("SLAKE") else 4 * num_images
        some = data.sampled(images, None if full else number)
        for words, tokens in (("answers of reference length", None), ("answers of 32", LONG)):
            name = f"{total}, {words}"
            found[name] = compare(name, some, tokens=tokens, rounds=rounds, shape=shape)
    return found

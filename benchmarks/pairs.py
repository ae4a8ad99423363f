"""Drawn pairs as token ids, for models that come without a tokenizer."""

from __future__ import annotations

import random
from typing import NamedTuple

from benchmarks.families import IMAGE_ID

FIRST = 10  # smaller ids are special in one family or another
END = 1


class Text(NamedTuple):
    """What `stllava.tree.pack` takes."""

    ids: list[int]
    learned: list[int]


class Pair(NamedTuple):
    """A question about an image with two answers."""

    image: str
    prompt: list[int]
    answers: tuple[list[int], list[int]]  # chosen, rejected

    @property
    def texts(self) -> tuple[Text, Text]:
        made = [
            Text(self.prompt + answer, [0] * len(self.prompt) + [1] * len(answer))
            for answer in self.answers
        ]
        return made[0], made[1]


def draw_pairs(
    num_image_tokens: int,
    vocabulary: int,
    *,
    images: int = 4,
    questions: int = 5,
    short: int = 1,
    seed: int = 0,
) -> list[Pair]:
    """Prompts of 35 tokens, the image, 15 to 30; answers of 40 to 120; divided by `short`."""
    rng = random.Random(seed)

    def words(low: int, high: int) -> list[int]:
        return [rng.randrange(FIRST, vocabulary) for _ in range(rng.randint(low, high))]

    opening = [*words(35 // short, 35 // short), *[IMAGE_ID] * num_image_tokens]
    lengths = (40 // short, 120 // short)
    return [
        Pair(
            f"i{image}",
            opening + words(15 // short, 30 // short),
            ([*words(*lengths), END], [*words(*lengths), END]),
        )
        for image in range(images)
        for _ in range(questions)
    ]

"""Questions per image of real benchmarks, in their own numbers; their words become toy words.

What sharing saves depends on how many questions an image has, and how long they are: that comes
from the data. Folders are handed in; nothing is downloaded.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image as PILImage

from benchmarks.model import as_words
from stllava.errors import DataError
from stllava.sources import vqa_rad as rad


class Asked(NamedTuple):
    """All questions about one image, with reference answers, in toy words."""

    file: Path
    turns: tuple[tuple[str, str], ...]  # question, answer

    @property
    def name(self) -> str:
        return self.file.as_posix()


def slake(root: Path) -> list[Asked]:
    """SLAKE's English validation questions (Liu et al. 2021): 1,053 on 96 images."""
    file = root / "slake" / "validate.json"
    if not file.is_file():
        raise DataError(f"{file}: not there; give the folder that holds slake/ with --data")
    by_image: dict[str, list[tuple[str, str]]] = {}
    for row in json.loads(file.read_text(encoding="utf-8")):
        if row["q_lang"] == "en":
            by_image.setdefault(row["img_name"], []).append((row["question"], row["answer"]))
    return [_asked(root / "slake" / "imgs" / name, rows) for name, rows in by_image.items()]


def vqa_rad(root: Path, split: rad.Split) -> list[Asked]:
    """VQA-RAD's official split (Lau et al. 2018): 1,797 questions to train, 451 to test."""
    folder = root / "vqa_rad"
    if not (folder / rad.QUESTIONS).is_file():
        raise DataError(f"{folder}: no {rad.QUESTIONS!r}; give the folder of vqa_rad/ with --data")
    table = rad.read_table(folder)
    by_image: dict[str, list[tuple[str, str]]] = {}
    for sample in table.split(split):
        by_image.setdefault(sample.image, []).append((sample.question, sample.answer))
    return [
        _asked(folder / rad.IMAGES / Path(table.images[image].path).name, rows)
        for image, rows in by_image.items()
    ]


def sampled(images: Sequence[Asked], number: int | None, *, seed: int = 0) -> list[Asked]:
    """So many images with all their questions; all of them without a number."""
    if number is None or number >= len(images):
        return list(images)
    return random.Random(seed).sample(list(images), number)


def num_questions(images: Sequence[Asked]) -> int:
    return sum(len(image.turns) for image in images)


def open_file(name: str) -> PILImage.Image:
    return PILImage.open(name).convert("RGB")


def _asked(file: Path, rows: Sequence[tuple[str, str]]) -> Asked:
    return Asked(file, tuple((as_words(q), as_words(a) or as_words("none")) for q, a in rows))

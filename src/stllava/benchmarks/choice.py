"""Multiple choice: PMC-VQA's table and OmniMedVQA's JSON, as closed questions with options.

PMC-VQA (Zhang et al. 2023): Figure_path, Question, Choice A..D, and the answer as a letter or as
the choice's text. OmniMedVQA (Hu et al. 2024): question, option_A..D, gt_answer, image_path. The
options are not written into the question: whoever asks shows them, `answer_type` says CHOICE.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from stllava.reading import Entry
from stllava.reading.table import read_rows
from stllava.records import VQASample
from stllava.sources import SourceImage, image_ids
from stllava.sources.conversations import record_of
from stllava.sources.place import Place
from stllava.sources.questions import Collector, Questions
from stllava.sources.store import ImageStore, UnusableError
from stllava.sources.table import files_of
from stllava.sources.text import clean, split_name

IMAGE_FOLDERS = ("", "images", "figures")
LETTERS = "ABCDEFGHIJ"
IMAGE = ("Figure_path", "image_path", "image")
QUESTION = ("Question", "question")
GOLD = ("Answer_label", "Answer", "gt_answer", "answer")
OPTION = ("Choice {}", "option_{}", "{}")
NAME = ("question_id", "id")
CATEGORIES = ("modality_type", "dataset", "question_type")
LABEL = re.compile(r"\A\s*([A-J])\s*[:.)]\s*")


class Row(NamedTuple):
    """One question, before images have ids."""

    id: str
    path: str
    question: str
    answer: str
    options: tuple[str, ...]
    categories: dict[str, str]


def read_questions(place: Place, split: str, store: ImageStore) -> Questions:
    """Read the questions of a split; one whose answer is none of its options is dropped."""
    files = files_in(place, split)
    collector = Collector(store)
    rows: list[Row] = []
    for number, entry in enumerate(chain.from_iterable(map(read_rows, files))):
        try:
            row = _row(entry, number, split, collector)
        except UnusableError as error:
            collector.drop(entry.place, error)
            continue
        rows += [row] if row else []
    ids = image_ids(row.path for row in rows)
    names = [f"{ids[row.path]}/choice-{row.id}" for row in rows]
    for name, row in zip(names, rows, strict=True):
        image = SourceImage(ids[row.path], row.path, ids[row.path])
        sample = VQASample(
            id=name,
            image=image.id,
            question=row.question,
            answer=row.answer,
            kind="closed",
            options=row.options,
            answer_type="CHOICE",
            split=split,
            categories=row.categories,
        )
        collector.add(sample, image)
    return collector.finish(files[0])


def files_in(place: Place, split: str) -> list[Path]:
    """The table of a split, or all JSON files: OmniMedVQA has one for each of its data sets."""
    tables = (*files_of(split), f"{split}*.csv")
    if place.file is not None or place.has(*tables):
        return [place.find(*tables)]
    return place.find_all("*.json", "*/*.json", "*/*/*.json")


def _row(entry: Entry, number: int, split: str, collector: Collector) -> Row | None:
    record = record_of(entry)
    if record.get("split") and split_name(record["split"]) != split:
        collector.repairs["row of another split left out"] += 1
        return None
    question = clean(_first(record, QUESTION), "question", collector.repairs)
    if not question:
        raise UnusableError("no question")
    options = _options(record, collector.repairs)
    answer = _gold(clean(_first(record, GOLD), "answer", collector.repairs), options)
    path = collector.store.place(_first(record, IMAGE))
    named = {name: record.get(name) for name in CATEGORIES}
    categories = {name: str(value) for name, value in named.items() if value}
    row_id = str(_first(record, NAME) or number)
    return Row(row_id, path, question, answer, options, categories)


def _options(record: Mapping[str, Any], repairs: Counter[str]) -> tuple[str, ...]:
    """The choices without their letters, in order, up to the first that is absent."""
    options: list[str] = []
    for letter in LETTERS:
        text = _first(record, [name.format(letter) for name in OPTION])
        if text is None or not str(text).strip():
            break
        found = LABEL.match(str(text))
        is_labelled = found is not None and found.group(1) == letter
        options.append(clean(LABEL.sub("", str(text)) if is_labelled else text, "option", repairs))
    if len(options) < 2 or len({option.lower() for option in options}) < len(options):
        raise UnusableError(f"{len(options)} options, or two that are equal")
    return tuple(options)


def _gold(answer: str, options: tuple[str, ...]) -> str:
    """The option that the answer names, by its text or by its letter."""
    plain = LABEL.sub("", answer)
    for text in (answer, plain):
        if text in options:
            return text
    lowered = {option.lower(): option for option in options}
    if plain.lower() in lowered:
        return lowered[plain.lower()]
    letter = answer.strip(" .:)(").upper()
    if len(letter) == 1 and letter in LETTERS[: len(options)]:
        return options[LETTERS.index(letter)]
    raise UnusableError(f"answer {answer[:60]!r} is none of the options")


def _first(record: Mapping[str, Any], names: Any) -> Any:
    return next((record[name] for name in names if record.get(name) is not None), None)

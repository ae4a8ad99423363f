"""PathVQA (He et al. 2020): questions on pathology pictures from textbooks and PEIR.

Official: qas/{train,val,test}/{split}_qa.pkl, pickles that are read without running them, beside
images/{split}/NAME.jpg. LXMERT form: pvqa_{split}.json, where questions (`sentf`) and answers
(`labelf`) of an image are two lists. The files annotate no kind; closed means answered by yes or
no, as the paper counts. The hub's Parquet form: `hub`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from stllava.errors import DataError
from stllava.metrics.closed import YES_NO
from stllava.reading import pickles
from stllava.reading.json import read_entries
from stllava.records import VQASample
from stllava.sources import SourceImage
from stllava.sources.place import Place, Split
from stllava.sources.published import LICENCES, deviation
from stllava.sources.questions import Collector, Questions
from stllava.sources.store import ImageStore, UnusableError
from stllava.sources.text import clean, kind_by_answer

SHORT = {"train": "train", "validation": "val", "test": "test"}
QUESTION_WORDS = re.compile(r"\b(what|where|when|how|why|whose|who|which)\b", re.IGNORECASE)


class Row(NamedTuple):
    """One question as the file has it."""

    name: str  # of the row, for a Dropped
    image: object
    question: object
    answer: object


def patterns(split: Split) -> tuple[str, ...]:
    """Where the files of a split lie, below the data set's folder."""
    short = SHORT[split]
    name = f"{short}_qa.pkl"
    pickled = (name, f"qas/{name}", f"qas/{short}/{name}", f"pvqa/qas/{short}/{name}", f"*/{name}")
    return (*pickled, f"pvqa_{short}.json", f"*/pvqa_{short}.json")


def read_questions(place: Place, split: Split, *, look: bool = True) -> Questions:
    """Read the questions of one split, each image its own group."""
    file = place.find(*patterns(split))
    short = SHORT[split]
    prefixes = (f"images/{short}", f"pvqa/images/{short}", short, "images", "")
    collector = Collector(ImageStore(place.root, prefixes=prefixes, look=look))
    asked: dict[str, int] = {}
    for row in _pickled(file) if file.suffix == ".pkl" else _lxmert(file):
        try:
            if isinstance(row, UnusableError) or not isinstance(row.image, str):
                raise UnusableError(row if isinstance(row, UnusableError) else "no image")
            path = collector.store.place(f"{row.image}.jpg")
            number = asked[row.image] = asked.get(row.image, -1) + 1
            sample = _sample(row, f"{row.image}/path-vqa-{number}", collector, split)
        except UnusableError as error:
            collector.drop(row.name if isinstance(row, Row) else file.name, error)
            continue
        collector.add(sample, SourceImage(sample.image, path, sample.image))
    warning = deviation("PathVQA", split, collector.samples)
    return collector.finish(file, warnings=[warning], licence=LICENCES["path-vqa"])


def question_word(question: str, kind: str) -> str:
    """The paper's kinds of question: yes/no, or the question word of an open one."""
    found = QUESTION_WORDS.search(question)
    if kind == "closed":
        return "yes/no"
    return found.group().lower() if found else "other"


def _sample(row: Row, name: str, collector: Collector, split: Split) -> VQASample:
    question = clean(row.question, "question", collector.repairs)
    answer = clean(row.answer, "answer", collector.repairs)
    if not question or not answer:
        raise UnusableError("no question" if not question else "no answer")
    kind = kind_by_answer(answer)
    return VQASample(
        id=name,
        image=str(row.image),
        question=question,
        answer=answer,
        kind=kind,
        options=YES_NO if kind == "closed" else (),
        split=split,
        categories={"question_word": question_word(question, kind)},
    )


def _pickled(file: Path) -> Iterator[Row | UnusableError]:
    rows = pickles.load(file)
    if not isinstance(rows, list):
        raise DataError(f"{file}: holds no list of questions; use PathVQA's qas/SPLIT/SPLIT_qa.pkl")
    for number, row in enumerate(rows):
        if isinstance(row, dict):
            name = f"{file.name}[{number}]"
            yield Row(name, row.get("image"), row.get("question"), row.get("answer"))
        else:
            yield UnusableError(f"row {number} is not an object")


def _lxmert(file: Path) -> Iterator[Row | UnusableError]:
    for entry in read_entries(file):
        image = entry.value.get("img_id") if isinstance(entry.value, dict) else None
        questions, answers = _listed(entry.value, "sentf"), _listed(entry.value, "labelf")
        if image is None or questions is None or answers is None:
            yield UnusableError(f"{entry.place}: {entry.problem or 'no img_id, sentf or labelf'}")
        elif len(questions) != len(answers):
            yield UnusableError(f"{image}: {len(questions)} questions, {len(answers)} answers")
        else:
            for number, (question, answer) in enumerate(zip(questions, answers, strict=True)):
                name = f"{image}/path-vqa-{number}"
                yield Row(name, image, question, next(iter(answer), None))  # {label: 1}


def _listed(value: Any, field: str) -> list[Any] | None:
    """The list under value[field]["pvqa"]; labels must be objects."""
    inner = value.get(field) if isinstance(value, dict) else None
    found = inner.get("pvqa") if isinstance(inner, dict) else None
    if not isinstance(found, list):
        return None
    kind = str if field == "sentf" else dict
    return found if all(isinstance(each, kind) for each in found) else None

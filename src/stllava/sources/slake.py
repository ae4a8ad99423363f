"""SLAKE (Liu et al. 2021): questions in English and Chinese on CT, MRI and X-ray images.

train.json, validate.json (elsewhere validation.json) and test.json beside imgs/xmlabN/source.jpg.
`content_type` KG marks questions that need medical knowledge; they are kept, and `base_type` kvqa
among their categories tells them apart. One image is one group: the data set names no patients.
The answer of training question 1622 is empty; it is counted, but teaches nothing.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Literal

from stllava.errors import DataError
from stllava.reading import Entry
from stllava.reading.json import read_entries
from stllava.records import JSONObject, VQASample
from stllava.sources import SourceImage
from stllava.sources.options import options_in
from stllava.sources.place import Place, Split
from stllava.sources.published import LICENCES, deviation
from stllava.sources.questions import Collector, Questions
from stllava.sources.store import ImageStore, UnusableError
from stllava.sources.text import clean, kind_of

FILES = {
    "train": ("train.json", "train*.json", "*/train.json"),
    "validation": ("valid*.json", "*/valid*.json"),
    "test": ("test.json", "test*.json", "*/test.json"),
}
IMAGE_FOLDERS = ("imgs", "", "images", "Slake1.0/imgs")
CATEGORIES = ("content_type", "modality", "location", "base_type")
Language = Literal["en", "zh", "all"]


def read_questions(
    place: Place, split: Split, *, language: Language = "en", look: bool = True
) -> Questions:
    """Read the questions of one split in one language; rows in the other are left out, counted."""
    file = place.find(*FILES[split])
    collector = Collector(ImageStore(place.root, prefixes=IMAGE_FOLDERS, look=look))
    others: set[str] = set()
    for number, entry in enumerate(read_entries(file)):
        try:
            row = _checked(entry)
            if language not in ("all", row.get("q_lang", "en")):
                collector.repairs["row in another language left out"] += 1
                others.add(str(row.get("q_lang", "en")))
                continue
            path = collector.store.place(row["img_name"])
            sample = _sample(row, collector, split)
        except UnusableError as error:
            qid = entry.value.get("qid", number) if isinstance(entry.value, dict) else number
            collector.drop(f"slake-{qid}", error)
            continue
        collector.add(sample, SourceImage(sample.image, path, sample.image))
    if others and not collector.images and not collector.dropped:
        has = ", ".join(sorted(others))
        raise DataError(f"{file}: no row in {language}; the file has {has}: set language to that")
    warning = deviation(f"SLAKE {language}", split, collector.samples)
    return collector.finish(file, warnings=[warning], licence=LICENCES["slake"])


def image_id(name: str) -> str:
    """xmlab1/source.jpg is the image xmlab1; other names lose their suffix."""
    path = PurePosixPath(name)
    return (
        path.parent if path.stem == "source" and path.parts[1:] else path.with_suffix("")
    ).as_posix()


def _checked(entry: Entry) -> JSONObject:
    row = entry.value
    if entry.problem or not isinstance(row, dict):
        raise UnusableError(entry.problem or "not an object")
    missing = [
        name
        for name in ("qid", "img_name", "question")
        if not isinstance(row.get(name), str | int) or not str(row[name]).strip()
    ]
    if missing or not isinstance(row["img_name"], str):
        raise UnusableError(f"no {', '.join(missing) or 'img_name that is text'}")
    return row


def _sample(row: JSONObject, collector: Collector, split: Split) -> VQASample:
    repairs = collector.repairs
    kind = kind_of(row.get("answer_type"), repairs)
    if kind is None:
        raise UnusableError(f"answer_type {row.get('answer_type')!r} is neither OPEN nor CLOSED")
    question = clean(row["question"], "question", repairs)
    answer = clean(row.get("answer"), "answer", repairs)
    repairs["empty answer, kept out of the conversations"] += not answer
    image = image_id(row["img_name"])
    return VQASample(
        id=f"{image}/slake-{row['qid']}",
        image=image,
        question=question,
        answer=answer,
        kind=kind,
        options=options_in(question, answer) if kind == "closed" else (),
        answer_type=kind.upper(),
        split=split,
        categories={name: str(row[name]) for name in CATEGORIES if row.get(name)},
    )

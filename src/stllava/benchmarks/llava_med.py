"""LLaVA-Med's forms of test questions: question lines, and converted VQA sets.

Question lines are JSONL of {"question_id", "image", "text"}; the reference answer stands in the
same line (`answer`, `gpt4_answer` or `fig_caption`), or in a file of {"question_id", "text"} whose
name says "answer" where that of the questions says "question". Converted sets are lists of {"id",
"image", "answer_type", "conversations"} whose first turn is question and answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stllava.metrics.closed import YES_NO
from stllava.reading import Entry
from stllava.reading.json import read_entries
from stllava.records import VQASample
from stllava.sources import SourceImage, image_ids
from stllava.sources.conversations import image_of, record_id, record_of
from stllava.sources.dialogue import IMAGE_MARK, turns_of
from stllava.sources.llava_json import messages_of
from stllava.sources.options import options_in
from stllava.sources.place import Place
from stllava.sources.published import LICENCES
from stllava.sources.questions import Collector, Questions
from stllava.sources.store import ImageStore, UnusableError
from stllava.sources.text import Kind, clean, kind_by_answer, kind_of

PATTERNS = ("*question*.jsonl", "*qa*.jsonl", "test*.json*", "*.jsonl", "*.json")
GOLD = ("answer", "gpt4_answer", "fig_caption")


class Row(NamedTuple):
    """One question, before images have ids."""

    id: str
    path: str
    question: str
    answer: str
    kind: Kind | None  # as annotated
    categories: dict[str, str]


def read_questions(place: Place, store: ImageStore, columns: Mapping[str, str]) -> Questions:
    """Read all questions; `columns` {"answer": NAME} says which field holds the reference."""
    file = place.find(*PATTERNS)
    collector = Collector(store)
    answers = _answers(file)
    rows: list[Row] = []
    for entry in read_entries(file):
        try:
            rows.append(_row(entry, collector, answers, columns))
        except UnusableError as error:
            collector.drop(entry.place, error)
    ids = image_ids(row.path for row in rows)
    names = [f"{ids[row.path]}/llava-med-{row.id}" for row in rows]
    for name, row in zip(names, rows, strict=True):
        image = SourceImage(ids[row.path], row.path, ids[row.path])
        collector.add(_sample(name, image.id, row), image)
    warnings = [_inferred(rows)]
    return collector.finish(file, warnings=warnings, licence=LICENCES["llava-med"])


def _row(
    entry: Entry, collector: Collector, answers: Mapping[str, str], columns: Mapping[str, str]
) -> Row:
    record = record_of(entry)
    repairs = collector.repairs
    annotation = record.get("answer_type")
    kind = kind_of(annotation, repairs) if annotation else None
    if "question_id" in record and "text" in record:
        name = str(record["question_id"])
        question = clean(str(record["text"]).replace(IMAGE_MARK, ""), "question", Counter())
        fields = (columns["answer"],) if "answer" in columns else GOLD
        gold = next((record[field] for field in fields if record.get(field)), answers.get(name))
        answer = clean(gold, "answer", repairs)
    else:
        name = record_id(record, entry)
        turn = turns_of(messages_of(record, repairs), repairs)[0]
        question = clean(turn.question, "question", Counter())
        answer = clean(turn.answer, "answer", repairs)
    if not question or not answer:
        raise UnusableError("no question" if not question else "no reference answer")
    path = collector.store.place(image_of(record))
    return Row(name, path, question, answer, kind, _categories(record))


def _categories(record: Mapping[str, Any]) -> dict[str, str]:
    domain = record.get("domain")  # {"chest_xray": true, "mri": false, ...}
    named = {name: record.get(name) for name in ("type", "question_type")}
    if isinstance(domain, Mapping):
        named["domain"] = "|".join(sorted(name for name, is_so in domain.items() if is_so))
    return {name: str(value) for name, value in named.items() if value}


def _sample(name: str, image: str, row: Row) -> VQASample:
    kind = row.kind or kind_by_answer(row.answer)
    is_yes_no = kind_by_answer(row.answer) == "closed"
    options = YES_NO if is_yes_no else options_in(row.question, row.answer)
    return VQASample(
        id=name,
        image=image,
        question=row.question,
        answer=row.answer,
        kind=kind,
        options=options if kind == "closed" else (),
        answer_type=row.kind.upper() if row.kind else "",
        categories=row.categories,
    )


def _answers(file: Path) -> dict[str, str]:
    """Reference answers by question id, from the file beside that of the questions."""
    beside = file.with_name(file.name.replace("question", "answer"))
    if beside == file or not beside.is_file():
        return {}
    rows: Iterable[Any] = (entry.value for entry in read_entries(beside))
    return {
        str(row["question_id"]): str(row["text"])
        for row in rows
        if isinstance(row, dict) and "question_id" in row and row.get("text")
    }


def _inferred(rows: list[Row]) -> str:
    if all(row.kind for row in rows):
        return ""
    return (
        "llava-med: the file does not say which questions are closed; those answered by yes or no "
        "count as closed"
    )

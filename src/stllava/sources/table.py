"""Rows of image, question and answer: own tables, and hub data sets with embedded images.

Columns have the names of FIELDS, or `columns` maps a field to another name; further keys of
`columns` become categories. Without a question column the rows are images, with their groups.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from stllava.errors import DataError
from stllava.metrics.closed import YES_NO
from stllava.reading import Entry, table
from stllava.records import VQASample
from stllava.sources import SourceImage, image_ids
from stllava.sources.conversations import image_of, record_of
from stllava.sources.options import options_in
from stllava.sources.questions import Collector, Questions
from stllava.sources.store import ImageStore, UnusableError
from stllava.sources.text import Kind, clean, kind_by_answer, kind_of, split_name

FIELDS = ("image", "question", "answer", "id", "group", "kind", "split")
OTHER_NAMES = {"image_path": "image", "images": "image", "answer_type": "kind"}
NO_ANSWER = frozenset({"", "NULL", "nan"})


class Form(NamedTuple):
    """What is known about a table beforehand."""

    name: str = "table"  # of its questions, in their ids
    split: str = "train"  # wanted; rows of another split are left out
    columns: Mapping[str, str] = {}  # field -> column
    infer_kind: bool = False  # whatever a kind column says
    licence: str = ""


class Row(NamedTuple):
    """One usable row, before images have ids."""

    id: str  # as the file says; "" where it says none
    number: int  # of the row, over all files
    path: str
    group: str  # "" where the file says none
    categories: dict[str, str]
    question: str
    answer: str
    kind: Kind | None


def read_questions(files: Sequence[Path], store: ImageStore, form: Form) -> Questions:
    """Read the rows of all files. Raises DataError that lists the columns if one is not there."""
    collector = Collector(store)
    rows: list[Row] = []
    numbers = itertools.count()
    for file in files:
        names = _names(file, form)
        for entry in table.read_rows(file):
            try:
                row = _row(entry, next(numbers), names, form, collector)
            except UnusableError as error:
                collector.drop(entry.place, error)
                continue
            rows += [row] if row else []
    ids = image_ids(row.path for row in rows)
    for row in rows:
        image = ids[row.path]
        collector.images.setdefault(image, SourceImage(image, row.path, row.group or image))
        if row.question:
            collector.samples.append(_sample(row, image, form))
    warnings = [_inferred(rows, form), _without_questions(files[0], rows)]
    return collector.finish(files[0], warnings=warnings, licence=form.licence)


def _names(file: Path, form: Form) -> dict[str, str]:
    """Our field -> its column in this file."""
    columns = table.columns_of(file)
    names = {OTHER_NAMES.get(name, name): name for name in reversed(columns)}
    names = {field: name for field, name in names.items() if field in FIELDS}
    names |= {name: name for name in columns if name in FIELDS} | dict(form.columns)
    absent = [name for name in names.values() if name not in columns]
    if "image" not in names or ("question" in names) != ("answer" in names):
        absent.append("image" if "image" not in names else "question and answer")
    if absent:
        raise DataError(
            f"{file}: no column {', '.join(absent)}; it has {', '.join(columns) or 'none'}: "
            f"set columns, such as {{question: {columns[0] if columns else 'NAME'}}}"
        )
    return names


def _row(
    entry: Entry, number: int, names: Mapping[str, str], form: Form, collector: Collector
) -> Row | None:
    """The row by our names; None if it is of another split. Raises UnusableError."""
    record = record_of(entry)
    fields = {field: record.get(name) for field, name in names.items()}
    repairs = collector.repairs
    split = clean(fields.get("split"), "split", Counter())
    if split and split_name(split) != form.split:
        repairs["row of another split left out"] += 1
        return None
    question = clean(fields.get("question"), "question", repairs)
    answer = clean(fields.get("answer"), "answer", repairs)
    if "question" in names and (not question or answer in NO_ANSWER):
        raise UnusableError("no question" if not question else "no answer")
    image = image_of(fields)
    if isinstance(image, str) and "\\" in image:
        repairs["image path with backslashes"] += 1
        image = image.replace("\\", "/")
    annotation = None if form.infer_kind else fields.get("kind")
    kind = kind_of(str(annotation).upper(), repairs) if annotation else None
    if annotation and kind is None:
        raise UnusableError(f"kind {str(annotation)[:40]!r} is neither open nor closed")
    more = {field: fields[field] for field in form.columns if field not in FIELDS}
    return Row(
        id=clean(fields.get("id"), "id", Counter()),
        number=number,
        path=collector.store.place(image),
        group=clean(fields.get("group"), "group", Counter()),
        categories={field: str(value) for field, value in more.items() if value},
        question=question,
        answer=answer,
        kind=kind,
    )


def _sample(row: Row, image: str, form: Form) -> VQASample:
    kind = row.kind or kind_by_answer(row.answer)
    is_yes_no = kind_by_answer(row.answer) == "closed"
    options = YES_NO if is_yes_no else options_in(row.question, row.answer)
    return VQASample(
        id=row.id or f"{image}/{form.name}-{form.split}-{row.number}",
        image=image,
        question=row.question,
        answer=row.answer,
        kind=kind,
        options=options if kind == "closed" else (),
        answer_type=kind.upper() if row.kind else "",
        split=form.split,
        categories=row.categories,
    )


def _inferred(rows: Sequence[Row], form: Form) -> str:
    """What must be said if kinds were read from the answers."""
    unsaid = [row for row in rows if row.question and row.kind is None]
    num_closed = sum(kind_by_answer(row.answer) == "closed" for row in unsaid)
    if not unsaid:
        return ""
    return (
        f"{form.name} {form.split}: the file does not say which questions are closed; the "
        f"{num_closed} answered by yes or no count as closed, {len(unsaid) - num_closed} as open"
    )


def _without_questions(file: Path, rows: Sequence[Row]) -> str:
    """What must be said if a file gave images only, which may be a file of another form."""
    if any(row.question for row in rows):
        return ""
    return f"{file.name}: no columns question and answer, so its {len(rows)} rows are images only"


def files_of(split: str) -> tuple[str, ...]:
    """Names under which a split's table is looked for in a folder."""
    return tuple(f"{split}{suffix}" for suffix in table.SUFFIXES)

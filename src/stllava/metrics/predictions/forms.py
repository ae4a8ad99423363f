"""The files that others write their models' answers to, read as one kind of record.

JSON lines, a JSON list, an object that holds one, an object from id to answer, CSV, TSV, Parquet.
Known: LLaVA and LLaVA-Med answer files (question_id, prompt, text), lmms-eval's sample logs
(doc, resps, filtered_resps), VLMEvalKit (index, question, answer, prediction), MedEvalKit
(question, answer, response; no ids), our own predictions.jsonl (id, text, finish).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stllava.errors import DataError
from stllava.reading import Entry, json, table

LISTS = ("logs", "results", "predictions", "answers", "samples", "data", "annotations")
ID_FIELDS = ("question_id", "qid", "id", "questionId", "index", "doc_id")
TEXT_FIELDS = (
    "prediction", "pred", "prediction_text", "response", "model_response", "output",
    "model_output", "model_answer", "generated_text", "completion", "filtered_resps", "resps",
    "text", "answer",
)  # fmt: skip
QUESTION_FIELDS = ("question", "prompt", "query", "input")
GOLD_FIELDS = ("gold", "gt", "gt_answer", "ground_truth", "reference", "target", "answer")
FINISH_FIELDS = ("finish", "finish_reason")
NOT_A_NUMBER = frozenset({"nan", "<na>"})
FAILURES = ("Failed to obtain answer via API",)  # VLMEvalKit stores this as the answer


class Answer(NamedTuple):
    """One answer as a file gives it."""

    place: str  # file and line, for messages
    text: str | None  # None: the file says that there is none
    id: str | None
    question: str = ""  # as asked: options and instructions may follow it
    gold: str | None = None  # the reference answer, where the file repeats it
    finish: str = "unknown"


def read_answers(path: Path, *, field: str | None = None) -> list[Answer]:
    """Read all answers; `field` names the one that holds the answer, where it is not known.

    Raises DataError naming the line for anything that is not an answer: a shorter file would
    change n silently.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; name the file with a model's answers")
    answers = []
    for entry in _entries(path):
        if entry.problem or not isinstance(entry.value, dict):
            raise DataError(f"{entry.place}: {entry.problem or 'not an object'}")
        answers.append(_answer(entry.place, entry.value, field))
    if not answers:
        raise DataError(f"{path}: no answer in it; write one JSON object a line: id and text")
    return answers


def _entries(path: Path) -> Iterable[Entry]:
    if path.suffix.lower() in (".csv", ".tsv", ".parquet"):
        return table.read_rows(path)
    if path.suffix.lower() == ".xlsx":
        raise DataError(f"{path}: a spreadsheet; save it as .tsv")
    whole = single_object(path)
    return json.read_entries(path) if whole is None else _listed(path, whole)


def single_object(path: Path) -> dict[str, Any] | None:
    """The object that a .json file is; None for a list and for JSON lines."""
    if path.suffix.lower() != ".json":
        return None
    text = path.read_bytes().decode("utf-8-sig", errors="replace")
    value = json.decode(text)[0] if text.lstrip().startswith("{") else None
    return value if isinstance(value, dict) else None


def _listed(path: Path, whole: dict[str, Any]) -> Iterator[Entry]:
    rows = next((whole[name] for name in LISTS if isinstance(whole.get(name), list)), None)
    if rows is not None:
        yield from (Entry(f"{path.name}[{number}]", row) for number, row in enumerate(rows))
    elif any(name in whole for name in ID_FIELDS):
        yield Entry(f"{path.name}:1", whole)
    else:
        for name, value in whole.items():
            row = value if isinstance(value, dict) else {"text": value}
            yield Entry(f"{path.name}[{name!r}]", {"question_id": name, **row})


def _answer(place: str, row: dict[str, Any], field: str | None) -> Answer:
    doc = row["doc"] if isinstance(row.get("doc"), dict) else {}
    names = TEXT_FIELDS if field is None else (field,)
    name = next((name for name in names if name in row), None)
    if name is None:
        raise DataError(
            f"{place}: no answer in it (fields: {', '.join(map(str, row))}); name the field with "
            "--field"
        )
    own_id = _first(doc, ID_FIELDS)
    gold = _first({k: v for k, v in row.items() if k != name}, GOLD_FIELDS)
    question = _first(row, QUESTION_FIELDS[:1]) or _first(doc, QUESTION_FIELDS)
    return Answer(
        place=place,
        text=_text(place, name, row[name]),
        id=_id(place, _first(row, ID_FIELDS) if own_id is None else own_id),
        question=str(question or _first(row, QUESTION_FIELDS) or ""),
        gold=_scalar(_first(doc, GOLD_FIELDS) if gold is None else gold),
        finish=str(_first(row, FINISH_FIELDS) or "unknown"),
    )


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) is not None), None)


def _text(place: str, name: str, value: Any) -> str | None:
    """The answer; lmms-eval wraps it in up to two lists."""
    while isinstance(value, list):
        if len(value) > 1:
            raise DataError(f"{place}: {len(value)} answers in {name}; keep one for each question")
        value = value[0] if value else None
    text = _scalar(value)
    if value is not None and text is None:
        raise DataError(f"{place}: {name} is not text but {type(value).__name__}")
    if text is not None and text.strip().lower() in NOT_A_NUMBER:
        raise DataError(f"{place}: {name} is NaN; write null where there is no answer")
    return None if text and any(failure in text for failure in FAILURES) else text


def _scalar(value: Any) -> str | None:
    return str(value) if isinstance(value, str | int | float) else None


def _id(place: str, value: Any) -> str | None:
    if value is None or value == "":
        return None
    if isinstance(value, bool | list | dict):
        raise DataError(f"{place}: its id is neither text nor a number")
    if isinstance(value, float):
        return str(int(value)) if value.is_integer() else str(value)
    return str(value).strip()

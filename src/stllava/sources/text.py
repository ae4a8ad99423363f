"""Cells and fields of question files: what is repaired in them, and counted."""

from __future__ import annotations

import math
import re
from collections import Counter
from typing import Literal

from stllava.metrics.closed import is_yes_no
from stllava.sources.store import UnusableError

ABSENT = frozenset({"NULL", "NA", ""})  # VQA-RAD's ways to say that there is nothing

Kind = Literal["open", "closed"]


def clean(value: object, name: str, repairs: Counter[str]) -> str:
    """One line of text from a cell; "" for None and NaN. Each repair is counted under `name`.

    Raises UnusableError for lists and objects.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ""
    if isinstance(value, bool):
        repairs[f"{name} that is true or false"] += 1
        return "yes" if value else "no"
    if not isinstance(value, str | int | float):
        raise UnusableError(f"{name} is neither text nor a number")
    repairs[f"{name} that is a number"] += not isinstance(value, str)
    text = str(value)
    if "\t" in text:  # VQA-RAD's tabs were commas: "cardia c\tmusculoskeletal"
        repairs[f"tab in {name}"] += 1
        text = re.sub(r"(?<=\w) (\w)\t", r"\1\t", text)
        text = re.sub(r"\s*\t\s*", ", ", text)
    tidy = " ".join(text.split())
    repairs[f"blanks in {name}"] += tidy != text
    return tidy


def alias(value: object, name: str, repairs: Counter[str]) -> str:
    """Another wording of a question; "" where the file says that there is none."""
    text = " ".join(str(value or "").split())
    repairs[f"'NULL' or 'NA' as {name}"] += text in ("NULL", "NA")
    return "" if text in ABSENT else text


def kind_of(annotation: object, repairs: Counter[str]) -> Kind | None:
    """What an answer_type cell says; None where it says neither open nor closed."""
    text = str(annotation)
    tidy = text.strip().upper()
    repairs["answer_type with blanks or lower case"] += tidy != text
    kinds: dict[str, Kind] = {"OPEN": "open", "CLOSED": "closed"}
    return kinds.get(tidy)


def kind_by_answer(answer: str) -> Kind:
    """Closed iff the answer is yes or no; for files without an annotation."""
    return "closed" if is_yes_no(answer) else "open"


def split_name(value: object) -> str:
    """ "train", "validation" or "test" for the words that files use; others as they are."""
    text = str(value).strip().lower()
    if text.startswith("train"):
        return "train"
    if text in ("val", "valid", "validate", "validation", "dev"):
        return "validation"
    return "test" if text.startswith("test") else text

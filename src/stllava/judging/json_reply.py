"""What a judge says in JSON: scores, faults and verdict, from objects and from objects in prose."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from typing import Any

from stllava.prompts import FAULTS
from stllava.prompts.responses import ASPECTS

MAX_OBJECTS = 50  # braces tried when looking for JSON inside prose
MAX_FAULTS = 20  # of one answer
OTHER_FAULT = "other"

Scores = tuple[float, float]
Faults = tuple[tuple[str, ...], tuple[str, ...]]

# Signs, exponents, nan and inf are read as numbers so that the range check can refuse them.
NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|nan|inf(?:inity)?)"
_ONE_NUMBER = re.compile(NUMBER, re.IGNORECASE)
_KEYS = (("a", "b"), ("answer1", "answer2"), ("score1", "score2"), ("1", "2"))
_VERDICTS = {
    **dict.fromkeys(("1", "a", "answer1", "answera"), 1),
    **dict.fromkeys(("2", "b", "answer2", "answerb"), 2),
    **dict.fromkeys(("0", "c", "tie", "equal", "neither", "none"), 0),
}


def loads(text: str) -> Any:
    """The value that the whole text is, or None."""
    try:
        return _DECODER.decode(text)
    except (ValueError, RecursionError):  # a reply may nest ten thousand brackets
        return None


def objects_in(text: str) -> Iterator[dict[str, Any]]:
    """JSON objects inside prose, from the first on; what stands inside one is not found again."""
    start = -1
    for _ in range(MAX_OBJECTS):
        start = text.find("{", start + 1)
        if start < 0:
            return
        try:
            value, end = _DECODER.raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        yield value
        start = end - 1


def scores_of(value: Any) -> Scores | None:
    """[8, 7], {"scores": …}, {"answer_1": 8, "answer_2": {"score": 7}} and their like."""
    if isinstance(value, list):
        numbers = [_number(item) for item in value]
        if len(numbers) == 2 and numbers[0] is not None and numbers[1] is not None:
            return numbers[0], numbers[1]
        return None
    if not isinstance(value, dict):
        return None
    fields = _fields(value)
    if "scores" in fields and isinstance(fields["scores"], list | dict):
        return scores_of(fields["scores"])
    both = _both(fields)
    return None if both is None else scores_of(both)


def faults_of(value: Any) -> Faults | None:
    """Tags of both answers, each once; what is no tag of ours is "other". None: none were named."""
    both = _both(_fields(value)) if isinstance(value, dict) else None
    if both is None or not all(isinstance(item, dict) and "faults" in item for item in both):
        return None
    first, second = (_tags(item["faults"]) for item in both)
    return first, second


def verdict_of(value: Any) -> int | None:
    """1 or 2 for the answer that is called better, 0 for neither, None where nothing is said."""
    if not isinstance(value, dict):
        return None
    fields = _fields(value)
    said = fields.get("verdict", fields.get("winner"))
    if isinstance(said, bool) or not isinstance(said, str | int):
        return None
    return _VERDICTS.get(re.sub(r"[\s_-]", "", str(said)).lower())


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice would let its later value win unseen."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, strict=False)


def _fields(value: dict[str, Any]) -> dict[str, Any]:
    return {re.sub(r"[\s_-]", "", str(key)).lower(): item for key, item in value.items()}


def _both(fields: dict[str, Any]) -> list[Any] | None:
    """What is said of the first and of the second answer."""
    for first, second in _KEYS:
        if first in fields and second in fields:
            return [fields[first], fields[second]]
    return None


def _tags(said: Any) -> tuple[str, ...]:
    """A list of tags, or one tag, in our spelling."""
    items = said if isinstance(said, list) else [said] if isinstance(said, str) and said else []
    names = [re.sub(r"[\s-]+", "_", str(item).strip()).lower() for item in items]
    known = (name if name in FAULTS else OTHER_FAULT for name in names)
    return tuple(dict.fromkeys(known))[:MAX_FAULTS]


def _number(item: Any) -> float | None:
    """A number; of an object its score, else the mean over all four aspects."""
    if isinstance(item, dict):
        if "score" in item:
            return _number(item["score"])
        aspects = [_number(item.get(name)) for name in ASPECTS]
        known = [value for value in aspects if value is not None]
        return sum(known) / len(known) if len(known) == len(ASPECTS) else None
    if isinstance(item, str) and _ONE_NUMBER.fullmatch(item.strip()):
        return float(item)
    if isinstance(item, bool) or not isinstance(item, int | float):
        return None
    return float(item) if abs(item) < 1e300 else math.inf  # an int may not fit a float

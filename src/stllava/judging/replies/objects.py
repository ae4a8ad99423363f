"""What a judge says in JSON: scores, faults and verdict, from objects and from objects in prose."""

from __future__ import annotations

import json
import math
import re
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
_OPENING = re.compile(r"\{|\[(?=\s*\{)")
_KEYS = (("a", "b"), ("answer1", "answer2"), ("score1", "score2"), ("1", "2"))
_IDS = ("answer", "answerid", "answernumber", "assistant", "candidate", "id", "label", "name")
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


def split_objects(text: str) -> tuple[list[Any], str]:
    """JSON objects and lists of them inside prose, and the prose with {} in their place.

    What stands inside one is not found again.
    """
    found: list[Any] = []
    prose: list[str] = []
    start, seen = 0, 0
    for _ in range(MAX_OBJECTS):
        if (opening := _OPENING.search(text, start)) is None:
            break
        try:
            value, start = _DECODER.raw_decode(text, opening.start())
        except (ValueError, RecursionError):
            start = opening.start() + 1
            continue
        found.append(value)
        prose += [text[seen : opening.start()], "{}"]
        seen = start
    return found, "".join([*prose, text[seen:]])


def scores_of(value: Any) -> Scores | None:
    """[8, 7], {"scores": …}, {"answer_1": 8, "answer_2": {"score": 7}} and their like."""
    if isinstance(value, list):
        return _pair(_in_order(value))
    if not isinstance(value, dict):
        return None
    fields = _fields(value)
    return _under_scores(fields) or _pair(_both(fields))


def is_ambiguous(value: Any) -> bool:
    """Whether one object says two things: two pairs of scores, a verdict and another winner."""
    if not isinstance(value, dict):
        return False
    fields = _fields(value)
    pairs = [_pair([fields[a], fields[b]]) for a, b in _KEYS if {a, b} <= fields.keys()]
    pairs.append(_under_scores(fields))
    verdicts = [_verdict(fields[name]) for name in ("verdict", "winner") if name in fields]
    return len({*pairs} - {None}) > 1 or len({*verdicts} - {None}) > 1


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
    return _verdict(fields.get("verdict", fields.get("winner")))


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that is there twice would let its later value win unseen."""
    if len({key for key, _ in pairs}) != len(pairs):
        raise ValueError("a key is there twice")
    return dict(pairs)


_DECODER = json.JSONDecoder(object_pairs_hook=_no_duplicates, strict=False)


def _fields(value: dict[str, Any]) -> dict[str, Any]:
    """By names without case, blanks and dashes; nothing where two keys are then one."""
    names = [_squeezed(key) for key in value]
    return dict(zip(names, value.values(), strict=True)) if len({*names}) == len(names) else {}


def _verdict(said: Any) -> int | None:
    if isinstance(said, bool) or not isinstance(said, str | int):
        return None
    return _VERDICTS.get(_squeezed(said))


def _squeezed(said: str | int) -> str:
    return re.sub(r"[\s_-]", "", str(said)).lower()


def _under_scores(fields: dict[str, Any]) -> Scores | None:
    said = fields.get("scores")
    if isinstance(said, list):
        return _pair(_in_order(said))
    return _pair(_both(_fields(said))) if isinstance(said, dict) else None


def _pair(items: list[Any] | None) -> Scores | None:
    numbers = [_number(item) for item in items or ()]
    if len(numbers) != 2 or numbers[0] is None or numbers[1] is None:
        return None
    return numbers[0], numbers[1]


def _in_order(items: list[Any]) -> list[Any]:
    """A list about two answers in their order, by the ids that its items have; [] if those fail.

    Items without any id are in order as they are.
    """
    ids = [_id_of(item) for item in items]
    if not any(number is not None for number in ids):
        return items
    by_id = dict(zip(ids, items, strict=True))
    return [by_id[1], by_id[2]] if len(items) == 2 and by_id.keys() == {1, 2} else []


def _id_of(item: Any) -> int | None:
    """1 or 2 for the answer that an object is about, 0 for what is no id, None without one."""
    fields = _fields(item) if isinstance(item, dict) else {}
    said = {_verdict(fields[name]) or 0 for name in _IDS if name in fields}
    return None if not said else said.pop() if len(said) == 1 else 0


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
            return _one_number(item["score"])
        aspects = [_one_number(item.get(name)) for name in ASPECTS]
        known = [value for value in aspects if value is not None]
        return sum(known) / len(known) if len(known) == len(ASPECTS) else None
    return _one_number(item)


def _one_number(item: Any) -> float | None:
    if isinstance(item, str) and _ONE_NUMBER.fullmatch(item.strip()):
        return float(item)
    if isinstance(item, bool) or not isinstance(item, int | float):
        return None
    return float(item) if abs(item) < 1e300 else math.inf  # an int may not fit a float

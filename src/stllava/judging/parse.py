"""A judge's words to two scores, or to nothing: there is no default winner.

A ladder of readings; the first that finds two numbers decides. The line that the paper's prompt
asks for stands before anything found further down, because what stands further down may quote
a candidate, and a candidate may have written scores of its own.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

LOWEST, HIGHEST = 1.0, 10.0
MAX_REPLY_CHARS = 20_000
MAX_OBJECTS = 50  # braces tried when looking for JSON inside prose

Scores = tuple[float, float]

# Signs, exponents, nan and inf are read as numbers so that the range check can refuse them.
_NUMBER = r"[-+]?(?:[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?|nan|inf(?:inity)?)"
_LABEL = r"(?:(?:the\s+)?(?:scores?|ratings?)(?:\s+are)?\s*[:=]?\s*)?"
_SEPARATOR = r"(?:\s*[,;|]\s*|\s+and\s+|\s+)"
_LINE = re.compile(rf"{_LABEL}[\[(]?\s*({_NUMBER}){_SEPARATOR}({_NUMBER})\s*[\])]?\.?", re.I)
_ONE_NUMBER = re.compile(_NUMBER, re.I)
_LABELLED = re.compile(
    rf"\b(?:answer|assistant|score)[ \t]*#?([12])(?:[ \t]+score)?[ \t]*[:=][ \t]*({_NUMBER})"
    r"(?=[ \t]*$|[,;.]?\s+(?:and\s+)?(?:answer|assistant|score)\b|\.[ \t]|[ \t]*\()",
    re.IGNORECASE | re.MULTILINE,
)
_OUT_OF_TEN = re.compile(r"(?<=[0-9])\s*(?:/|\bout of\b)\s*10(?![0-9.])", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]m|i am) (?:really |very )?sorry|sorry|i (?:can['’]?t|cannot|can not|won['’]t)\b"
    r"|(?:i['’]m|i am) (?:unable|not able)|as an ai\b)",
    re.IGNORECASE,
)


class Parsed(NamedTuple):
    """Two scores for (Answer 1, Answer 2), or the reason why there are none."""

    scores: Scores | None
    reason: str = ""


def parse_scores(reply: str, *, cut: bool = False) -> Parsed:
    """Read two finite scores in 1..10. `cut`: the reply ended at a token limit, so its last word
    may be half a word ("8 1" of "8 10") and is not read."""
    text = reply[:MAX_REPLY_CHARS].strip()
    if cut or len(reply) > MAX_REPLY_CHARS:
        text = re.sub(r"\S+\Z", "", text).rstrip()
    text = _OUT_OF_TEN.sub("", re.sub(r"[*`#]", "", _unfence(text)))
    for reading in (_whole_json, _score_line, _two_lines, _labelled, _embedded_json):
        if (scores := reading(text)) is not None:
            break
    else:
        return Parsed(None, "not two scores")
    if not all(math.isfinite(s) and LOWEST <= s <= HIGHEST for s in scores):
        return Parsed(None, f"a score outside {LOWEST:g}..{HIGHEST:g}")
    return Parsed(scores)


def looks_refused(reply: str) -> bool:
    """Whether an unparsed reply opens as refusals do; the provider's own flag goes before it."""
    return _REFUSAL.match(reply) is not None


def _unfence(text: str) -> str:
    fenced = re.fullmatch(r"```\w*\s*\n(.*?)\n?```", text, re.DOTALL)
    return fenced.group(1).strip() if fenced else text


def _whole_json(text: str) -> Scores | None:
    return _from_json(_loads(json.loads, text))


def _score_line(text: str) -> Scores | None:
    """The first line, or the only pair of scores that stands on a line of its own."""
    lines = [_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    if not lines:
        return None
    found = [(float(m.group(1)), float(m.group(2))) for m in lines if m is not None]
    return found[0] if found and (lines[0] or len(set(found)) == 1) else None


def _two_lines(text: str) -> Scores | None:
    """One number on the first line, one on the second, and no third."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbers = [bool(_ONE_NUMBER.fullmatch(line)) for line in lines]
    if numbers[:2] != [True, True] or sum(numbers) != 2:
        return None
    return float(lines[0]), float(lines[1])


def _labelled(text: str) -> Scores | None:
    """ "Answer 1: 8" and "Answer 2: 7" in either order, each said once or the same each time."""
    said: dict[str, set[float]] = {"1": set(), "2": set()}
    for label, number in _LABELLED.findall(text):
        said[label].add(float(number))
    if any(len(values) != 1 for values in said.values()):
        return None
    return said["1"].pop(), said["2"].pop()


def _embedded_json(text: str) -> Scores | None:
    """The last JSON object inside prose that holds two scores."""
    end = len(text)
    for _ in range(MAX_OBJECTS):
        end = text.rfind("{", 0, end)
        if end < 0:
            return None
        decoded = _loads(json.JSONDecoder().raw_decode, text[end:])
        if decoded is not None and (scores := _from_json(decoded[0])) is not None:
            return scores
    return None


def _loads(decode: Callable[[str], Any], text: str) -> Any:
    try:
        return decode(text)
    except (ValueError, RecursionError):  # a reply may nest ten thousand brackets
        return None


_KEYS = (("a", "b"), ("answer1", "answer2"), ("score1", "score2"), ("1", "2"))


def _from_json(value: Any) -> Scores | None:
    """[8, 7], {"scores": …}, {"answer_1": 8, "answer_2": {"score": 7}} and their like."""
    if isinstance(value, list):
        numbers = [_number(item) for item in value]
        if len(numbers) == 2 and numbers[0] is not None and numbers[1] is not None:
            return numbers[0], numbers[1]
        return None
    if not isinstance(value, dict):
        return None
    fields = {re.sub(r"[\s_-]", "", str(key)).lower(): item for key, item in value.items()}
    if "scores" in fields and isinstance(fields["scores"], list | dict):
        return _from_json(fields["scores"])
    for first, second in _KEYS:
        if first in fields and second in fields:
            return _from_json([fields[first], fields[second]])
    return None


def _number(item: Any) -> float | None:
    if isinstance(item, dict):
        item = item.get("score")
    if isinstance(item, str) and _ONE_NUMBER.fullmatch(item.strip()):
        return float(item)
    if isinstance(item, bool) or not isinstance(item, int | float):
        return None
    return float(item) if abs(item) < 1e300 else math.inf  # an int may not fit a float

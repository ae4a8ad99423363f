"""Plausible wrong answers: what a known true answer says, with one thing about it changed.

Presence denied or claimed, sides swapped, numbers and sizes changed, another modality, and, where
nothing of that is in the answer, what was said of another patient. Rules work on wording; that the
result is wrong follows from the true answer being right and saying the one thing only.
"""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from stllava.judging.pairing import normalise
from stllava.judging.questions import question_kind
from stllava.metrics.closed import is_yes_no, verdict
from stllava.metrics.text import overlap, words

MAX_CANDIDATES = 64  # of other patients, looked at for one that is about as long
MAX_OVERLAP = 50.0  # percent F1; above, the other patient's answer may be right here too

_SIDES = {
    "left": "right",
    "right": "left",
    "left-sided": "right-sided",
    "right-sided": "left-sided",
}
_SIZES = (
    ("small", "large"), ("smaller", "larger"), ("mild", "severe"), ("mildly", "severely"),
    ("minimal", "extensive"), ("increased", "decreased"), ("high", "low"), ("thin", "thick"),
    ("narrow", "wide"), ("single", "multiple"), ("hyperdense", "hypodense"),
    ("hyperintense", "hypointense"),
)  # fmt: skip
_ORGANS = r"(?!\s+(?:bowel|intestine))"  # the small bowel is an organ, not a size
_SIZE = {word: other for a, b in _SIZES for word, other in ((a, b), (b, a))}
_NUMBERS = ("two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_NUMBER = re.compile(rf"(?<![\w.,/-])(?:\d+(?:\.\d+)?|{'|'.join(_NUMBERS)})(?![\w/-]|[.,]\d)", re.I)
_MODALITIES = {
    "computed tomography": "magnetic resonance imaging",
    "magnetic resonance imaging": "computed tomography",
    "ct": "MRI", "cat": "MRI", "mri": "CT", "mr": "CT", "x-ray": "MRI", "xray": "MRI",
    "x ray": "MRI", "radiograph": "MRI", "ultrasound": "CT", "pet": "MRI", "fluoroscopy": "MRI",
    "angiography": "ultrasound", "t1": "T2", "t2": "T1",
}  # fmt: skip
_ASKS_MODALITY = re.compile(
    r"\b(?:modalit\w+|imaging|weight\w*|sequence|technique|how was"
    r"|(?:kind|type|sort) of (?:image|scan|study)"
    r"|(?:image|scan|picture|film|study)\b.*\b(?:taken|acquired|obtained|done))",
    re.IGNORECASE,
)


class Known(NamedTuple):
    """A question about an image with an answer that is known to be right."""

    id: str
    image: str
    group: str  # patient or case
    question: str
    answer: str


class Wrong(NamedTuple):
    category: str
    answer: str


class Others:
    """What is known of other patients, by question and by the kind of question."""

    def __init__(self, known: Iterable[Known]) -> None:
        self._by_question: dict[str, list[Known]] = defaultdict(list)
        self._by_opening: dict[str, list[Known]] = defaultdict(list)
        for item in known:
            self._by_question[normalise(item.question)].append(item)
            self._by_opening[_opening(item.question)].append(item)

    def answer(
        self, item: Known, fits: Callable[[str], bool], *, same_question: bool = False
    ) -> str | None:
        """Another patient's answer to the same question, else to one that opens likewise.

        Of those that fit one whose question is most alike and then one about as long, so that
        length gives nothing away.
        """
        alike = [self._by_question[normalise(item.question)]]
        if not same_question:
            alike.append(self._by_opening[_opening(item.question)])
        for group in filter(None, alike):
            start = _luck(item.id) % len(group)
            around = (group[start:] + group[:start])[:MAX_CANDIDATES]
            found = [other for other in around if other.group != item.group and fits(other.answer)]
            if found:
                return min(
                    found, key=lambda other: (_unlike(other, item), _gap(other, item))
                ).answer
        return None


def _unlike(one: Known, other: Known) -> int:
    """How little two questions have in common, in fifths."""
    return 5 - round(overlap(one.question, other.question).f1 / 20)


def _gap(one: Known, other: Known) -> int:
    return abs(len(one.answer.split()) - len(other.answer.split()))


def wrong_answer(item: Known, others: Others) -> Wrong | None:
    """The first kind of change that the answer allows; None if there is none."""
    if question_kind(item.question) == "yes/no" or is_yes_no(item.answer):
        return _denied(item, others)
    for category, change in (("side", _other_side), ("modality", _other_modality)):
        if (answer := change(item)) is not None:
            return Wrong(category, answer)
    for category, change in (("number", _other_number), ("size", _other_size)):
        if (answer := change(item)) is not None:
            return Wrong(category, answer)
    if question_kind(item.question) == "choice":
        return None  # the other choice is known to the question alone
    answer = others.answer(item, lambda text: _is_another(text, item.answer))
    return None if answer is None else Wrong("other patient", answer)


def _denied(item: Known, others: Others) -> Wrong | None:
    """The opposite of a bare yes or no; of a longer answer what was said where it is so."""
    if is_yes_no(item.answer):
        return Wrong("presence", _replaced(item.answer, r"yes|no", {"yes": "no", "no": "yes"}))
    opposite = {"yes": "no", "no": "yes"}.get(verdict(item.answer).kind)
    if opposite is None:
        return None
    answer = others.answer(item, lambda text: verdict(text).kind == opposite, same_question=True)
    return None if answer is None else Wrong("presence", answer)


def _other_side(item: Known) -> str | None:
    """Left for right; an answer that names both, or "both", is left alone."""
    return _swapped(item.answer, _SIDES)


def _other_size(item: Known) -> str | None:
    return _swapped(item.answer, _SIZE)


def _other_modality(item: Known) -> str | None:
    return _swapped(item.answer, _MODALITIES) if _ASKS_MODALITY.search(item.question) else None


def _other_number(item: Known) -> str | None:
    """Its only number doubled, or one more for a small one."""
    found = _NUMBER.findall(item.answer)
    if len(found) != 1:
        return None
    text = found[0].lower()
    if text in _NUMBERS:
        other = _NUMBERS[(_NUMBERS.index(text) + 2) % len(_NUMBERS)]
    elif "." in text:
        other = f"{2 * float(text):g}"
    else:
        other = str(int(text) + 1 if int(text) < 4 else 2 * int(text))
    return _NUMBER.sub(lambda match: _cased(other, match[0]), item.answer)


def _swapped(answer: str, table: dict[str, str]) -> str | None:
    """The answer with its only word of the table exchanged; None if it holds none or several."""
    pattern = "|".join(sorted(map(re.escape, table), key=len, reverse=True))
    found = re.findall(rf"(?<![\w-])(?:{pattern})(?![\w-]){_ORGANS}", answer, re.IGNORECASE)
    if len({text.lower() for text in found}) != 1:
        return None
    return _replaced(answer, pattern, table)


def _replaced(answer: str, pattern: str, table: dict[str, str]) -> str:
    return re.sub(
        rf"(?<![\w-])(?:{pattern})(?![\w-]){_ORGANS}",
        lambda match: _cased(table[match[0].lower()], match[0]),
        answer,
        flags=re.IGNORECASE,
    )


def _cased(text: str, like: str) -> str:
    """Capital where the replaced word had one; abbreviations keep theirs."""
    return text[:1].upper() + text[1:] if like[:1].isupper() else text


def _is_another(text: str, answer: str) -> bool:
    """Whether a text says something else, and neither is a part of the other."""
    said, true = set(words(text)), set(words(answer))
    if not said or not true or said <= true or true <= said or is_yes_no(text):
        return False
    return overlap(text, answer).f1 < MAX_OVERLAP


def _opening(question: str) -> str:
    return " ".join(words(question)[:2])


def _luck(*key: object) -> int:
    return int.from_bytes(hashlib.sha256(repr(key).encode()).digest()[:8], "big")


def in_lucky_order(known: Sequence[Known], seed: int) -> list[Known]:
    """Sampled order that depends on ids and the seed alone: more data reshuffles nothing."""
    return sorted(known, key=lambda item: _luck(seed, item.id))

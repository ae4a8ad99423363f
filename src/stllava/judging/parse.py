"""A judge's words to a verdict, or to nothing: there is no default winner.

A ladder of readings per kind of rubric; the first that finds something decides. The form that was
asked for stands before anything found further down, because what stands further down may quote a
candidate, and a candidate may have written scores of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from stllava.judging.json_reply import (
    NUMBER,
    Faults,
    Scores,
    faults_of,
    loads,
    objects_in,
    scores_of,
    verdict_of,
)
from stllava.prompts.local import CHOICES
from stllava.prompts.rubric import Output

LOWEST, HIGHEST = 1.0, 10.0
MAX_REPLY_CHARS = 20_000
MIN_CHOICE_MASS = 0.5  # of probability on A, B and C together; below it they were not the answer
MAX_BLANK_TOKENS = 3  # before the letter: a blank, a line break, an asterisk

Alternatives = Sequence[Mapping[str, float]]

_LABEL = r"(?:(?:the\s+)?(?:scores?|ratings?)(?:\s+are)?\s*[:=]?\s*)?"
_SEPARATOR = r"(?:\s*[,;|]\s*|\s+and\s+|\s+)"
_LINE = re.compile(rf"{_LABEL}[\[(]?\s*({NUMBER}){_SEPARATOR}({NUMBER})\s*[\])]?\.?", re.I)
_ONE_NUMBER = re.compile(NUMBER, re.I)
_LABELLED = re.compile(
    rf"\b(?:answer|assistant|score)[ \t]*#?([12])(?:[ \t]+score)?[ \t]*[:=][ \t]*({NUMBER})"
    r"(?=[ \t]*$|[,;.]?\s+(?:and\s+)?(?:answer|assistant|score)\b|\.[ \t]|[ \t]*\()",
    re.IGNORECASE | re.MULTILINE,
)
_OUT_OF_TEN = re.compile(r"(?<=[0-9])\s*(?:/|\bout of\b)\s*10(?![0-9.])", re.IGNORECASE)
_MARKER = re.compile(r"\[\[\s*(A|B|C|1|2|tie)\s*\]\]", re.IGNORECASE)
_LETTER = re.compile(r"\W*(?:(?:the )?(?:better )?answer(?: is)?\W*)?([ABC])\W*", re.IGNORECASE)
_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]m|i am) (?:really |very )?sorry|sorry|i (?:can['’]?t|cannot|can not|won['’]t)\b"
    r"|(?:i['’]m|i am) (?:unable|not able)|as an ai\b)",
    re.IGNORECASE,
)
_SIDES = {"A": 1, "1": 1, "B": 2, "2": 2, "C": 0, "TIE": 0}


class Parsed(NamedTuple):
    """What a reply says of (Answer 1, Answer 2); without scores and choice, `reason` says why."""

    scores: Scores | None
    reason: str = ""
    choice: int | None = None  # 1 or 2: that answer is better; 0: neither
    faults: Faults | None = None
    preference: float | None = None  # P(Answer 1 is better), 0..1
    rung: str = ""  # the reading that found it

    @property
    def found(self) -> bool:
        return self.scores is not None or self.choice is not None


def read_reply(
    reply: str, output: Output, *, cut: bool = False, alternatives: Alternatives | None = None
) -> Parsed:
    """Read a reply to a rubric whose kind of output is `output`.

    `cut`: the reply ended at a token limit, so its last word may be half a word ("8 1" of "8 10")
    and is not read. `alternatives`: per token of the reply, what else could have been said, with
    natural logs. Scores that contradict the verdict beside them count, and `reason` says so.
    """
    if output == "choice" and alternatives and (read := _probabilities(alternatives)) is not None:
        return read
    text = _readable(reply, cut)
    for rung, reading in _LADDERS[output]:
        if (read := reading(text)) is not None:
            return _checked(read._replace(rung=rung))
    wanted = "a choice" if output == "choice" else "two scores"
    return Parsed(None, f"not {wanted}")


def parse_scores(reply: str, *, cut: bool = False) -> Parsed:
    """Two finite scores in 1..10 from a reply to the paper's prompt."""
    return read_reply(reply, "scores", cut=cut)


def looks_refused(reply: str) -> bool:
    """Whether an unparsed reply opens as refusals do; the provider's own flag goes before it."""
    return _REFUSAL.match(reply) is not None


def _readable(reply: str, cut: bool) -> str:
    text = reply[:MAX_REPLY_CHARS].strip()
    if cut or len(reply) > MAX_REPLY_CHARS:
        text = re.sub(r"\S+\Z", "", text).rstrip()
    fenced = re.fullmatch(r"```\w*\s*\n(.*?)\n?```", text, re.DOTALL)
    text = fenced.group(1).strip() if fenced else text
    return _OUT_OF_TEN.sub("", re.sub(r"[*`#]", "", text))


def _checked(read: Parsed) -> Parsed:
    """Scores must be finite and in range; against the verdict beside them they win."""
    if read.scores is None:
        return read
    if not all(math.isfinite(s) and LOWEST <= s <= HIGHEST for s in read.scores):
        return Parsed(None, f"a score outside {LOWEST:g}..{HIGHEST:g}")
    first, second = read.scores
    better = 0 if first == second else 1 if first > second else 2
    differs = read.choice is not None and read.choice != better
    reason = "scores and verdict disagree; the scores count" if differs else ""
    return read._replace(choice=better, reason=reason)


def _probabilities(alternatives: Alternatives) -> Parsed | None:
    """The choice tokens' probabilities at the first token that is no blank."""
    for token in alternatives[:MAX_BLANK_TOKENS]:
        mass = dict.fromkeys(CHOICES, 0.0)
        for text, log in token.items():
            letter = text.strip(" \t\r\n*#[]().:\"'▁Ġ")
            if letter in mass:
                mass[letter] += math.exp(min(log, 0.0))
        total = sum(mass.values())
        if total >= MIN_CHOICE_MASS:
            first, second, neither = (mass[letter] / total for letter in CHOICES)
            likeliest = max((first, 1), (second, 2), (neither, 0))
            choice = 0 if first == second else likeliest[1]
            preference = first + neither / 2
            return Parsed(None, choice=choice, preference=preference, rung="logprobs")
        likely = max(token, key=lambda text: token[text], default="x")
        if re.search(r"\w", likely):
            return None
    return None


def _letter(text: str) -> Parsed | None:
    """The whole reply, or its first line, is one letter."""
    for line in (text, text.split("\n", 1)[0]):
        if (said := _LETTER.fullmatch(line)) is not None:
            return Parsed(None, choice=_SIDES[said.group(1).upper()])
    return None


def _marker(text: str) -> Parsed | None:
    """[[A]], [[B]] or [[C]]: one of them, and at the end, where a quotation does not stand."""
    said = list(_MARKER.finditer(text))
    if len({mark.group(1).upper() for mark in said}) != 1 or text[said[-1].end() :].strip(" ."):
        return None
    return Parsed(None, choice=_SIDES[said[-1].group(1).upper()])


def _whole_json(text: str) -> Parsed | None:
    return _from_json(loads(text))


def _embedded_json(text: str) -> Parsed | None:
    """The one verdict among the JSON objects inside prose; two that differ are none."""
    found = [read for value in objects_in(text) if (read := _from_json(value)) is not None]
    same = len({(read.scores, read.choice) for read in found}) == 1
    return found[-1] if same else None


def _from_json(value: object) -> Parsed | None:
    scores, choice = scores_of(value), verdict_of(value)
    if scores is None and choice is None:
        return None
    return Parsed(scores, choice=choice, faults=faults_of(value))


def _score_line(text: str) -> Parsed | None:
    """The first line, or the only pair of scores that stands on a line of its own."""
    lines = [_LINE.fullmatch(line.strip()) for line in text.splitlines() if line.strip()]
    found = [(float(m.group(1)), float(m.group(2))) for m in lines if m is not None]
    return Parsed(found[0]) if found and (lines[0] or len(set(found)) == 1) else None


def _two_lines(text: str) -> Parsed | None:
    """One number on the first line, one on the second, and no third."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    numbers = [bool(_ONE_NUMBER.fullmatch(line)) for line in lines]
    if numbers[:2] != [True, True] or sum(numbers) != 2:
        return None
    return Parsed((float(lines[0]), float(lines[1])))


def _labelled(text: str) -> Parsed | None:
    """ "Answer 1: 8" and "Answer 2: 7" in either order, each said once or the same each time."""
    said: dict[str, set[float]] = {"1": set(), "2": set()}
    for label, number in _LABELLED.findall(text):
        said[label].add(float(number))
    if any(len(values) != 1 for values in said.values()):
        return None
    return Parsed((said["1"].pop(), said["2"].pop()))


_Rung = tuple[str, Callable[[str], Parsed | None]]
_LINES: tuple[_Rung, ...] = (
    ("line", _score_line),
    ("two_lines", _two_lines),
    ("labelled", _labelled),
)
# The paper's prompt speaks of no marker: a reply that consists of one does what a candidate said.
_LADDERS: dict[Output, tuple[_Rung, ...]] = {
    "scores": (("json", _whole_json), *_LINES, ("embedded_json", _embedded_json)),
    "json": (
        ("json", _whole_json),
        ("embedded_json", _embedded_json),
        ("marker", _marker),
        *_LINES,
    ),
    "choice": (("letter", _letter), ("json", _whole_json), ("marker", _marker), *_LINES),
}

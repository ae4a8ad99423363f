"""A judge's words to a verdict, or to nothing: there is no default winner.

A ladder of readings per kind of rubric; the highest that finds something decides, unless another
finds something else. Only the form that was asked for, at the place that was asked for, stands
against JSON further down: that may quote a candidate, who may have written scores of its own.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from stllava.judging.replies import choice as reply_choice
from stllava.judging.replies import lines as reply_lines
from stllava.judging.replies.choice import Alternatives, Named
from stllava.judging.replies.objects import (
    Faults,
    Scores,
    faults_of,
    is_ambiguous,
    loads,
    scores_of,
    split_objects,
    verdict_of,
)
from stllava.judging.replies.text import plain, readable, spoken
from stllava.prompts.rubric import Output

LOWEST, HIGHEST = 1.0, 10.0
DISAGREES = "it says two different things"

_REFUSAL = re.compile(
    r"\W*(?:(?:i['’]m|i am) (?:really |very )?sorry|sorry|i (?:can['’]?t|cannot|can not|won['’]t)\b"
    r"|(?:i['’]m|i am) (?:unable|not able)|as an ai\b)",
    re.IGNORECASE,
)


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
    likely = None
    if output == "choice" and alternatives and reply_choice.opens_with_letter(reply):
        likely = reply_choice.likeliest(alternatives)
    if likely is not None:
        return Parsed(None, choice=likely.side, preference=likely.preference, rung="logprobs")
    said = spoken(reply)
    if said is None:
        return Parsed(None, "its thoughts are not told apart from its verdict")
    read = _read(readable(said.text, cut=cut), output)
    if read is None:
        return Parsed(None, "not a choice" if output == "choice" else "not two scores")
    before = _read(readable(said.before), output)
    if read.found and before is not None and before.choice != read.choice:
        return Parsed(None, DISAGREES)
    return read


def looks_refused(reply: str) -> bool:
    """Whether an unparsed reply opens as refusals do; the provider's own flag goes before it."""
    said = spoken(reply)
    return said is not None and _REFUSAL.match(said.text) is not None


def _read(text: str, output: Output) -> Parsed | None:
    """What is found on all rungs together, also where it is no verdict; None: nothing is."""
    if (whole := _from_json(loads(text))) is not None:
        return _checked(whole._replace(rung="json"))
    objects, prose = split_objects(text)
    prose = plain(prose)
    found, aside = _by_rung(objects, prose, output)
    if not found:
        return None
    readings = {(one.rung, one.scores, one.choice) for one in found}
    several = len(readings) > len({rung for rung, _, _ in readings})  # by one rung
    if several or len({*map(_side, found), *aside}) > 1:
        return Parsed(None, DISAGREES)
    return _checked(found[0])


def _by_rung(
    objects: Sequence[object], prose: str, output: Output
) -> tuple[list[Parsed], list[int]]:
    """All that is found, from the highest rung down, and sides that only speak against it."""
    found: list[Parsed] = []
    aside: list[int] = []
    for rung in _LADDERS[output]:
        if rung == "embedded_json":
            quoted = output == "scores" and reply_lines.starts_with_scores(prose)
            read = () if quoted else map(_from_json, objects)
            found += [one._replace(rung=rung) for one in read if one is not None]
        elif rung in _NAMES:
            named = _NAMES[rung](prose)
            found += [Parsed(None, choice=side, rung=rung) for side in named.sides]
            aside += named.aside
        else:
            found += [Parsed(scores, rung=rung) for scores in _LINES[rung](prose)]
    return found, aside


def _side(read: Parsed) -> int | None:
    if read.scores is None:
        return read.choice
    first, second = read.scores
    return 0 if first == second else 1 if first > second else 2


def _checked(read: Parsed) -> Parsed:
    """Scores must be finite and in range; against the verdict beside them they win."""
    if read.scores is None:
        return read
    if not all(math.isfinite(s) and LOWEST <= s <= HIGHEST for s in read.scores):
        return Parsed(None, f"a score outside {LOWEST:g}..{HIGHEST:g}")
    better = _side(read)
    differs = read.choice is not None and read.choice != better
    reason = "scores and verdict disagree; the scores count" if differs else ""
    return read._replace(choice=better, reason=reason)


def _from_json(value: object) -> Parsed | None:
    scores, choice = scores_of(value), verdict_of(value)
    if (scores is None and choice is None) or is_ambiguous(value):
        return None
    return Parsed(scores, choice=choice, faults=faults_of(value))


_LINES: dict[str, Callable[[str], list[Scores]]] = {
    "line": reply_lines.score_lines,
    "two_lines": reply_lines.two_lines,
    "numbered": reply_lines.numbered,
    "labelled": reply_lines.labelled,
}
_NAMES: dict[str, Callable[[str], Named]] = {
    "letter": reply_choice.letters,
    "marker": reply_choice.markers,
}
# The paper's prompt speaks of no marker: a reply that consists of one does what a candidate said.
_LADDERS: dict[Output, tuple[str, ...]] = {
    "scores": (*_LINES, "embedded_json"),
    "json": ("embedded_json", "marker", *_LINES),
    "choice": ("letter", "marker", *_LINES, "embedded_json"),
}

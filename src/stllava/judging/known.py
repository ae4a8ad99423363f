"""Which known answer belongs to a question that a policy asked about the same image.

Only instruction data are looked at, never a benchmark's questions: preferences must not be made
from answers that the result is measured by.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Literal, NamedTuple

from stllava.judging.claims import STOP, conflict, content, places
from stllava.labels.phrases import REPORT_FINDINGS, REPORT_IMPRESSION
from stllava.metrics.closed import verdict
from stllava.metrics.text import normalise, words
from stllava.records import Conversation

SIMILAR = 0.75  # share of content words that two questions must have in common (not in the paper)
REPORT_WORDS = 25  # an answer this long counts as a report on the image

_REPORT = frozenset(normalise(text) for text in (*REPORT_FINDINGS, *REPORT_IMPRESSION))
_ASKING = frozenset({"what", "which", "where", "who", "when", "how", "why"})
_DENYING = frozenset({"no", "not", "without", "absent", "free"})


class Known(NamedTuple):
    """What is known, and how it was found: more than one answer where the data hold several."""

    answers: tuple[str, ...]
    how: Literal["same question", "similar question", "report"]


class KnownAnswers:
    """Questions and answers of the instruction data, by image."""

    def __init__(self, conversations: Iterable[Conversation]) -> None:
        self._by_image: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        for conversation in conversations:
            for turn in conversation.turns:
                if turn.answer and turn.answer not in self._of(conversation.image, turn.question):
                    self._of(conversation.image, turn.question).append(turn.answer)

    def _of(self, image: str, question: str) -> list[str]:
        return self._by_image[image][normalise(question)]

    def find(self, image: str, question: str) -> Known | None:
        """The same question, else the most similar one, else the report on the image, else None."""
        known = self._by_image.get(image)
        if not known:
            return None
        if normalise(question) in known:
            return Known(tuple(known[normalise(question)]), "same question")
        closest = max(known, key=lambda other: similarity(question, other))
        if similarity(question, closest) >= SIMILAR:
            return Known(tuple(known[closest]), "similar question")
        said = [answer for q, answers in known.items() for answer in answers if _reports(q, answer)]
        return Known(("\n".join(said),), "report") if said else None


def similarity(one: str, other: str) -> float:
    """Shared content words over all of both, 0..1; 0 where the two ask for different things.

    "Is there a nodule on the left?" is not similar to the same on the right, nor "Where is it?" to
    "What is it?", however many words they share.
    """
    a, b = words(one), words(other)
    same_kind = _kind(a) == _kind(b) and set(a) & _DENYING == set(b) & _DENYING
    if not same_kind or conflict(places(one), places(other)) or _numbers(a) != _numbers(b):
        return 0.0
    x, y = set(content(one)), set(content(other))
    return len(x & y) / len(x | y) if x | y else 0.0


def expects_yes_or_no(question: str, answer: str) -> str | None:
    """ "yes" or "no" if that is what the known answer says to a closed question, else None."""
    said = words(question)
    if not said or said[0] not in STOP or set(said) & _ASKING:
        return None
    found = verdict(answer)
    return found.kind if found.kind in ("yes", "no") else None


def _kind(said: list[str]) -> str:
    return next((word for word in said if word in _ASKING), "yes or no")


def _numbers(said: list[str]) -> set[str]:
    return {word for word in said if any(c.isdigit() for c in word)}


def _reports(question: str, answer: str) -> bool:
    return question in _REPORT or len(answer.split()) >= REPORT_WORDS

"""A judge's decisions with what they are about: image, source, kind of question, lengths."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stllava.judging.audit.pairs import Decision, by_pair, decide
from stllava.judging.balance import num_words
from stllava.judging.questions import question_kind
from stllava.records import Answers, Image, Verdict


class Case(NamedTuple):
    """One decision with what it is about."""

    decision: Decision
    verdicts: Sequence[Verdict]
    group: str  # patient or case; the image where it is not known
    source: str
    kind: str  # of question
    words: Mapping[int, int]  # of each draw, by index

    @property
    def longer(self) -> int | None:
        """The index of the draw with more words; None if equal or unknown."""
        i, j = self.decision.pair
        if i not in self.words or j not in self.words or self.words[i] == self.words[j]:
            return None
        return i if self.words[i] > self.words[j] else j


def cases_of(
    verdicts: Iterable[Verdict], answers: Iterable[Answers], images: Iterable[Image]
) -> list[Case]:
    """Every judge, pair and view once; what is not on disk any more is "unknown"."""
    about, seen = {item.id: item for item in answers}, {image.id: image for image in images}
    cases = []
    for said in by_pair(verdicts):
        item = about.get(said[0].answers_id)
        image = seen.get(item.image) if item else None
        words = {draw.index: num_words(draw) for draw in item.draws} if item else {}
        cases.append(
            Case(
                decision=decide(said),
                verdicts=said,
                group=image.group if image else item.image if item else said[0].answers_id,
                source=image.source if image else "unknown",
                kind=question_kind(item.question) if item else "unknown",
                words=words,
            )
        )
    return cases

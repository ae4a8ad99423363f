"""The judge `reference`: a rule that holds answers against what is already known of the image.

No model, no network, the same result every time. It can judge only what the instruction data
answer; every other pair is skipped and says so. Length by itself changes nothing: words of the
question and function words neither earn nor cost, every other word that the reference lacks costs
precision, claims count as shares of an answer's claims, and a small difference is a tie.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, NamedTuple

from stllava.files import utc_now
from stllava.judging.claims import Agreement, agreement, content
from stllava.judging.known import Known, KnownAnswers, expects_yes_or_no
from stllava.judging.pairing import IDENTICAL, Pair, normalise, unanswerable
from stllava.metrics.closed import verdict
from stllava.metrics.text import overlap_of, words
from stllava.records import Answers, Verdict

NAME = "reference"
VERSION = 1  # raise when the rule changes: it is part of every verdict's id
MIN_GAP = 0.5  # points of 1..10; a smaller difference is a tie (not in the paper)
UNKNOWN = "no known answer to this question about this image"
SILENT = "the report on this image says nothing about these answers"
ABSTAINS = 0.25  # of a closed question's worth: less than right, more than wrong
VERDICT_SHARE = 0.7  # of a closed question; the rest is how well the words agree


class Marked(NamedTuple):
    """An answer's worth, 0..1, and what it rests on."""

    worth: float
    f1: float  # percent
    claims: Agreement
    closed: str | None = None  # what it says to a closed question

    @property
    def score(self) -> float:
        """On the judges' scale, 1..10."""
        return round(1 + 9 * self.worth, 2)

    def __str__(self) -> str:
        said = f"says {self.closed}, " if self.closed else ""
        sup, con, unknown = self.claims
        return f"{said}F1 {self.f1:.0f}, claims +{sup} -{con} ?{unknown}"


def mark(question: str, answer: str, known: Known) -> Marked:
    """Mark an answer by the known one that it agrees with best."""
    marks = [_mark(question, answer, reference, known.how) for reference in known.answers]
    return max(marks, key=lambda marked: marked.worth)


def _mark(question: str, answer: str, reference: str, how: str) -> Marked:
    held = agreement(answer, reference, question)
    if how == "report":  # most of it is about other things, so F1 would say little
        balance = (held.supported - held.contradicted) / max(1, held.total)
        return Marked(0.5 + 0.5 * balance, 0.0, held)
    f1 = content_f1(question, answer, reference)
    wrong = held.contradicted / max(1, held.total)
    balance = max(0.0, (held.supported - held.contradicted) / max(1, held.total))
    worth = 0.5 * f1 / 100 * (1 - wrong) + 0.5 * balance
    expected = expects_yes_or_no(question, reference)
    if expected is None:
        return Marked(worth, f1, held)
    said = verdict(answer).kind
    right = 1.0 if said == expected else 0.0 if said in ("yes", "no") else ABSTAINS
    if len(words(reference)) == 1:  # a bare yes or no: nothing to agree with beyond it
        return Marked(right, f1, held, said)
    return Marked(VERDICT_SHARE * right + (1 - VERDICT_SHARE) * worth * right, f1, held, said)


def content_f1(question: str, answer: str, reference: str) -> float:
    """F1 of content words in percent, repeats clipped.

    Words of the question count only where the reference has them too.
    """
    known = content(reference) or words(reference)
    asked = set(content(question)) - set(known)
    said = [word for word in (content(answer) or words(answer)) if word not in asked]
    return overlap_of(said, known).f1


class ReferenceJudge:
    """One verdict per pair; the other order would be the same."""

    name = NAME

    def __init__(self, known: KnownAnswers, *, clock: Callable[[], str] = utc_now) -> None:
        self._known = known
        self._clock = clock

    def judge(
        self, items: Iterable[tuple[Answers, Pair]], *, done: Container[str] = ()
    ) -> Iterator[Verdict]:
        """Verdicts in item order; pairs without a known answer are `skipped`."""
        for answers, pair in items:
            known = self._known.find(answers.image, answers.question)
            identity = _identity(answers, pair, known)
            if identity not in done:
                yield Verdict(
                    id=identity,
                    answers_id=answers.id,
                    pair=pair,
                    order=pair,
                    judge=NAME,
                    rubric=NAME,
                    rubric_version=VERSION,
                    time=self._clock(),
                    **_outcome(answers, pair, known),
                )


def _outcome(answers: Answers, pair: Pair, known: Known | None) -> dict[str, Any]:
    draws = {draw.index: draw for draw in answers.draws}
    first, second = (draws[index] for index in pair)
    if (reason := unanswerable(first, second)) is not None:
        return {"state": "skipped", "reason": reason}
    if normalise(first.text) == normalise(second.text):
        return {"state": "tie", "reason": IDENTICAL}
    if known is None:
        return {"state": "skipped", "reason": UNKNOWN}
    marks = [mark(answers.question, draw.text, known) for draw in (first, second)]
    if known.how == "report" and not any(m.claims.supported + m.claims.contradicted for m in marks):
        return {"state": "skipped", "reason": SILENT}
    scores = (marks[0].score, marks[1].score)
    found: dict[str, Any] = {"scores": scores, "reply": f"{known.how}: {marks[0]}; {marks[1]}"}
    if abs(scores[0] - scores[1]) < MIN_GAP:
        return {**found, "state": "tie", "reason": "about equally close to what is known"}
    return {**found, "state": "ok", "winner": pair[0 if scores[0] > scores[1] else 1]}


def _identity(answers: Answers, pair: Pair, known: Known | None) -> str:
    """16 hex digits of all that the verdict depends on."""
    texts = {draw.index: draw.text for draw in answers.draws}
    shown = [[index, texts[index]] for index in pair]
    held = list(known.answers) if known else []
    identity = [answers.id, answers.image, answers.question, shown, held, NAME, VERSION]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]

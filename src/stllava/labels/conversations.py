"""Labels and reports as instruction data: conversations per image, worded by its own seed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from stllava.labels import phrases, report, say
from stllava.labels.asks import Ask, asks
from stllava.labels.mapping import Columns, Finding
from stllava.labels.table import Labelled
from stllava.records import Conversation, Turn
from stllava.seeds import rng_for

MAX_TURNS = 6  # of one conversation; what is more begins another one
SEEN_FIRST = 0.3  # how often "what is seen" comes first; else last, for it answers what follows


def conversations(
    rows: Sequence[Labelled], columns: Columns, reports: dict[str, report.Report]
) -> Iterator[Conversation]:
    """Conversations about the images that have labels or a usable report, in order of `rows`.

    `reports`: by image id. Equal rows and seed give equal words.
    """
    asked = asks(rows, columns)
    for row in rows:
        rng = rng_for("labels", columns.seed, row.image.id)
        turns = _turns(row, asked[row.image.id], columns, rng)
        if row.image.id in reports:
            turns += _report_turns(reports[row.image.id], rng)
        # Nothing is cut off: that would undo the balance of yes and no.
        for number, begin in enumerate(range(0, len(turns), MAX_TURNS), start=1):
            yield Conversation(
                id=f"{row.image.id}/labels" + (f"-{number}" if number > 1 else ""),
                image=row.image.id,
                turns=tuple(turns[begin : begin + MAX_TURNS]),
            )


def _turns(
    row: Labelled, asked: Sequence[Ask], columns: Columns, rng: np.random.Generator
) -> list[Turn]:
    seen = [ask for ask in asked if ask.topic == "seen"]
    others = [ask for ask in asked if ask.topic != "seen"]
    rng.shuffle(others)
    ordered = seen + others if rng.random() < SEEN_FIRST else others + seen
    return [_turn(ask, row, columns, rng) for ask in ordered]


def _turn(ask: Ask, row: Labelled, columns: Columns, rng: np.random.Generator) -> Turn:
    if ask.topic == "seen":
        answer = say.seen_answer(columns.findings, row.values, rng)
        return Turn(question=say.pick(rng, phrases.SEEN), answer=answer)
    if ask.topic in ("modality", "view"):
        return _of_image(ask, row, rng)
    return _of_finding(ask, row, columns.findings[ask.finding], rng)


def _of_image(ask: Ask, row: Labelled, rng: np.random.Generator) -> Turn:
    is_view = ask.topic == "view"
    value = row.view if is_view else row.modality
    templates = phrases.VIEW_ANSWER if is_view else phrases.MODALITY_ANSWER
    terse = rng.random() < say.TERSE
    answer = f"{say.capital(value)}." if terse else say.pick(rng, templates).format(value=value)
    question = say.pick(rng, phrases.VIEW if is_view else phrases.MODALITY)
    return Turn(question=question, answer=answer)


def _of_finding(ask: Ask, row: Labelled, finding: Finding, rng: np.random.Generator) -> Turn:
    value = row.values[ask.finding]
    wording = say.pick(rng, (finding.wording, *finding.synonyms))
    if ask.topic == "presence":
        question = say.fill(say.pick(rng, phrases.PRESENCE[finding.of]), finding, wording)
        return Turn(question=question, answer=say.presence_answer(finding, wording, value, rng))
    if ask.topic == "side":
        question = say.fill(say.pick(rng, phrases.SIDE[finding.of]), finding, wording)
        return Turn(question=question, answer=say.side_answer(finding, wording, value, rng))
    if ask.topic == "grade":
        question = say.grade_question(say.pick(rng, phrases.GRADE), finding, wording)
        return Turn(question=question, answer=say.grade_answer(finding, wording, value, rng))
    question = finding.question or say.fill(say.pick(rng, phrases.TEXT), finding, wording)
    return Turn(question=question, answer=value.text)


def _report_turns(found: report.Report, rng: np.random.Generator) -> list[Turn]:
    """The whole of each section, and single sentences by what they are about."""
    turns = []
    for sentences, questions in (
        (found.findings, phrases.REPORT_FINDINGS),
        (found.impression, phrases.REPORT_IMPRESSION),
    ):
        if sentences:
            turns.append(Turn(question=say.pick(rng, questions), answer=" ".join(sentences)))
    topics = list(report.by_topic(found.sentences).items())
    rng.shuffle(topics)
    for topic, sentences in topics:
        question = say.pick(rng, phrases.REPORT_TOPIC).format(topic=topic)
        turns.append(Turn(question=question, answer=" ".join(sentences)))
    return turns

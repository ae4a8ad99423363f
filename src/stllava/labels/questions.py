"""Labels and reports as a benchmark: closed and open questions with known short answers.

Questions have one fixed wording each, synonyms are aliases; presence is in balance as in `asks`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stllava.labels import phrases, report, say
from stllava.labels.asks import Ask, asks
from stllava.labels.mapping import SIDES, Columns, Finding
from stllava.labels.table import Labelled
from stllava.metrics.closed import YES_NO
from stllava.records import VQASample


def samples(
    rows: Sequence[Labelled],
    columns: Columns,
    reports: dict[str, report.Report],
    *,
    split: str,
) -> Iterator[VQASample]:
    """Questions in order of `rows`. Categories: kind of question, finding, side, modality, view."""
    asked = asks(rows, columns)
    for row in rows:
        for ask in asked[row.image.id]:
            sample = _sample(ask, row, columns, split)
            if sample is not None:
                yield sample
        if row.image.id in reports:
            yield from _of_report(reports[row.image.id], row, split)


def _sample(ask: Ask, row: Labelled, columns: Columns, split: str) -> VQASample | None:
    if ask.topic == "seen":
        return _seen(row, columns, split)
    if ask.topic in ("modality", "view"):
        is_view = ask.topic == "view"
        question = (phrases.VIEW if is_view else phrases.MODALITY)[0]
        return _record(row, ask, split, question, row.view if is_view else row.modality)
    finding = columns.findings[ask.finding]
    value = row.values[ask.finding]
    question, *aliases = (_question(ask, finding, w) for w in (finding.wording, *finding.synonyms))
    options: tuple[str, ...] = ()
    if ask.topic == "presence":
        answer, options = "yes" if value.present else "no", YES_NO
    elif ask.topic == "side":
        answer, options = value.side, SIDES
    elif ask.topic == "grade":
        answer, options = value.grade, finding.grades
    else:
        answer = value.text
    return _record(row, ask, split, question, answer, options, tuple(aliases))


def _question(ask: Ask, finding: Finding, wording: str) -> str:
    if ask.topic == "presence":
        return say.fill(phrases.PRESENCE[finding.of][0], finding, wording)
    if ask.topic == "side":
        return say.fill(phrases.SIDE[finding.of][0], finding, wording)
    if ask.topic == "grade":
        return say.grade_question(phrases.GRADE[0], finding, wording)
    return finding.question or say.fill(phrases.TEXT[0], finding, wording)


def _seen(row: Labelled, columns: Columns, split: str) -> VQASample | None:
    """An open question only where something is there: "nothing" has too many wordings."""
    there = [
        say.phrase(columns.findings[name], columns.findings[name].wording, value)
        for name, value in row.values.items()
        if value.present and not value.text
    ]
    if not there:
        return None
    return _record(row, Ask("seen"), split, phrases.SEEN[0], say.listing(there))


def _record(
    row: Labelled,
    ask: Ask,
    split: str,
    question: str,
    answer: str,
    options: tuple[str, ...] = (),
    aliases: tuple[str, ...] = (),
) -> VQASample:
    value = row.values.get(ask.finding)
    categories = {
        "kind": ask.topic,
        "finding": ask.finding,
        "side": value.side if value else "",
        "modality": row.modality,
        "view": row.view,
    }
    kind = "closed" if options else "open"
    return VQASample(
        id="/".join(filter(None, [row.image.id, ask.finding, ask.topic])),
        image=row.image.id,
        question=question,
        answer=answer,
        kind="closed" if options else "open",
        options=options,
        answer_type=kind.upper(),
        split=split,
        categories={name: text for name, text in categories.items() if text},
        aliases=aliases,
    )


def _of_report(found: report.Report, row: Labelled, split: str) -> Iterator[VQASample]:
    """Open questions: the impression, and what the report says of each part of the body."""
    told = [("impression", phrases.REPORT_IMPRESSION[0], found.impression)]
    for topic, sentences in report.by_topic(found.sentences).items():
        told.append((topic, phrases.REPORT_TOPIC[0].format(topic=topic), sentences))
    for topic, question, sentences in told:
        if not sentences:
            continue
        categories = {"kind": "report", "finding": topic, "modality": row.modality}
        yield VQASample(
            id=f"{row.image.id}/report/{topic.replace(' ', '-')}",
            image=row.image.id,
            question=question,
            answer=" ".join(sentences),
            kind="open",
            answer_type="OPEN",
            split=split,
            categories={name: text for name, text in categories.items() if text},
        )

"""Pictures with the questions asked about them, and pairs with their judge: spread evenly by id.

Nothing is picked for its quality: every k-th picture and every k-th pair is shown.
"""

from __future__ import annotations

import base64
import io
from collections import defaultdict
from collections.abc import Iterable, Sequence
from statistics import fmean
from typing import Any, NamedTuple, TypeVar

from stllava.records import Draw, Image, Preference, Question, Verdict
from stllava.report.load import Reader

T = TypeVar("T")

NUM_PICTURES = 8
NUM_PAIRS = 6
MAX_QUESTIONS = 4  # shown of one picture
MAX_SIDE = 320  # pixels of an embedded picture
MAX_CHARS = 600  # of a text from a model


class Asked(NamedTuple):
    """A picture and what the model asked about it."""

    image: str
    uri: str | None  # None: it cannot be opened
    questions: list[str]
    num_more: int


class Said(NamedTuple):
    """One answer of a pair; `score` is the judge's mean over `num_verdicts` verdicts."""

    draw: int  # its index
    text: str
    score: float | None
    num_verdicts: int


class Pair(NamedTuple):
    image: str
    uri: str | None
    question: str
    chosen: Said
    rejected: Said
    source: str
    margin: float
    reply_about: str  # which draws the reply compares
    reply: str


def evenly(items: Sequence[T], count: int) -> list[T]:
    """`count` items, evenly spread over all."""
    if len(items) <= count:
        return list(items)
    return [items[(2 * i + 1) * len(items) // (2 * count)] for i in range(count)]


def clip(text: str) -> str:
    """Shown text: no control characters, no novels."""
    kept = "".join(c for c in text if c.isprintable() or c in "\n\t").strip()
    return kept if len(kept) <= MAX_CHARS else kept[:MAX_CHARS] + f" … ({len(kept):,} characters)"


def pictures_asked(reader: Reader) -> list[Asked]:
    """Pictures evenly spread over those with questions."""
    questions: dict[str, list[str]] = defaultdict(list)
    for question in reader.records("ask/questions.jsonl", Question):
        questions[question.image].append(question.question)
    shown = evenly(sorted(questions), NUM_PICTURES)
    uris = _uris(reader, shown)
    return [
        Asked(
            image=name,
            uri=uris.get(name),
            questions=[clip(text) for text in questions[name][:MAX_QUESTIONS]],
            num_more=max(0, len(questions[name]) - MAX_QUESTIONS),
        )
        for name in shown
    ]


def pairs(reader: Reader) -> list[Pair]:
    """Preferences evenly spread over all, with what the judge said about them."""
    shown = evenly(list(reader.records("prefer/preferences.jsonl", Preference)), NUM_PAIRS)
    wanted = {preference.answers_id for preference in shown}
    verdicts: dict[str, list[Verdict]] = defaultdict(list)
    if wanted:
        for verdict in reader.records("judge/verdicts.jsonl", Verdict):
            if verdict.answers_id in wanted and verdict.view == "image":
                verdicts[verdict.answers_id].append(verdict)
    uris = _uris(reader, {preference.image for preference in shown})
    return [_pair(p, verdicts[p.answers_id], uris.get(p.image)) for p in shown]


def _pair(preference: Preference, verdicts: Sequence[Verdict], uri: str | None) -> Pair:
    chosen, rejected = preference.chosen, preference.rejected
    both = {chosen.index, rejected.index}
    first = next((v for v in verdicts if v.reply and both == set(v.pair)), None)
    about = f"draw {first.order[0]} first, then draw {first.order[1]}" if first else ""
    return Pair(
        image=preference.image,
        uri=uri,
        question=clip(preference.question),
        chosen=_said(chosen, verdicts),
        rejected=_said(rejected, verdicts),
        source=preference.source,
        margin=preference.margin,
        reply_about=about,
        reply=clip(first.reply) if first else "",
    )


def _said(draw: Draw, verdicts: Iterable[Verdict]) -> Said:
    scores = [
        verdict.scores[verdict.pair.index(draw.index)]
        for verdict in verdicts
        if verdict.scores is not None and draw.index in verdict.pair
    ]
    mean = fmean(scores) if scores else None
    return Said(draw.index, clip(draw.text) or "(empty)", mean, len(scores))


def _uris(reader: Reader, names: Iterable[str]) -> dict[str, str]:
    """Image id to data URI, for those of `names` that can be opened."""
    wanted = set(names)
    if not wanted:
        return {}
    images = {i.id: i for i in reader.records("prepare/images.jsonl", Image) if i.id in wanted}
    opened = {name: reader.picture(image) for name, image in images.items()}
    return {name: _uri(picture) for name, picture in opened.items() if picture is not None}


def _uri(picture: Any) -> str:
    """A small copy: PNG where the original is small, so that drawn pictures stay exact."""
    is_small = max(picture.size) <= MAX_SIDE
    picture.thumbnail((MAX_SIDE, MAX_SIDE))
    buffer = io.BytesIO()
    if is_small:
        picture.save(buffer, "PNG", optimize=True)
    else:
        picture.save(buffer, "JPEG", quality=82)
    kind = "png" if is_small else "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"

"""The expert's review sheet: pairs of answers as a CSV file that any spreadsheet opens.

Blinded: no model, no judge, no score, no file name; which answer stands under A is decided by a
hash of the pair. A cell that a spreadsheet would compute or turn into a date gets an apostrophe in
front, which reading takes off again.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping

from stllava.judging.pairing import Pair, normalise, unanswerable
from stllava.records import Answers, Record

COLUMNS = (
    "id", "image", "question", "answer A", "answer B", "choice", "note", "edited answer",
)  # fmt: skip
CHOICES = ("A", "B", "tie", "both_bad", "cannot_judge")
BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"  # without it Excel takes UTF-8 for the local code page

_MONTH = "jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec"
_COMPUTED = re.compile(
    r"\s*[=+\-@＝＋－＠]|[\t\r\n]|"  # formulas, also in full width
    rf"(?=.{{1,20}}$)\s*(?:[\d.,(]|(?:{_MONTH})\w*[ .-]*\d|(?:true|false)\s*$)",  # numbers, dates
    re.IGNORECASE,
)


class Shown(Record):
    """One row as it was handed out: what an expert's choice of A or B means."""

    id: str  # hash of image, question and both texts: it names nothing
    answers_id: str
    image: str
    question: str
    order: Pair  # indices into Answers.draws of A and of B
    texts: tuple[str, str]  # of A and of B

    @property
    def pair(self) -> Pair:
        return min(self.order), max(self.order)


def shown_pairs(items: Iterable[tuple[Answers, Pair]], seed: int) -> Iterator[Shown]:
    """Rows of pairs that can be compared: both answers ended, and they differ."""
    for answers, (i, j) in items:
        draws = {draw.index: draw for draw in answers.draws}
        first, second = draws[min(i, j)], draws[max(i, j)]
        if unanswerable(first, second) or normalise(first.text) == normalise(second.text):
            continue
        row_id = row_id_of(answers, (i, j))
        a, b = (second, first) if _coin(seed, row_id) else (first, second)
        yield Shown(
            id=row_id,
            answers_id=answers.id,
            image=answers.image,
            question=answers.question,
            order=(a.index, b.index),
            texts=(a.text, b.text),
        )


def row_id_of(answers: Answers, pair: Pair) -> str:
    """Of the pair in either order; another text makes another id."""
    texts = {draw.index: draw.text for draw in answers.draws}
    shown = [[index, texts[index]] for index in sorted(pair)]
    identity = json.dumps([answers.id, answers.image, answers.question, shown])
    return f"pair-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"  # never read as a number


def image_name(image_id: str) -> str:
    """A file name that says nothing about the image or its source."""
    return f"image-{hashlib.sha256(image_id.encode()).hexdigest()[:12]}.png"


def sheet_text(rows: Iterable[Shown], links: Mapping[str, str]) -> str:
    """The sheet as CSV text with its byte order mark; `links`: file of each image id."""
    text = io.StringIO(newline="")
    text.write(BOM)
    writer = csv.writer(text)
    writer.writerow(COLUMNS)
    for row in rows:
        cells = (row.id, links[row.image], row.question, *row.texts, "", "", "")
        writer.writerow([escaped(visible(cell)) for cell in cells])
    return text.getvalue()


def visible(text: str) -> str:
    """Without control, bidirectional and zero-width characters, which could hide words."""
    kept = (c for c in text if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"})
    return "".join(kept)


def escaped(cell: str) -> str:
    """The cell as text, whatever a spreadsheet would make of it."""
    return f"'{cell}" if _is_computed(cell) else cell


def unescaped(cell: str) -> str:
    """The text of a cell; also right where the spreadsheet took the apostrophe off itself."""
    return cell[1:] if cell.startswith("'") and _is_computed(cell[1:]) else cell


def _is_computed(cell: str) -> bool:
    return _COMPUTED.match(cell.lstrip("'")) is not None


def _coin(seed: int, row_id: str) -> bool:
    return hashlib.sha256(f"{seed}\0{row_id}".encode()).digest()[0] % 2 == 1

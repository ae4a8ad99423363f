"""A review sheet read back, as spreadsheets leave it: other delimiters, order, columns, encoding.

Nothing is guessed: an unknown id, a changed question or answer, or an odd choice is one line that
names the row, and then nothing of the sheet is taken.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from stllava.errors import DataError
from stllava.files import utc_now
from stllava.judging.experts.sheet import BOM, CHOICES, COLUMNS, Shown, unescaped, visible
from stllava.judging.pairing import normalise
from stllava.records import Verdict, VerdictState

REQUIRED = COLUMNS[:1] + COLUMNS[2:6]  # without link, note and edited answer
DELIMITERS = (",", ";", "\t")  # earlier ones win a tie
EXPERT = re.compile(r"[^\W_][\w .-]{0,63}")


class Row(NamedTuple):
    """A row of the sheet; `number` as the spreadsheet counts, 1 being the line of names."""

    number: int
    cells: dict[str, str]  # by our names of the columns


class SheetVotes(NamedTuple):
    """One verdict per pair with a choice, in order of the sheet."""

    votes: list[Verdict]
    repeated: int  # rows of a pair whose later row has another note; the later note counts


def read_votes(
    path: Path, shown: Mapping[str, Shown], expert: str, *, clock: Callable[[], str] = utc_now
) -> SheetVotes:
    """The votes of a sheet; `shown` by row id.

    Raises DataError for what cannot be read or does not belong to `shown`.
    """
    if not EXPERT.fullmatch(expert):
        raise DataError(f"--expert {expert!r}: use letters, digits, blanks and . _ - only")
    votes: dict[str, Verdict] = {}
    repeated = 0
    for row in read_rows(path):
        row_id = row.cells["id"].strip()
        where = f"{path}: row {row.number}"
        if not row_id and not any(cell.strip() for cell in row.cells.values()):
            continue
        if row_id not in shown:
            raise DataError(f"{where}: unknown id {row_id!r}; it was not exported from this run")
        _check_unchanged(row, shown[row_id], where)
        vote = _vote(row, shown[row_id], expert, where, clock)
        if vote is None:
            continue
        before = votes.get(row_id, vote)
        if _choice_of(before) != _choice_of(vote):
            raise DataError(f"{where}: {row_id} again, with another choice; keep one of the rows")
        repeated += before.reply != vote.reply
        votes[row_id] = vote
    return SheetVotes(list(votes.values()), repeated)


def read_rows(path: Path) -> Iterator[Row]:
    """Rows of a sheet; columns in any order, further ones ignored, cells that miss are empty."""
    text = _text(path)
    if text.startswith("sep="):  # Excel's own hint
        text = text.partition("\n")[2]
    first = text.partition("\n")[0]
    delimiter = max(DELIMITERS, key=lambda sign: len(_names([first], sign) & set(COLUMNS)))
    try:
        lines = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
    except csv.Error as error:
        raise DataError(f"{path}: not a table ({error}); save it as CSV UTF-8") from None
    header = [_name(cell) for cell in lines[0]] if lines else []
    for name in REQUIRED:
        if header.count(name) != 1:
            problem = "is there twice" if name in header else "is missing"
            raise DataError(f"{path}: column {name!r} {problem}; it needs {', '.join(REQUIRED)}")
    for number, cells in enumerate(lines[1:], start=2):
        padded = [*cells, *[""] * (len(header) - len(cells))]
        found = dict.fromkeys(COLUMNS, "")
        found |= {n: c for n, c in zip(header, padded, strict=False) if n in COLUMNS}
        yield Row(number, found)


def vote_id(row_id: str, judge: str) -> str:
    """Of one expert's vote on one pair; a changed vote keeps it."""
    return hashlib.sha256(f"{row_id}\0{judge}".encode()).hexdigest()[:16]


def _vote(
    row: Row, shown: Shown, expert: str, where: str, clock: Callable[[], str]
) -> Verdict | None:
    edited = unescaped(row.cells["edited answer"].strip())
    if normalise(edited) in map(normalise, shown.texts):
        edited = ""  # copied and left as it was
    choice = _choice(row.cells["choice"], where)
    if choice is None or (choice == "cannot_judge" and edited):
        if edited:
            raise DataError(f"{where}: an edited answer needs a choice of {', '.join(CHOICES[:4])}")
        return None
    state: VerdictState = "ok"
    outcome: dict[str, Any] = {"reason": "the expert's choice"}
    if choice in ("A", "B"):
        outcome = {"winner": shown.order[choice == "B"]}
    elif choice == "tie":
        state = "tie"
    else:
        state = "both_bad" if choice == "both_bad" else "cannot_judge"
    judge = f"expert:{expert}"
    return Verdict(
        id=vote_id(shown.id, judge),
        answers_id=shown.answers_id,
        pair=shown.pair,
        order=shown.order,
        judge=judge,
        state=state,
        reply=unescaped(row.cells["note"].strip()),
        edited=edited,
        time=clock(),
        **outcome,
    )


def _choice_of(vote: Verdict) -> tuple[object, ...]:
    return vote.state, vote.winner, vote.edited


def _choice(cell: str, where: str) -> str | None:
    """The choice meant, None for an empty cell: "Both bad." is both_bad, "a" is A."""
    said = re.sub(r"[\s_-]+", "_", cell.strip().lower().replace("'", "")).strip("_.!")
    if not said:
        return None
    said = {"cant_judge": "cannot_judge", "can_not_judge": "cannot_judge"}.get(said, said)
    for choice in CHOICES:
        if said == choice.lower():
            return choice
    raise DataError(f"{where}: choice {cell.strip()[:40]!r} is none of {', '.join(CHOICES)}")


def _check_unchanged(row: Row, shown: Shown, where: str) -> None:
    texts = (shown.question, *shown.texts)
    for name, text in zip(("question", "answer A", "answer B"), texts, strict=True):
        if _plain(unescaped(row.cells[name])) != _plain(text):
            remedy = "a better answer goes into 'edited answer'" if "answer" in name else "undo it"
            raise DataError(f"{where}: the text under {name!r} was changed; {remedy}")


def _plain(text: str) -> str:
    """What is compared: spreadsheets change line ends and blanks."""
    return " ".join(visible(text).split())


def _text(path: Path) -> str:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    is_utf16 = data[:2] in (b"\xff\xfe", b"\xfe\xff")
    # Excel's plain "CSV" is in the local code page.
    encodings = ["utf-16"] if is_utf16 else ["utf-8", "cp1252"]
    for encoding in encodings:
        try:
            return data.decode(encoding).removeprefix(BOM)
        except UnicodeDecodeError:
            continue
    raise DataError(f"{path}: not text; save the sheet as CSV UTF-8")


def _names(lines: list[str], delimiter: str) -> set[str]:
    try:
        return {_name(cell) for cell in next(csv.reader(lines, delimiter=delimiter), [])}
    except csv.Error:
        return set()


def _name(cell: str) -> str:
    """Our name of a column, whatever was done to its letters: "Answer_a" is "answer A"."""
    said = " ".join(re.sub(r"[_\s]+", " ", cell).split()).lower()
    return next((name for name in COLUMNS if name.lower() == said), said)

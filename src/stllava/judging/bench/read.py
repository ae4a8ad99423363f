"""Where a bench's pairs come from: known answers of a run, or a file of pairs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from stllava.errors import DataError
from stllava.images import resolve
from stllava.judging.bench.pairs import BenchPair, balanced_in_position
from stllava.judging.bench.wrong import Known
from stllava.reading.table import read_rows
from stllava.records import Conversation, JSONObject

FIELDS = ("image", "question", "answer_1", "answer_2", "preferred")
_FIRST, _SECOND = ("1", "a", "answer_1", "answer1"), ("2", "b", "answer_2", "answer2")
_NEITHER = ("", "0", "tie", "none", "both", "c")


class PairFile(NamedTuple):
    """Pairs that others labelled. `images`: id -> file."""

    pairs: list[BenchPair]
    images: dict[str, Path]
    num_ties: int  # rows without a preferred answer, left out


def known_answers(conversations: Iterable[Conversation], groups: Mapping[str, str]) -> list[Known]:
    """Every answered turn of instruction data; `groups`: image id -> patient or case."""
    return [
        Known(
            id=f"{conversation.id}/t{number}",
            image=conversation.image,
            group=groups.get(conversation.image, conversation.image),
            question=turn.question,
            answer=turn.answer,
        )
        for conversation in conversations
        for number, turn in enumerate(conversation.turns)
        if turn.answer and turn.answer.strip()
    ]


def read_pair_file(path: Path, root: Path | None = None) -> PairFile:
    """A judge benchmark: JSON lines (or any table) of image, question, answer_1, answer_2 and
    preferred (1, 2, A, B; a tie is left out), `category` and `group` where there are any.

    Images are relative to `root`, or to the file's folder. Which answer is shown first is balanced
    anew. Raises DataError for a row that does not fit or an image that is not there.
    """
    folder = root or path.parent
    pairs, images, num_ties = [], {}, 0
    for number, entry in enumerate(read_rows(path)):
        row = entry.value if isinstance(entry.value, dict) else {}
        missing = [name for name in FIELDS if name not in row]
        if entry.problem or missing:
            raise DataError(f"{entry.place}: {entry.problem or f'no {missing[0]} in it'}")
        preferred = str(row["preferred"] if row["preferred"] is not None else "").strip().lower()
        if preferred in _NEITHER:
            num_ties += 1
            continue
        if preferred not in _FIRST + _SECOND:
            raise DataError(f"{entry.place}: preferred is {preferred[:40]!r}; write 1, 2 or tie")
        pair = _pair(number, row, first_is_true=preferred in _FIRST)
        images[pair.image] = resolve(folder, str(row["image"]))
        if not images[pair.image].is_file():
            raise DataError(f"{entry.place}: {images[pair.image]}: no such image; name its folder")
        pairs.append(pair)
    return PairFile(balanced_in_position(pairs), images, num_ties)


def _pair(number: int, row: JSONObject, *, first_is_true: bool) -> BenchPair:
    first, second = str(row["answer_1"]), str(row["answer_2"])
    image = f"bench-file/{row['image']}"  # may be called as one of the run's own
    return BenchPair(
        id=f"bench-file/{row.get('id', number)}",
        image=image,
        group=str(row.get("group") or image),
        question=str(row["question"]),
        true=first if first_is_true else second,
        wrong=second if first_is_true else first,
        category=str(row.get("category") or "given"),
        true_first=True,
    )

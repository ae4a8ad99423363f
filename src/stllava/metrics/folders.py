"""Evaluation folders on disk: items.jsonl and scores.json, written by eval and by score."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from stllava.errors import DataError, RunError
from stllava.files import disk_errors, read_json, read_records, write_json, write_text
from stllava.records import Item, JSONObject

ITEMS, SCORES = "items.jsonl", "scores.json"
NUM_SHOWN = 3  # ids in a message


class Scored(NamedTuple):
    """One evaluation of one model on one benchmark."""

    folder: Path
    items: list[Item]
    scores: JSONObject


def write_scored(folder: Path, items: Iterable[Item], scores: JSONObject) -> None:
    """Write both files; an earlier score in the folder is replaced."""
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(folder / ITEMS, "".join(item.model_dump_json() + "\n" for item in items))
        write_json(folder / SCORES, scores)


def read_scored(folder: Path) -> Scored:
    """Read an evaluation; one from before modes were written counts as corrected."""
    items = list(read_records(folder / ITEMS, Item))
    if not items:
        raise DataError(f"{folder / ITEMS}: no question in it; evaluate again")
    scores = read_json(folder / SCORES) if (folder / SCORES).is_file() else {}
    return Scored(folder, items, scores)


def paired_folders(a: Path, b: Path) -> tuple[dict[str, tuple[Path, Path]], list[str]]:
    """Evaluations below both folders, by their path below them; and those on one side only.

    `a` and `b` are evaluations themselves, or any folders above several: two runs, or
    eval/MODEL of one or two runs.
    """
    below_a, below_b = _evaluations(a), _evaluations(b)
    common = {name: (below_a[name], below_b[name]) for name in below_a if name in below_b}
    if not common and len(below_a) == len(below_b) == 1 and "" in {*below_a, *below_b}:
        common = {"": (next(iter(below_a.values())), next(iter(below_b.values())))}
        return common, []
    if not common:
        raise DataError(
            f"{a} and {b} have no evaluation in common "
            f"({_examples(below_a)} against {_examples(below_b)}); name two evaluations directly"
        )
    return common, sorted(below_a.keys() ^ below_b.keys())


def _evaluations(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; name one that eval or score has written")
    found = sorted(path.parent for path in folder.rglob(ITEMS) if "superseded" not in path.parts)
    if not found:
        raise RunError(f"{folder}: no {ITEMS} in it; run `stllava eval` or `stllava score --out`")
    if folder in found:
        return {"": folder}
    return {path.relative_to(folder).as_posix(): path for path in found}


def difference(a: Scored, b: Scored) -> str:
    """Why two evaluations cannot be compared as they are, in one line; "" if they can."""
    modes = [scored.scores.get("mode", "corrected") for scored in (a, b)]
    if modes[0] != modes[1]:
        return f"scored by different modes: {modes[0]} and {modes[1]}"
    ids_a, ids_b = ({item.id for item in scored.items} for scored in (a, b))
    if ids_a != ids_b:
        return (
            f"different questions: {len(ids_a & ids_b)} in both, {len(ids_a - ids_b)} only in "
            f"{a.folder} ({_examples(ids_a - ids_b)}), {len(ids_b - ids_a)} only in {b.folder} "
            f"({_examples(ids_b - ids_a)})"
        )
    kinds = {item.id: item.kind for item in a.items}
    if any(kinds[item.id] != item.kind for item in b.items):
        return "a question is open in one and closed in the other"
    prints = {scored.scores.get("questions_sha256") for scored in (a, b)} - {None}
    return "equal ids, but other questions or reference answers" if len(prints) > 1 else ""


def _examples(names: Iterable[str]) -> str:
    names = sorted(names)
    shown = ", ".join(name or "." for name in names[:NUM_SHOWN])
    return f"{shown}, …" if len(names) > NUM_SHOWN else shown or "none"

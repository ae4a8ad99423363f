"""Review by an expert: pairs out as a sheet with images, votes back into review/verdicts.jsonl.

Votes lie beside the judge's verdicts and never change them. `prefer` puts them in their place, and
is stale as soon as they change.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple, TypeVar

from stllava.errors import RunError
from stllava.files import disk_errors, read_records, utc_now, write_text
from stllava.judging.experts.reading import read_rows, read_votes
from stllava.judging.experts.sheet import Shown, image_name, sheet_text, shown_pairs
from stllava.judging.experts.votes import current_votes
from stllava.judging.pairing import Pair, pairs
from stllava.pipeline.job import Job
from stllava.records import Answers, Record, ReviewItem, Verdict
from stllava.run import Run

FOLDER, SHEET, PAIRS, VOTES = "review", "sheet.csv", "pairs.jsonl", "verdicts.jsonl"
IMAGES = "images"

R = TypeVar("R", bound=Record)


class Exported(NamedTuple):
    """Where the sheet is, and how much is in it."""

    path: Path
    pairs: int
    images: int


class Imported(NamedTuple):
    """What a sheet brought: votes that are new, differ from before, or were there already."""

    new: int
    changed: int
    same: int
    states: dict[str, int]  # of all votes in the sheet
    repeated: int  # rows whose pair has a later row with another note, which counts


def folder_of(job: Job) -> Path:
    return job.run.path / FOLDER


def export_sheet(
    job: Job, out: Path | None = None, *, every: bool = False, unvoted: bool = False
) -> Exported:
    """Write the sheet and its images. Pairs: the queue of `prefer`, else (or if `every`) all.

    `unvoted` leaves out what any expert has voted on. Raises RunError if there is nothing to
    review, or if the file exists with choices in it.
    """
    folder = folder_of(job)
    out = out or folder / SHEET
    _refuse_filled(out)
    rows = list(shown_pairs(_queue(job, every), job.recipe.seed))
    if unvoted:
        answers = read_records(job.file("answer", "answers.jsonl"), Answers)
        current, _ = current_votes(answers, _read(folder / VOTES, Verdict))
        done = {(vote.answers_id, vote.pair) for vote in current}
        rows = [row for row in rows if (row.answers_id, row.pair) not in done]
    if not rows:
        raise RunError(f"{job.run.path}: no pair to review; see prefer.review, or give --all")
    names = {row.image: image_name(row.image) for row in rows}
    with Run(folder), disk_errors(folder):
        (out.parent / IMAGES).mkdir(parents=True, exist_ok=True)
        for image, name in names.items():
            if not (file := out.parent / IMAGES / name).is_file():
                _copy_image(job, image, file)
        known = {row.id: row for row in _read(folder / PAIRS, Shown)}
        _write(folder / PAIRS, {**known, **{row.id: row for row in rows}}.values())
        links = {image: f"{IMAGES}/{name}" for image, name in names.items()}
        write_text(out, sheet_text(rows, links))
    return Exported(out, len(rows), len(names))


def import_sheet(
    job: Job, path: Path, expert: str, *, clock: Callable[[], str] = utc_now
) -> Imported:
    """Add a sheet's votes; the same sheet again changes nothing, a changed vote is added behind.

    All of a sheet is taken or nothing. Raises DataError naming the row.
    """
    folder = folder_of(job)
    shown = {row.id: row for row in _read(folder / PAIRS, Shown)}
    if not shown:
        raise RunError(f"{folder}: nothing was exported; run `stllava review export` first")
    said, repeated = read_votes(path, shown, expert, clock=clock)
    with Run(folder), disk_errors(folder):
        before = list(_read(folder / VOTES, Verdict))
        last = {vote.id: vote for vote in before}
        new = [vote for vote in said if vote.id not in last]
        changed = [v for v in said if v.id in last and not _is_same(v, last[v.id])]
        if new or changed:
            _write(folder / VOTES, [*before, *new, *changed])
    states: dict[str, int] = dict(Counter(str(vote.state) for vote in said))
    same = len(said) - len(new) - len(changed)
    return Imported(len(new), len(changed), same, states, repeated)


def votes(job: Job) -> list[Verdict]:
    """All votes that bear on this job's preferences; the last of an id counts."""
    return [vote for file in voted(job) for vote in read_records(file, Verdict)]


def voted(job: Job) -> list[Path]:
    """The file of those votes, if there is one: an input of `prefer`.

    A control with a judge of its own is there to show what that judge does: no votes. Raises
    RunError where the expert is the only judge and has not voted yet.
    """
    file = folder_of(job) / VOTES
    if file.is_file():
        has_own_judge = job.control is not None and "judge" in job.own
        return [] if has_own_judge else [file]
    if job.recipe.judge.kind == "expert":
        run = job.run.path
        raise RunError(
            f"{run}: the expert has not voted yet: `stllava review export {run}`, fill in the "
            f"sheet, `stllava review import {run} SHEET --expert NAME`, then repeat the command"
        )
    return []


def _queue(job: Job, every: bool) -> Iterator[tuple[Answers, Pair]]:
    answers = read_records(job.file("answer", "answers.jsonl"), Answers)
    file = job.stage("prefer").path / "review.jsonl"
    if every or job.recipe.judge.kind == "expert" or not file.is_file():
        for item in answers:
            yield from ((item, pair) for pair in pairs(item, job.recipe.judge.pairing))
        return
    known = {item.id: item for item in answers}
    for asked in read_records(file, ReviewItem):
        if asked.answers_id in known:
            yield known[asked.answers_id], asked.pair


def _copy_image(job: Job, image: str, file: Path) -> None:
    """The 8-bit picture that models see, pixels only."""
    picture = job.open_image(image).copy()
    picture.info = {}
    temporary = file.with_suffix(".part")
    picture.save(temporary, format="PNG")
    temporary.replace(file)


def _refuse_filled(path: Path) -> None:
    if path.is_file() and any(row.cells["choice"].strip() for row in read_rows(path)):
        raise RunError(f"{path}: has choices in it; import it, or write to another file with --out")


def _is_same(one: Verdict, other: Verdict) -> bool:
    return one.model_copy(update={"time": other.time}) == other


def _read(path: Path, kind: type[R]) -> list[R]:
    return list(read_records(path, kind)) if path.is_file() else []


def _write(path: Path, records: Iterable[Record]) -> None:
    """Replace the file in one step, so that a kill loses no vote."""
    lines = (record.model_dump_json(exclude_defaults=True) + "\n" for record in records)
    write_text(path, "".join(lines))

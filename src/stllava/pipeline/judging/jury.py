"""A jury as the judge of a stage: its members take turns, and their votes are kept.

judge/votes.jsonl holds every member's verdicts, judge/verdicts.jsonl one verdict per pair.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path

from stllava.config import JurorSection
from stllava.errors import JudgeError, StllavaError
from stllava.files import read_records
from stllava.judging.jury.turns import JuryJudge, Member, Views
from stllava.judging.protocol import Judge
from stllava.pipeline.job import Job
from stllava.pipeline.judging import verdicts as written
from stllava.pipeline.judging.judges import judge_name, members
from stllava.records import Verdict
from stllava.stage import Stage

VOTES = "votes.jsonl"
Turn = Callable[[Job], AbstractContextManager[Views]]

_OWN_FIELD = re.compile(rf"\bjudge\.(?=({'|'.join(JurorSection.model_fields)})\b)")


def jury(job: Job, stage: Stage, *, before: Sequence[Callable[[Job], None]], turn: Turn) -> Judge:
    """The jury; votes go to `stage`.

    Every step of `before` is taken for all members, then the next one, then they may be asked.
    Raises JudgeError, as the turns do, which names the member.
    """
    alone = members(job)
    seats = [
        Member(_judge_name(name, own), partial(_turn, stage, name, own, turn))
        for name, own in alone.items()
    ]
    found = JuryJudge(
        seats,
        rule=job.recipe.judge.jury_rule,
        blank=partial(written.blank_sample, job),
        votes=votes(stage.path),
        keep=lambda verdict: stage.append(VOTES, verdict),
    )
    for step in before:
        for name, own in alone.items():
            with _named(name):
                step(own)
    return found


def votes(folder: Path) -> Iterator[Verdict]:
    """What members have said so far; a vote that was asked for again is there twice."""
    if (folder / VOTES).is_file():
        yield from read_records(folder / VOTES, Verdict)


def vote_states(job: Job, stage: Stage) -> dict[str, dict[str, int]]:
    """Name of each member -> how often each state occurs among its votes with the image."""
    names = {judge_name(own): name for name, own in members(job).items()}
    last = {v.id: (names[v.judge], v.state) for v in votes(stage.path) if v.view == "image"}
    found: dict[str, Counter[str]] = {name: Counter() for name in names.values()}
    for name, state in last.values():
        found[name][state] += 1
    return {name: dict(states) for name, states in found.items()}


def _judge_name(name: str, own: Job) -> str:
    with _named(name):
        return judge_name(own)


@contextmanager
def _turn(stage: Stage, name: str, own: Job, turn: Turn) -> Iterator[Views]:
    own.reporter.note(f"jury: {name}'s turn")
    try:
        with _named(name), turn(own) as views:
            yield views
    finally:
        stage.flush()  # the votes of a turn outlast what happens in the next one


@contextmanager
def _named(name: str) -> Iterator[None]:
    """What goes wrong inside is that member's; its fields are called as the recipe calls them."""
    try:
        yield
    except StllavaError as error:
        said = _OWN_FIELD.sub(f"judge.jury.{name}.", str(error))
        raise JudgeError(f"judge.jury.{name}: {said}") from error

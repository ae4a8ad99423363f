"""judge: pairs of answers get verdicts, whoever judges."""

from __future__ import annotations

import math
import time
from collections.abc import Container, Generator, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, nullcontext

from stllava.errors import JudgeError
from stllava.files import read_records
from stllava.judging.calls.budget import Plan, caps
from stllava.judging.calls.ledger import Ledger
from stllava.judging.jury.turns import Views
from stllava.judging.pairing import Pair, pairs
from stllava.pipeline.job import Job
from stllava.pipeline.judging import calls, judges
from stllava.pipeline.judging import verdicts as written
from stllava.pipeline.judging.account import account
from stllava.pipeline.judging.asking import (
    is_paid,
    opened_judge,
    planned_calls,
    settings_of,
)
from stllava.pipeline.judging.bench import require_competence
from stllava.pipeline.judging.judges import members
from stllava.pipeline.judging.jury import VOTES, vote_states
from stllava.records import Answers, Verdict
from stllava.stage import Stage

FLUSH_S = 2.0  # paid replies are on disk at the latest after so many seconds


def judge(job: Job) -> None:
    """Write verdicts.jsonl, record by record; what is there is not asked for again."""
    stage = job.stage("judge")
    inputs = [job.file("answer", "answers.jsonl"), *judges.inputs(job)]
    if stage.complete and not (stage.path / "verdicts.jsonl").is_file():
        (stage.path / "stage.json").unlink()  # they were deleted; the ledger has them
    if not stage.begin(inputs=inputs, settings=settings_of(job), by_id=True):
        return
    require_competence(job)
    stage.create("verdicts.jsonl")
    done = calls.drop_passing(stage.path / "verdicts.jsonl")
    num_pairs = sum(1 for _ in _items(job))
    num_blank = sum(1 for _ in written.blank_sample(job, _items(job)))
    total = (num_pairs + num_blank) * _replies_per_pair(job)
    with ExitStack() as stack:
        votes = stack.enter_context(closing(job.stage("judge")))
        views = None if _is_expert(job) else stack.enter_context(_opened(job, votes, done))
        job.reporter.stage("judge", total)
        # Closed before the ledger is: what calls in flight cost is kept.
        verdicts = stack.enter_context(closing(_verdicts(job, views, done)))
        _write_verdicts(job, stage, verdicts, len(done), total)
    states, cost_usd = written.states(stage)
    every = states["image"] + states["blank"]
    if stopped := every.get("budget_stopped"):
        raise JudgeError(
            f"{stage.path}: the budget is used up, {stopped} of {total} verdicts are missing; "
            f"raise {caps(job.recipe.judge)} and repeat the command"
        )
    if failed := every.get("transport_failed"):
        _accept_failures(job, failed, total)
    more = {**written.summary(job, stage), **account(job, stage)}
    if job.recipe.judge.jury:
        more["votes"] = vote_states(job, stage)
    seen = states["image"]
    stage.finish(
        pairs=num_pairs, verdicts=seen.total(), states=dict(seen), cost_usd=cost_usd, **more
    )


def _accept_failures(job: Job, failed: int, total: int) -> None:
    """A few calls may get no reply; many are an outage. Raises JudgeError: the stage stays open."""
    if failed <= job.recipe.judge.max_failed * total:
        job.reporter.note(f"{failed} calls failed; --redo asks for these again, no others")
        return
    raise JudgeError(
        f"{job.stage('judge').path}: {failed} of {total} verdicts are missing, for their calls got "
        "no reply; repeat the command to ask for them again, or accept it with --set "
        f"judge.max_failed={math.ceil(100 * failed / total) / 100:g}"
    )


def plan(job: Job, book: Ledger | None, done: Container[str] = ()) -> Plan:
    """What the stage would still send, and what that would cost."""
    return planned_calls(job, book, lambda: _items(job), done)


def estimate(job: Job) -> Sequence[str]:
    """What the stage would send and cost, in words. Raises JudgeError for judges that cost nothing.

    Reads the ledger and the verdicts that are there; sends and writes nothing. Of a jury it says
    which members are free.
    """
    if job.recipe.judge.jury:
        found = []
        for name, own in members(job).items():
            kind = own.recipe.judge.kind
            lines = _estimated(own, VOTES) if is_paid(own) else [f"free, the kind is {kind}"]
            found += [f"{name}: {line}" for line in lines]
        return found
    if not is_paid(job):
        raise JudgeError(
            f"judge.kind: {job.recipe.judge.kind} asks nobody; there is nothing to pay"
        )
    return _estimated(job, "verdicts.jsonl")


def _estimated(job: Job, file: str) -> Sequence[str]:
    """`file` holds what this judge has said already."""
    job.file("answer", "answers.jsonl")
    book = calls.open_ledger(job) if calls.ledger_path(job).is_file() else None
    with book or nullcontext():
        planned = plan(job, book, calls.standing(job.stage("judge").path / file))
        return calls.as_billed(job, planned).lines()


def _opened(job: Job, votes: Stage, done: Container[str]) -> AbstractContextManager[Views]:
    return opened_judge(job, lambda: _items(job), stage=votes, done=done)


def _is_expert(job: Job) -> bool:
    """Whose votes come later: see pipeline/review."""
    return job.recipe.judge.kind == "expert"


def _verdicts(
    job: Job, views: Views | None, done: Container[str]
) -> Generator[Verdict, None, None]:
    """Every pair, then a share of them again without the image."""
    if views is None:
        return
    yield from views.image.judge(_items(job), done=done)
    if views.blank is not None:
        again = written.blank_sample(job, _items(job))
        yield from views.blank.judge(again, done=done)


def _write_verdicts(
    job: Job, stage: Stage, verdicts: Iterable[Verdict], num_done: int, total: int
) -> None:
    flushed = time.monotonic()
    for number, verdict in enumerate(verdicts, start=num_done + 1):
        stage.append("verdicts.jsonl", verdict)
        if time.monotonic() - flushed > FLUSH_S:
            stage.flush()
            flushed = time.monotonic()
        job.reporter.advance(number, total)
    stage.flush()


def _items(job: Job) -> Iterator[tuple[Answers, Pair]]:
    """Every pair to judge, read as it is needed."""
    for answers in read_records(job.stage("answer").path / "answers.jsonl", Answers):
        for pair in pairs(answers, job.recipe.judge.pairing):
            yield answers, pair


def _replies_per_pair(job: Job) -> int:
    """Verdicts per pair: a rule says the same in either order, an expert is asked elsewhere, and
    a jury's votes are in another file."""
    if job.recipe.judge.jury:
        return 1
    if job.recipe.judge.kind in ("reference", "expert"):
        return int(job.recipe.judge.kind == "reference")
    return (2 if job.recipe.judge.orders == "both" else 1) * job.recipe.judge.samples

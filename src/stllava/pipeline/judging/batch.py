"""Batch mode: what is not in the ledger is handed in as files that the provider answers in hours.

The replies go into the ledger, from which the stage then takes them as it takes all others; what
did not come is asked for one by one. A stop at any point loses nothing: the provider's ids are in
the ledger, and the next start collects.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from stllava.errors import JudgeError
from stllava.generation.wire import Reply
from stllava.judging.calls.batches import Batch, Batches
from stllava.judging.calls.budget import budget
from stllava.judging.calls.ledger import Ledger
from stllava.pipeline.job import Job
from stllava.pipeline.judging import calls
from stllava.pipeline.judging.desk import FILES, Ask, Desk

if TYPE_CHECKING:
    from stllava.generation.endpoint.batch import BatchApi, BatchState

MAX_ROUNDS = 3  # what failed or expired is handed in again
GROUP = 500  # replies kept in one transaction
REPLY_BYTES = 50_000  # of one reply in a result file; on average, far more than they have


class View(NamedTuple):
    """One way of showing images, and the judge that asks about them then."""

    image_uri: calls.ImageUri
    ask: Ask


def fill(job: Job, book: Ledger, rubric: str, views: Sequence[View]) -> None:
    """Have in the ledger what the views ask for, as far as batches bring it.

    Raises JudgeError where the provider has no batches, where one failed or was cancelled, and
    where it is not done after judge.batch.wait_s.
    """
    from stllava.generation.endpoint.batch import BatchApi  # its client loads slowly

    section = job.recipe.judge
    assert section.batch is not None
    for stale in job.stage("judge").path.glob(f"{FILES}*"):
        stale.unlink()
    endpoint = calls.endpoint(job, book, rubric)
    access, price = endpoint.access, budget(section).at(section.batch.price)
    batches = Batches(book, price, access.host)
    with BatchApi(access, timeout_s=section.timeout_s, max_tries=section.max_tries) as api:
        collector = _Collection(job, api, batches)
        collector.collect(_resumed(api, batches))
        desk = Desk(job, section.batch, api, batches, book)
        for _ in range(MAX_ROUNDS):
            for view in views:
                desk.take_in(calls.endpoint(job, book, rubric, view.image_uri), view.ask)
            if not collector.collect(desk.handed_in()):
                break


def _resumed(api: BatchApi, batches: Batches) -> list[Batch]:
    """Batches of an earlier try, or of a run that shares the ledger, that are with the provider."""
    found = []
    for batch in batches.unfinished():
        if batch.batch_id is None and batch.file_id is not None:
            state = api.find(batch.file_id)  # its id may not have reached the disk
            if state is not None:
                batch = batches.handed_in(batch, file_id=batch.file_id, batch_id=state.id)
        if batch.batch_id is None:
            batches.close(batch)  # never handed in
        else:
            found.append(batch)
    return found


class _Collection:
    """Waits for batches and puts what they bring into the ledger."""

    def __init__(self, job: Job, api: BatchApi, batches: Batches) -> None:
        assert job.recipe.judge.batch is not None
        self._job, self._api, self._batches = job, api, batches
        self._section = job.recipe.judge.batch

    def collect(self, waiting: Iterable[Batch]) -> int:
        """How many replies were kept, of all batches together."""
        left = dict.fromkeys(waiting, 0)  # calls done, as the provider counts
        total, num_kept, done = sum(batch.calls for batch in left), 0, 0
        if left:
            self._job.reporter.stage("judge: batch", total)
        started = time.monotonic()
        while left:
            for batch in list(left):
                assert batch.batch_id is not None
                state = self._api.look(batch.batch_id)
                left[batch] = state.num_done
                if state.has_ended:
                    num_kept += self._take_out(batch, state)
                    done += batch.calls
                    del left[batch]
            self._job.reporter.advance(done + sum(left.values()), total)
            if left:
                self._wait(left, started)
        return num_kept

    def _wait(self, left: dict[Batch, int], started: float) -> None:
        limit_s = self._section.wait_s
        if limit_s is not None and time.monotonic() - started >= limit_s:
            batch, num_done = next(iter(left.items()))
            raise JudgeError(
                f"{batch.batch_id}: {num_done} of {batch.calls} calls are done after "
                f"{limit_s:g} s; nothing is lost, repeat the command to collect it"
            )
        time.sleep(self._section.poll_s)

    def _take_out(self, batch: Batch, state: BatchState) -> int:
        """Keep what a batch that has ended brought. Raises JudgeError unless it ended by itself."""
        num_kept = 0
        for file_id in (state.output_file_id, state.error_file_id):
            if file_id is not None:
                num_kept += self._read(batch, file_id)
        self._batches.close(batch)
        said = f"{state.id} at {self._api.access.host}"
        if state.status == "failed":
            raise JudgeError(f"{said}: failed ({state.reason}); nothing of it was charged")
        if state.status == "cancelled":
            raise JudgeError(
                f"{said}: cancelled, {num_kept} of {batch.calls} replies were kept; repeat the "
                "command to hand in the others"
            )
        self._job.reporter.note(f"{said}: {num_kept} of {batch.calls} calls were answered")
        return num_kept

    def _read(self, batch: Batch, file_id: str) -> int:
        from stllava.generation.endpoint.batch_file import lines, read_line

        file = self._job.stage("judge").path / f"{FILES}{batch.name}.part"
        num_kept, group = 0, list[tuple[str, Reply | None]]()
        try:
            self._api.download(file_id, file, 1_000_000 + REPLY_BYTES * batch.calls)
            for line in lines(file):
                if (answered := read_line(line, self._api.access.key)) is None:
                    continue
                if isinstance(answered.outcome, Reply):
                    group.append((answered.key, answered.outcome))
                elif answered.outcome.maybe_paid:
                    group.append((answered.key, None))
                if len(group) >= GROUP:
                    num_kept += self._batches.settle(batch, group)
                    group.clear()
            return num_kept + self._batches.settle(batch, group)
        finally:
            file.unlink(missing_ok=True)

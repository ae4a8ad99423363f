"""Files of calls for batches: what a judge asks and the ledger does not have is handed in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stllava.config import BatchSection
from stllava.errors import JudgeError
from stllava.files import disk_errors
from stllava.generation.asked import Asked, one_by_one
from stllava.generation.protocol import Generator, Sampling
from stllava.generation.wire import kept_fields
from stllava.judging.calls.batches import Batch, Batches
from stllava.judging.calls.ledger import Ledger
from stllava.pipeline.job import Job
from stllava.records import Draw, Request, Verdict

if TYPE_CHECKING:
    from stllava.generation.endpoint import EndpointGenerator
    from stllava.generation.endpoint.batch import BatchApi
    from stllava.generation.options import Options

FILES = "batch-"  # begins the name of a file to be handed in
GROUP = 50  # calls set aside in one transaction, with their images in memory
Ask = Callable[[Generator], Iterable[Verdict]]  # a judge that asks the generator it is given


class _Missing(NamedTuple):
    """A call that the ledger does not have."""

    asked: Asked
    sampling: Sampling


class _Line(NamedTuple):
    """A call as it is handed in."""

    asked: Asked
    text: bytes


class _Collector:
    """Stands in for the endpoint: answers from the ledger, and keeps what is not in it."""

    def __init__(self, endpoint: EndpointGenerator, book: Ledger) -> None:
        self.name = endpoint.name
        self.missing: list[_Missing] = []
        self._asker, self._book = endpoint.asker, book

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        for request, index in one_by_one(requests):
            asked = self._asker.ask(request, index, sampling)
            stored = self._book.fetch(asked.key)
            if stored is not None and stored.status != "failed":
                yield Draw(request_id=request.id, index=index, **kept_fields(stored.reply))
                continue
            self.missing.append(_Missing(asked, sampling))
            yield Draw(request_id=request.id, index=index, text="", finish="error", reason="budget")


class Desk:
    """Writes files of calls and hands them in, each as large as the provider takes."""

    def __init__(
        self, job: Job, section: BatchSection, api: BatchApi, batches: Batches, book: Ledger
    ) -> None:
        self._job, self._section, self._api = job, section, api
        self._batches, self._book = batches, book
        self._batch: Batch | None = None
        self._num_calls = self._num_bytes = 0
        self._handed_in: list[Batch] = []
        self._options: Options | None = None
        self._is_full = False  # of calls that the budget permits

    def take_in(self, endpoint: EndpointGenerator, ask: Ask) -> None:
        """Everything that `ask` asks `endpoint` for and the ledger does not have."""
        group: list[_Line] = []
        for missing in _missing(ask, _Collector(endpoint, self._book)):
            if self._options is None and missing.asked.sample == 0:
                self._learn(endpoint, missing)
                continue  # it may be in the ledger now; if not, it is asked one by one
            line = self._line(endpoint, missing)
            if len(group) >= self._room() or not self._holds(group, line):
                self._write(group)
                group = []
                if self._room() == 0 or not self._holds(group, line):
                    self._hand_in()
            group.append(line)
            if self._is_full:
                return
        self._write(group)

    def handed_in(self) -> list[Batch]:
        """What was taken in since the last time; nothing where too little to be worth the wait."""
        if self._batch is not None:
            if self._num_calls < self._section.min_calls and not self._handed_in:
                self._drop(self._batch)
            else:
                self._hand_in()
        done, self._handed_in, self._is_full = self._handed_in, [], False
        return done

    def _room(self) -> int:
        """How many calls are looked at next."""
        return min(GROUP, self._section.max_calls - self._num_calls)

    def _holds(self, group: Sequence[_Line], line: _Line) -> bool:
        """Whether the file may grow by so much."""
        num_bytes = self._num_bytes + sum(len(one.text) for one in group) + len(line.text)
        return num_bytes <= 1e6 * self._section.max_mb

    def _learn(self, endpoint: EndpointGenerator, first: _Missing) -> None:
        """One call at once, at the full price: which options are refused shows before it is late.

        A batch would bring the same refusal for every call, hours later.
        """
        request = first.asked.request.model_copy(update={"num_draws": 1})
        for _ in endpoint.generate([request], first.sampling):
            pass
        self._options = endpoint.options

    def _line(self, endpoint: EndpointGenerator, missing: _Missing) -> _Line:
        from stllava.generation.endpoint.batch_file import line_of

        asked, options = missing.asked, self._options or endpoint.options
        body = endpoint.asker.body(asked, missing.sampling)
        return _Line(asked, line_of(asked.key, options.fitted(body, asked.request)))

    def _write(self, group: Sequence[_Line]) -> None:
        """Set aside what fits the budget, and add its lines to the file."""
        if not group:
            return
        batch = self._batch = self._batch or self._batches.begin()
        texts = {line.asked.key: line.text for line in group}
        taken, fits = self._batches.take(batch, {x.asked.key: x.asked for x in group}.values())
        self._is_full = not fits
        file = self._file(batch)
        with disk_errors(file), file.open("ab") as out:
            for asked in taken:
                self._num_bytes += out.write(texts[asked.key])
        self._num_calls += len(taken)

    def _hand_in(self) -> None:
        """Upload and create; each of the provider's ids is on disk before the next step."""
        batch = self._batch
        if batch is None:
            return
        if self._num_calls == 0:
            self._drop(batch)
            return
        from stllava.generation.endpoint.batch import Unreachable

        file_id = None
        try:
            file_id = self._api.upload(self._file(batch))
            batch = self._batches.handed_in(batch, file_id=file_id)
            state = self._api.create(file_id)
        except JudgeError as error:
            # Where it may have been created, the next start looks for it by its file.
            if file_id is None or not isinstance(error, Unreachable):
                self._drop(batch)
            raise
        batch = self._batches.handed_in(batch, file_id=file_id, batch_id=state.id)
        self._file(batch).unlink()
        self._job.reporter.note(
            f"{state.id}: {self._num_calls} calls are in a batch at {self._api.access.host}; it "
            "may take a day, and to stop here loses nothing: repeat the command to collect it"
        )
        self._handed_in.append(batch._replace(calls=self._num_calls))
        self._batch, self._num_calls, self._num_bytes = None, 0, 0

    def _drop(self, batch: Batch) -> None:
        """Nothing of it was handed in."""
        self._batches.close(batch)
        self._file(batch).unlink(missing_ok=True)
        self._batch, self._num_calls, self._num_bytes = None, 0, 0

    def _file(self, batch: Batch) -> Path:
        return self._job.stage("judge").path / f"{FILES}{batch.name}.jsonl"


def _missing(ask: Ask, collector: _Collector) -> Iterator[_Missing]:
    """What is asked for and not there, as it is asked."""
    for _ in ask(collector):
        yield from collector.missing
        collector.missing.clear()
    yield from collector.missing

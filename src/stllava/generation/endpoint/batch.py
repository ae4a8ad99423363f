"""The batch side of an endpoint: many calls in one file, answered within a day, at a lower price.

https://platform.openai.com/docs/guides/batch; OpenAI and Azure offer it, servers of one's own do
not. Nothing here is kept or paid: see `judging.calls.batches` and `pipeline.judging.batch`.
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

import httpx2
import openai
from pydantic import BaseModel, ValidationError

from stllava.errors import JudgeError
from stllava.generation.endpoint.access import Access, is_out_of_credit
from stllava.generation.endpoint.batch_file import ROUTE
from stllava.generation.endpoint.pace import wait_s
from stllava.generation.endpoint.transport import TRANSIENT
from stllava.generation.key import reply_without
from stllava.generation.wire import is_local, retry_after_s

log = logging.getLogger(__name__)

WINDOW: Literal["24h"] = "24h"  # the only one there is
LISTED = 1000  # batches looked through for one whose id was lost
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})

T = TypeVar("T")


class _Errors(BaseModel):
    data: list[dict[str, Any]] | None = None


class _Counts(BaseModel):
    total: int = 0
    completed: int = 0
    failed: int = 0


class _File(BaseModel):
    id: str


class BatchState(BaseModel):
    """The part of a batch that we read; `output_file_id` and `error_file_id` come at its end."""

    id: str
    status: str
    input_file_id: str | None = None
    output_file_id: str | None = None
    error_file_id: str | None = None
    errors: _Errors | None = None
    request_counts: _Counts | None = None

    @property
    def has_ended(self) -> bool:
        return self.status in ENDED

    @property
    def num_done(self) -> int:
        counts = self.request_counts or _Counts()
        return counts.completed + counts.failed

    @property
    def reason(self) -> str:
        """Why it failed, in the provider's words."""
        errors = self.errors.data if self.errors and self.errors.data else [{}]
        return " ".join(str(errors[0].get("message") or "no reason given").split())[:200]


class Unreachable(JudgeError):
    """All tries failed; what was asked for may have been done."""


class BatchApi:
    """Files and batches of one endpoint. Use as a context manager.

    What is transient is tried `max_tries` times; no batch is created twice. All methods raise
    JudgeError, in one line, for what no other try would get past.
    """

    def __init__(
        self,
        access: Access,
        *,
        timeout_s: float = 60.0,
        max_tries: int = 6,
        sleep: Callable[[float], object] = time.sleep,
    ) -> None:
        self.access = access
        self._client = access.client(
            openai.DefaultHttpxClient(follow_redirects=False, trust_env=not is_local(access.url))
        )
        self._timeout_s, self._max_tries, self._sleep = timeout_s, max_tries, sleep

    def __enter__(self) -> BatchApi:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def upload(self, file: Path) -> str:
        """Hand a file in. Returns the provider's id of it."""

        def send() -> str:
            with file.open("rb") as lines:
                # Large files take longer than a call does.
                sent = self._client.files.with_raw_response.create(
                    file=(file.name, lines), purpose="batch", timeout=10 * self._timeout_s
                )
            return _File.model_validate_json(sent.http_response.content).id

        return self._tried(send)

    def create(self, file_id: str) -> BatchState:
        """Have the file's calls answered; the batch of this file if there is one already.

        Raises Unreachable where there may be one all the same, else JudgeError.
        """

        def send() -> BatchState:
            return self._find(file_id) or self._read(
                self._client.batches.with_raw_response.create(
                    input_file_id=file_id,
                    endpoint=ROUTE,
                    completion_window=WINDOW,
                    timeout=self._timeout_s,
                )
            )

        return self._tried(send)

    def find(self, file_id: str) -> BatchState | None:
        """The batch that was made of a file, if it is among the latest."""
        return self._tried(lambda: self._find(file_id))

    def _find(self, file_id: str) -> BatchState | None:
        listed = self._client.batches.list(limit=100, timeout=self._timeout_s)
        for number, batch in enumerate(listed):
            if batch.input_file_id == file_id:
                return BatchState.model_validate(batch.model_dump())
            if number + 1 >= LISTED:
                break
        return None

    def look(self, batch_id: str) -> BatchState:
        """How far a batch is."""
        get = self._client.batches.with_raw_response.retrieve
        return self._tried(lambda: self._read(get(batch_id, timeout=self._timeout_s)))

    def download(self, file_id: str, to: Path, max_bytes: int) -> None:
        """Write a result file to `to`; what is beyond `max_bytes` is no reply to what was asked."""

        def read() -> None:
            num_bytes = 0
            content = self._client.files.with_streaming_response.content
            with content(file_id, timeout=self._timeout_s) as response, to.open("wb") as out:
                for chunk in response.iter_bytes():
                    num_bytes += out.write(chunk)
                    if num_bytes > max_bytes:
                        break

        self._tried(read)

    def _read(self, response: Any) -> BatchState:
        body = response.http_response.content.decode("utf-8", "replace")
        return BatchState.model_validate_json(reply_without(self.access.key, body))

    def _tried(self, send: Callable[[], T]) -> T:
        chance = random.Random()
        for attempt in range(1, self._max_tries + 1):
            asked_to_wait = None
            try:
                return send()
            except openai.APIStatusError as error:
                if (final := self._final(error)) is not None:
                    # An earlier try may have arrived.
                    raise (final if attempt == 1 else Unreachable(str(final))) from None
                reason = str(error.status_code)
                asked_to_wait = retry_after_s(error.response.headers, time.time())
            except (openai.APIConnectionError, httpx2.HTTPError):
                reason = "connection failed"
            except (ValidationError, openai.APIResponseValidationError):
                reason = "not a batch"
            log.warning("%s: %s; try %d of %d", self.access.host, reason, attempt, self._max_tries)
            if attempt < self._max_tries:
                self._sleep(wait_s(attempt, asked_to_wait, chance))
        raise Unreachable(
            f"judge {self.access.model}: {reason} at {self.access.host} after {self._max_tries} "
            "tries; nothing is lost, repeat the command"
        )

    def _final(self, error: openai.APIStatusError) -> JudgeError | None:
        """What no other try would get past."""
        status = error.status_code
        if status in (404, 405, 501):
            return JudgeError(
                f"judge {self.access.model}: no batches at {self.access.host} ({status}); ask one "
                "by one with --set judge.batch=null"
            )
        if is_out_of_credit(error) or not (status in TRANSIENT or status >= 500):
            return self.access.final(error)
        return None

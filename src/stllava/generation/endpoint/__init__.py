"""Any OpenAI-compatible endpoint as a Generator: hosted models, vLLM, Ollama, llama.cpp.

`transport` makes one call, `pace` says how many at a time and when to try again, `key` reads the
key of access. What is transient is tried again; what every further call would meet too (a wrong
key, no credit, no such model) stops at once. The key appears in no message.
"""

from __future__ import annotations

import logging
import random
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from stllava.generation.asked import Asked, Asker, Pictures, one_by_one
from stllava.generation.endpoint.access import Access
from stllava.generation.endpoint.key import read_key
from stllava.generation.endpoint.pace import Pace, wait_s
from stllava.generation.endpoint.transport import Failure, Reply, Transport
from stllava.generation.options import Options
from stllava.generation.protocol import (
    BudgetStopped,
    CallBook,
    Estimate,
    InFlight,
    Sampling,
    StoredCall,
)
from stllava.generation.wire import kept_fields
from stllava.records import Draw, Request

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.05  # while somebody else asks the same


class Unrecorded:
    """A CallBook that keeps nothing."""

    def fetch(self, key: str) -> StoredCall | None:
        return None

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        return None

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        return call

    def release(self, key: str, *, maybe_paid: bool = False) -> None:
        return None


class EndpointGenerator:
    """Draws from a chat-completions endpoint; n draws are n calls.

    The key comes from `key_file`, else from the environment variable `api_key_env`; a local
    server needs none. `pictures` says what images are sent as. Calls are kept in `calls` and
    answered from it. `section` is the part of the recipe that errors speak of. A call has
    `max_tries` tries of `timeout_s` within `call_limit_s`. `sleep` and `now` (Unix seconds, for
    Retry-After dates) are for tests.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        key_file: Path | None = None,
        image_path: Callable[[str], Path] = Path,
        image_uri: Callable[[str], str] | None = None,
        image_pixels: Callable[[str], str] | None = None,
        section: str = "judge",
        timeout_s: float = 60.0,
        call_limit_s: float = 600.0,
        max_tries: int = 6,
        concurrency: int = 4,
        calls: CallBook | None = None,
        options: Options | None = None,
        rubric: str = "",
        tokens_per_image: int | None = None,
        sleep: Callable[[float], object] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = model
        pictures = Pictures(image_path, image_uri, image_pixels)
        self._asker = Asker(
            base_url, model, pictures, rubric=rubric, tokens_per_image=tokens_per_image
        )
        self.access = Access(
            self._asker.url,
            self._asker.host,
            model,
            key=read_key(key_file, api_key_env, section),
            key_source=f"the key in {key_file}" if key_file else api_key_env,
            section=section,
        )
        self.options = options or Options()
        self._timeout_s, self._call_limit_s = timeout_s, call_limit_s
        self._max_tries = max_tries
        self._pace = Pace(concurrency)
        self._calls: CallBook = calls or Unrecorded()
        self._sleep = sleep
        self._now = now

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """Draws in request order, at most `2 * concurrency` of them ahead of the reader.

        A reader that stops waits for the calls in flight, so that what they cost is kept.
        """
        stop = Event()
        ahead: deque[Future[Draw]] = deque()
        most = self._pace.most
        transport = Transport(self.access, self.options)
        with transport, ThreadPoolExecutor(most) as pool:
            try:
                for request, index in one_by_one(requests):
                    ahead.append(pool.submit(self._draw, transport, request, index, sampling, stop))
                    if len(ahead) >= 2 * most:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _draw(
        self, transport: Transport, request: Request, index: int, sampling: Sampling, stop: Event
    ) -> Draw:
        """One draw, from the book or after at most `max_tries` calls."""
        asked = self._asker.ask(request, index, sampling)
        known = {"request_id": request.id, "index": index, "seed": asked.seed}
        try:
            call = self._calls.fetch(asked.key) or self._obtain(transport, asked, sampling, stop)
        except BudgetStopped as stopped:
            log.info("%s", stopped)
            return Draw(**known, text="", finish="error", reason="budget")
        if call is None or call.status == "failed":
            return Draw(**known, text="", finish="error", reason="transport")
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call.created))
        paid = {"cost_usd": call.cost_usd, "time": when if call.created else ""}
        return Draw(**known, **kept_fields(call.reply), **paid)

    def _obtain(
        self, transport: Transport, asked: Asked, sampling: Sampling, stop: Event
    ) -> StoredCall | None:
        """Ask until there is a reply; None where the reader has gone."""
        chance, body = random.Random(asked.seed), self._asker.body(asked, sampling)
        started, failure = time.monotonic(), Failure("not sent")
        for attempt in range(1, self._max_tries + 1):
            left_s = self._call_limit_s - (time.monotonic() - started)
            outcome = self._try(transport, asked, body, min(self._timeout_s, left_s), stop)
            if not isinstance(outcome, Failure):
                return outcome  # of a reader that has gone: None
            failure = outcome
            said = f"{self.name} at {self._asker.host}: {failure.reason}"
            log.warning("%s; try %d of %d for %s", said, attempt, self._max_tries, asked.request.id)
            wait = wait_s(attempt, failure.retry_after_s, chance)
            if attempt == self._max_tries or wait >= left_s:
                break
            (self._sleep or stop.wait)(wait)  # a stop ends the waits of calls in flight
            if stop.is_set():
                return None
        lost = StoredCall("failed", asked.request.id, asked.record, failure.reason)
        return self._calls.settle(asked.key, lost)

    def _try(
        self,
        transport: Transport,
        asked: Asked,
        body: dict[str, Any],
        timeout_s: float,
        stop: Event,
    ) -> StoredCall | Failure | None:
        """One try, paid for: reserved before it is sent, then settled or given back."""
        while True:
            if stop.is_set():
                return None
            try:
                stored = self._calls.reserve(asked.key, asked.estimate)
                break
            except InFlight:
                stop.wait(LOOK_AGAIN_S)
        if stored is not None:
            return stored
        try:
            with self._pace.slot() as slot:
                outcome = transport.call(asked.request, body, timeout_s, self._now())
                slot.outcome = None if isinstance(outcome, Failure) else True
                if isinstance(outcome, Failure) and outcome.is_busy:
                    slot.outcome = False
        except BaseException:  # what stops everything was not charged; nothing is swallowed
            self._calls.release(asked.key)
            raise
        if isinstance(outcome, Failure):
            self._calls.release(asked.key, maybe_paid=outcome.maybe_paid)
            return outcome
        return self._calls.settle(asked.key, _to_keep(asked, outcome))


def _to_keep(asked: Asked, reply: Reply) -> StoredCall:
    name = asked.request.id
    return StoredCall(reply.status, name, asked.record, reply.raw, reply.usage, reply.model)

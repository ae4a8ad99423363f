"""Any OpenAI-compatible endpoint as a Generator: hosted models, vLLM, Ollama, llama.cpp.

`caller` makes a call with all its tries, `transport` one of them, `pace` says how many at a time
and when to try again, `batch` hands in many as a file. What is transient is tried again; what every
further call would meet too (a wrong key, no credit, no such model) stops at once. The key appears
in no message.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

from stllava.generation.asked import Asker, Pictures, one_by_one
from stllava.generation.endpoint.access import Access
from stllava.generation.endpoint.caller import REJECTED, Caller, Limits
from stllava.generation.endpoint.pace import Pace
from stllava.generation.endpoint.transport import Transport
from stllava.generation.key import read_key
from stllava.generation.options import Options
from stllava.generation.protocol import (
    BudgetStopped,
    CallBook,
    Estimate,
    Sampling,
    StoredCall,
)
from stllava.generation.wire import kept_fields
from stllava.records import Draw, Request

log = logging.getLogger(__name__)

LIST_S = 10.0  # for a list of models, which nobody needs


class Unrecorded:
    """A CallBook that keeps nothing."""

    def fetch(self, key: str) -> StoredCall | None:
        return None

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        return None

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        return call

    def has_replied(self, host: str, model: str) -> bool:
        return False

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
        self.asker = Asker(
            base_url, model, pictures, rubric=rubric, tokens_per_image=tokens_per_image
        )
        self.access = Access(
            self.asker.url,
            self.asker.host,
            model,
            key=read_key(key_file, api_key_env, section),
            key_source=f"the key in {key_file}" if key_file else api_key_env,
            section=section,
        )
        self.options = options or Options()
        self._most, self._timeout_s = concurrency, timeout_s
        self._book: CallBook = calls or Unrecorded()
        self._caller = Caller(
            self.access,
            self._book,
            Pace(concurrency),
            Limits(timeout_s, call_limit_s, max_tries),
            sleep=sleep,
            now=now,
        )

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """Draws in request order, at most `2 * concurrency` of them ahead of the reader.

        A reader that stops waits for the calls in flight, so that what they cost is kept.
        """
        stop = Event()
        ahead: deque[Future[Draw]] = deque()
        transport = Transport(self.access, self.options)
        with transport, ThreadPoolExecutor(self._most) as pool:
            try:
                for request, index in one_by_one(requests):
                    ahead.append(pool.submit(self._draw, transport, request, index, sampling, stop))
                    if len(ahead) >= 2 * self._most:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def models(self) -> list[dict[str, Any]]:
        """What the server lists at /models, as it came; empty where it has no such list."""
        with Transport(self.access, self.options) as transport:
            return transport.models(min(self._timeout_s, LIST_S))

    def _draw(
        self, transport: Transport, request: Request, index: int, sampling: Sampling, stop: Event
    ) -> Draw:
        """One draw, from the book or after at most `max_tries` calls."""
        asked = self.asker.ask(request, index, sampling)
        known = {"request_id": request.id, "index": index, "seed": asked.seed, "call": asked.key}
        try:
            call = self._book.fetch(asked.key)
            if call is None:
                body = self.asker.body(asked, sampling)
                call = self._caller.obtain(transport, asked, body, stop)
        except BudgetStopped as stopped:
            log.info("%s", stopped)
            return Draw(**known, text="", finish="error", reason="budget")
        if call is None or call.status == "failed":
            rejected = call is not None and call.reply.startswith(REJECTED)
            reason = "rejected" if rejected else "transport"
            return Draw(**known, text="", finish="error", reason=reason)
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(call.created))
        paid = {"cost_usd": call.cost_usd, "time": when if call.created else ""}
        return Draw(**known, **kept_fields(call.reply), **paid)

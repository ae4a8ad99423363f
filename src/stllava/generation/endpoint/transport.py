"""One HTTP call: what came back, why to try again, or why no further call will pass either.

The client's own retries are off and its answers are validated here: it hands malformed replies
through. It follows no redirect: images and keys go to the host that the recipe names.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

import httpx2
import openai
from pydantic import ValidationError

from stllava.errors import JudgeError
from stllava.generation.endpoint.access import Access, is_out_of_credit, is_too_long
from stllava.generation.key import reply_without
from stllava.generation.options import Options
from stllava.generation.wire import Reply, is_local, read_completion, retry_after_s
from stllava.records import Request

MAX_REPLY_BYTES = 4_000_000
TRANSIENT = frozenset({408, 409, 425, 429})  # and every 5xx, 529 among them
REJECTING = frozenset({400, 413})
BUSY = frozenset({408, 429, 503, 504, 529})  # fewer at a time would help


class Failure(NamedTuple):
    """A call that may be tried again."""

    reason: str
    retry_after_s: float | None = None
    maybe_paid: bool = False  # the provider may have charged it
    is_busy: bool = False  # too much for the server
    is_away: bool = False  # nobody is there to be asked
    rejected: JudgeError | None = None  # the request itself; no other try would get past that
    is_too_long: bool = False  # and it is this request alone


class Transport:
    """Calls to one endpoint; safe to use from several threads. Use as a context manager."""

    def __init__(self, access: Access, options: Options) -> None:
        self._access, self._options = access, options
        limits = httpx2.Limits(max_connections=None, max_keepalive_connections=64)
        self._client = access.client(
            openai.DefaultHttpxClient(
                limits=limits,
                follow_redirects=False,
                event_hooks={"response": [_cap]},
                trust_env=not is_local(access.url),  # what stays on this machine asks no proxy
            )
        )

    def __enter__(self) -> Transport:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def call(
        self, request: Request, body: dict[str, Any], timeout_s: float, now: float
    ) -> Reply | Failure:
        """One try of at most `timeout_s` seconds; `now`: Unix seconds, for dates in Retry-After.

        Options that the server refuses are left out from then on, and the call is made again. What
        it rejects with 400 or 413 may be this request alone: see `Failure.rejected`.
        Raises JudgeError for what no other try would get past.
        """
        sent = self._options.fitted(body, request)
        try:
            completions = self._client.chat.completions.with_raw_response
            raw = completions.create(**sent, timeout=timeout_s).http_response.content.decode()
            return read_completion(reply_without(self._access.key, raw))
        except openai.APIStatusError as error:
            if self._options.refuse(error.status_code, error.body, sent):
                return self.call(request, body, timeout_s, now)
            return self._refused(error, now)
        except openai.APITimeoutError as error:
            sent_nothing = isinstance(error.__cause__, httpx2.ConnectTimeout | httpx2.PoolTimeout)
            reason = f"no reply in {timeout_s:g} s"
            return Failure(reason, maybe_paid=not sent_nothing, is_busy=True, is_away=sent_nothing)
        except openai.APIConnectionError as error:
            sent_nothing = isinstance(error.__cause__, httpx2.ConnectError)
            return Failure("connection failed", maybe_paid=not sent_nothing, is_away=sent_nothing)
        except _TooMuch as error:
            return Failure(str(error), maybe_paid=True)
        except (ValidationError, UnicodeDecodeError):
            return Failure("not a chat completion", maybe_paid=True)

    def models(self, timeout_s: float) -> list[dict[str, Any]]:
        """What the server lists at /models; empty where it has no such list."""
        try:
            raw = self._client.models.with_raw_response.list(timeout=timeout_s).http_response
            listed = json.loads(reply_without(self._access.key, raw.content.decode()))
        except (openai.OpenAIError, _TooMuch, ValueError, RecursionError):
            return []
        data = listed.get("data") if isinstance(listed, dict) else None
        return [one for one in data if isinstance(one, dict)] if isinstance(data, list) else []

    def _refused(self, error: openai.APIStatusError, now: float) -> Reply | Failure:
        status = error.status_code
        if error.code == "content_filter":  # Azure refuses the prompt with a 400
            return Reply(reply_without(self._access.key, error.response.text), "filtered")
        if status in REJECTING and not is_out_of_credit(error):
            final = self._access.final(error)
            return Failure(str(status), rejected=final, is_too_long=is_too_long(error))
        if is_out_of_credit(error) or not (status in TRANSIENT or status >= 500):
            raise self._access.final(error) from None
        wait_s = retry_after_s(error.response.headers, now)
        return Failure(str(status), wait_s, is_busy=status in BUSY)


class _TooMuch(Exception):
    """More than we read of a reply, or more slowly than we wait for it."""


class _Capped(httpx2.SyncByteStream):
    """The body of a reply, cut off where it grows too large or takes too long."""

    def __init__(self, stream: Any, deadline: float) -> None:
        self._stream = stream
        self._deadline = deadline

    def __iter__(self) -> Iterator[bytes]:
        num_bytes = 0
        for chunk in self._stream:
            num_bytes += len(chunk)
            if num_bytes > MAX_REPLY_BYTES:
                raise _TooMuch(f"a reply of more than {MAX_REPLY_BYTES / 1e6:g} MB")
            if time.monotonic() > self._deadline:
                raise _TooMuch("a reply that does not end")
            yield chunk

    def close(self) -> None:
        self._stream.close()


def _cap(response: httpx2.Response) -> None:
    """Read no more of any reply, errors included, than it needs."""
    if response.headers.get("content-encoding", "identity") != "identity":
        raise _TooMuch("a compressed reply, which was not asked for")
    timeout_s = response.request.extensions.get("timeout", {}).get("read") or 60.0
    response.stream = _Capped(response.stream, time.monotonic() + timeout_s)

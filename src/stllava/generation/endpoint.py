"""Any OpenAI-compatible endpoint as a Generator: hosted models, vLLM, Ollama, llama.cpp.

The client's own retries are off and its answers are validated here: it hands malformed replies
through. What is transient is tried again; what every further call would meet too (a wrong key, no
credit, no such model) stops at once. The key appears in no message.
"""

from __future__ import annotations

import logging
import os
import random
import re
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from threading import Event
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import openai
from pydantic import ValidationError

from stllava.errors import JudgeError
from stllava.generation.protocol import Sampling, draw_seed
from stllava.generation.wire import Completion, draw_fields, messages, retry_after_s
from stllava.images import data_uri
from stllava.records import Draw, Request

log = logging.getLogger(__name__)

OPENAI_URL = "https://api.openai.com/v1"
MAX_BACKOFF_S = 60.0
TRANSIENT = frozenset({408, 409, 425, 429})  # and every 5xx, 529 among them


class _Failure(NamedTuple):
    """A call that may be tried again."""

    reason: str
    retry_after_s: float | None = None


class EndpointGenerator:
    """Draws from a chat-completions endpoint; n draws are n calls.

    The key comes from `key_file`, else from the environment variable `api_key_env`; a local
    server needs none. `image_path` turns an image id into its file. `sleep` and `now` (Unix
    seconds, for Retry-After dates) are for tests.
    """

    def __init__(
        self,
        base_url: str | None,
        model: str,
        *,
        api_key_env: str = "OPENAI_API_KEY",
        key_file: Path | None = None,
        image_path: Callable[[str], Path],
        timeout_s: float = 60.0,
        max_tries: int = 6,
        concurrency: int = 4,
        sleep: Callable[[float], object] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.name = model
        self._url = base_url or OPENAI_URL
        self._host = urlsplit(self._url).netloc.rpartition("@")[2] or self._url
        self._key_source = f"the key in {key_file}" if key_file else api_key_env
        self._key = _read_key(key_file, api_key_env)
        self._image_uri = lru_cache(maxsize=32)(lambda image: data_uri(image_path(image)))
        self._timeout_s = timeout_s
        self._max_tries = max_tries
        self._concurrency = concurrency
        self._sleep = sleep
        self._now = now

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """Draws in request order, at most `2 * concurrency` of them ahead of the reader."""
        stop = Event()
        ahead: deque[Future[Draw]] = deque()
        client = openai.OpenAI(
            base_url=self._url,
            api_key=self._key or "none",  # the client refuses an empty one
            max_retries=0,
            timeout=self._timeout_s,
        )
        with client, ThreadPoolExecutor(self._concurrency) as pool:
            try:
                for request, index in _one_by_one(requests):
                    ahead.append(pool.submit(self._draw, client, request, index, sampling, stop))
                    if len(ahead) >= 2 * self._concurrency:
                        yield ahead.popleft().result()
                while ahead:
                    yield ahead.popleft().result()
            finally:
                stop.set()
                pool.shutdown(wait=False, cancel_futures=True)

    def _draw(
        self, client: openai.OpenAI, request: Request, index: int, sampling: Sampling, stop: Event
    ) -> Draw:
        """One draw after at most `max_tries` calls; finish "error" if none of them succeeded."""
        seed = draw_seed(sampling.seed, request.id, index)
        body = self._body(request, sampling, seed)
        jitter = random.Random(seed)
        for attempt in range(1, self._max_tries + 1):
            outcome = self._call(client, body)
            if not isinstance(outcome, _Failure):
                return Draw(request_id=request.id, index=index, seed=seed, **outcome)
            failure = f"{self.name} at {self._host}: {outcome.reason}"
            log.warning("%s; try %d of %d for %s", failure, attempt, self._max_tries, request.id)
            if attempt < self._max_tries:
                # Full jitter; what the server asks for is a lower bound, not a common instant.
                wait_s = jitter.uniform(0, min(MAX_BACKOFF_S, 2.0**attempt))
                if outcome.retry_after_s is not None:
                    wait_s = outcome.retry_after_s + jitter.random()
                (self._sleep or stop.wait)(wait_s)  # a stop ends the waits of calls in flight
            if stop.is_set():
                break
        return Draw(request_id=request.id, index=index, seed=seed, text="", finish="error")

    def _body(self, request: Request, sampling: Sampling, seed: int) -> dict[str, Any]:
        """The call's arguments; a parameter without effect is not sent, for servers refuse some."""
        if request.speaker != "assistant":
            raise JudgeError(f"{self.name}: an endpoint cannot be the asker; use a local policy")
        body: dict[str, Any] = {
            "model": self.name,
            "messages": messages(request, self._image_uri(request.image)),
            "max_tokens": request.max_tokens,
            "temperature": sampling.temperature,
            "seed": seed,
        }
        if not sampling.greedy and sampling.top_p < 1:
            body["top_p"] = sampling.top_p
        if not sampling.greedy and sampling.top_k is not None:
            body["extra_body"] = {"top_k": sampling.top_k}  # not OpenAI's; vLLM and others know it
        return body

    def _call(self, client: openai.OpenAI, body: dict[str, Any]) -> dict[str, Any] | _Failure:
        """Fields of a Draw, or why to try again. Raises JudgeError for what will not pass."""
        try:
            raw = client.chat.completions.with_raw_response.create(**body)
            return draw_fields(Completion.model_validate_json(raw.http_response.content))
        except openai.APIStatusError as error:
            status = error.status_code
            if error.code == "content_filter":  # Azure refuses the prompt with a 400
                return {"text": "", "finish": "refused"}
            out_of_credit = "insufficient_quota" in (error.code, error.type)
            if out_of_credit or not (status in TRANSIENT or status >= 500):
                raise self._final(error, out_of_credit=out_of_credit) from None
            return _Failure(str(status), retry_after_s(error.response.headers, self._now()))
        except openai.APITimeoutError:
            return _Failure(f"no reply in {self._timeout_s:g} s")
        except openai.APIConnectionError:
            return _Failure("connection failed")
        except ValidationError:
            return _Failure("not a chat completion")

    def _final(self, error: openai.APIStatusError, *, out_of_credit: bool) -> JudgeError:
        other = "choose another judge with --set judge.model=..."
        if out_of_credit:
            return JudgeError(
                f"judge {self.name}: no credit left at {self._host}; add some or {other}"
            )
        start = f"judge {self.name}: {error.status_code} from {self._host}"
        if error.status_code in (401, 403):
            verb = "check" if self._key else "set"
            return JudgeError(f"{start}; {verb} {self._key_source} or {other}")
        if error.status_code == 404:
            return JudgeError(f"{start}; check judge.base_url, or {other}")
        said = error.body.get("message") if isinstance(error.body, dict) else error.body
        text = " ".join(str(said or "no reason given").split())
        if self._key:
            text = text.replace(self._key, "***")  # some servers quote the request
        return JudgeError(f"{start}: {text[:200]}; change the request or {other}")


def _read_key(key_file: Path | None, api_key_env: str) -> str:
    if key_file is None:
        key, source = os.environ.get(api_key_env, ""), api_key_env
    else:
        source = str(key_file)
        try:
            key = key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise JudgeError(
                f"{source}: cannot be read as a key file; see judge.key_file"
            ) from None
    key = key.strip()
    # A line break inside would surface later, and with the key, as an illegal header.
    if not re.fullmatch(r"[!-~]*", key):
        raise JudgeError(f"{source}: a key is one word of plain characters; correct it")
    return key


def _one_by_one(requests: Iterable[Request]) -> Iterator[tuple[Request, int]]:
    for request in requests:
        for index in range(request.num_draws):
            yield request, index

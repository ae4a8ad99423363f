"""Options of a chat completion that not every server takes, and what is sent instead.

A server that refuses an option says so with 400 or 422; the option is then left out, or replaced,
for the rest of the run, and the call is made again. A server that ignores one is harmless: a reply
is read by what it is, never by what was asked. `stllava judge check` shows which do what.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

from stllava.prompts import RESPONSES
from stllava.records import Request

log = logging.getLogger(__name__)

JSON_OBJECT = "json_object"  # as `Request.response`: any JSON object

# Words by which servers name what they refuse -> the option of ours that goes. In this order:
# "logprobs" is a part of "top_logprobs", and both go together.
_NAMED = {
    "json_schema": "json_schema",
    "response_format": "response_format",
    "grammar": "response_format",  # what vLLM and llama.cpp make of a schema, and speak of
    "logprob": "logprobs",
    "max_completion_tokens": "max_tokens",
    "max_tokens": "max_tokens",
    "temperature": "temperature",
    "top_p": "top_p",
    "top_k": "top_k",
    "seed": "seed",
}
REFUSING = frozenset({400, 422})
# A limit that is only too large ("reduce max_tokens") stays: without it a reply has no known cost.
_UNKNOWN_LIMIT = re.compile(
    r"unsupported|not_support|unrecogni|unknown|unexpected|not_permitted|max_completion_tokens"
)


def wanted(request: Request) -> dict[str, Any]:
    """What a request asks for beyond text: a part of what the call is."""
    found = {"response": request.response, "top_logprobs": request.top_logprobs}
    return {name: value for name, value in found.items() if value is not None}


class Options:
    """What is left out for one endpoint; safe to use from several threads.

    `without` may hold: json_schema (json_object is asked for in its place), response_format,
    logprobs, max_tokens (max_completion_tokens in its place), temperature, top_p, top_k, seed.
    `keep` is told all of it whenever there is more.
    """

    def __init__(
        self,
        without: Iterable[str] = (),
        keep: Callable[[frozenset[str]], None] = lambda _: None,
    ) -> None:
        self._without = set(without)
        self._keep = keep
        self._lock = Lock()

    @property
    def without(self) -> frozenset[str]:
        with self._lock:
            return frozenset(self._without)

    def fitted(self, body: dict[str, Any], request: Request) -> dict[str, Any]:
        """The call's arguments with what the request asks for, less what the endpoint refused."""
        without = self.without
        fitted = {name: value for name, value in body.items() if name not in without}
        if "max_tokens" in without:  # reasoning models count their thoughts too
            fitted["max_completion_tokens"] = body["max_tokens"]
        if "top_k" in without:
            fitted.pop("extra_body", None)
        if request.top_logprobs is not None and "logprobs" not in without:
            fitted |= {"logprobs": True, "top_logprobs": request.top_logprobs}
        if (form := _response_format(request.response, without)) is not None:
            fitted["response_format"] = form
        return fitted

    def refuse(self, status: int, message: object, sent: dict[str, Any]) -> bool:
        """Whether an error names an option that was sent; it is left out from now on."""
        if status not in REFUSING:
            return False
        text = re.sub(r"\s+", "_", str(message).lower())
        for word, option in _NAMED.items():
            if option == "max_tokens" and not _UNKNOWN_LIMIT.search(text):
                continue
            if word in text and _was_sent(option, sent):
                log.warning("the server refuses %s; it is left out from now on", option)
                with self._lock:
                    # What was refused as a schema may be taken as a plain object.
                    form = sent.get("response_format", {}).get("type")
                    softer = option == "response_format" and form == "json_schema"
                    self._without.add("json_schema" if softer else option)
                    self._keep(frozenset(self._without))
                return True
        return False


def _response_format(name: str | None, without: frozenset[str]) -> dict[str, Any] | None:
    if name is None or "response_format" in without:
        return None
    if name == JSON_OBJECT or "json_schema" in without:
        return {"type": JSON_OBJECT}
    schema = {"name": name, "schema": RESPONSES[name], "strict": True}
    return {"type": "json_schema", "json_schema": schema}


def _was_sent(option: str, sent: dict[str, Any]) -> bool:
    """Whether leaving the option out changes anything: no call is made twice for nothing."""
    if option == "json_schema":
        return bool(sent.get("response_format", {}).get("type") == "json_schema")
    if option == "top_k":
        return "extra_body" in sent
    return option in sent

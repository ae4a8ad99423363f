"""The chat-completions wire format: what we send, and the part of a reply that we read."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pydantic import (
    BaseModel,
    Field,
    ValidationError,
    ValidatorFunctionWrapHandler,
    field_validator,
)

from stllava.generation.protocol import CallStatus
from stllava.records import Request, Usage

MAX_RETRY_AFTER_S = 300.0  # what a server may ask for and get
MAX_TOKENS = 10**9  # that a reply may claim to have taken
MAX_TOLD_TOKENS = 8  # of a reply, whose alternatives are kept


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None

    @field_validator("content", mode="before")
    @classmethod
    def _joined(cls, content: Any) -> Any:
        """Some servers send the parts that a request may have."""
        if not isinstance(content, list):
            return content
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None
    logprobs: Any = None  # read where it has the usual form; a reply is good without


class _Details(BaseModel):
    cached_tokens: int | None = Field(None, ge=0, le=MAX_TOKENS)


class _Usage(BaseModel):
    prompt_tokens: int = Field(gt=0, le=MAX_TOKENS)
    completion_tokens: int = Field(ge=0, le=MAX_TOKENS)
    prompt_tokens_details: _Details | None = None


class Completion(BaseModel):
    """The part of a chat completion that we read; a reply without it is a failed call."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None

    @field_validator("usage", mode="wrap")
    @classmethod
    def _counted(cls, usage: Any, read: ValidatorFunctionWrapHandler) -> _Usage | None:
        """Counts that are none are no reason to lose a reply, and none to think it free."""
        try:
            found: _Usage | None = read(usage)
        except ValidationError:
            return None
        return found


class Reply(NamedTuple):
    """A call that came through."""

    raw: str  # the body as it came
    status: CallStatus
    usage: Usage | None = None
    model: str | None = None


def is_local(base_url: str | None) -> bool:
    """True where what is sent stays on this machine."""
    host = urlsplit(base_url or "").hostname or ""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:  # a name, whatever it begins with
        return False


def messages(request: Request, image_uri: str) -> list[dict[str, Any]]:
    """Turns as chat messages; the image stands before the first question, as in training.

    With `request.image_last` it stands after it. An `image_uri` of "" sends none.
    """
    messages: list[dict[str, Any]] = []
    for turn in request.turns:
        content: Any = turn.question
        if not messages and image_uri:
            image = {"type": "image_url", "image_url": {"url": image_uri}}
            content = [image, {"type": "text", "text": turn.question}]
            if request.image_last:
                content.reverse()
        messages.append({"role": "user", "content": content})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages


def draw_fields(completion: Completion) -> dict[str, Any]:
    """Text, finish, usage and model of a Draw."""
    choice = completion.choices[0]
    said: dict[str, Any] = {"model": completion.model}
    if (usage := completion.usage) is not None:
        details = usage.prompt_tokens_details
        said["usage"] = Usage(
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=(details and details.cached_tokens) or 0,
        )
    if choice.finish_reason == "content_filter":
        return {**said, "text": "", "finish": "refused"}  # what was said before the cut is no reply
    if choice.message.refusal:
        return {**said, "text": choice.message.refusal, "finish": "refused"}
    if (alternatives := _alternatives(choice.logprobs)) is not None:
        said["alternatives"] = alternatives
    finish = "length" if choice.finish_reason == "length" else "stop"
    return {**said, "text": choice.message.content or "", "finish": finish}


def read_completion(raw: str) -> Reply:
    """A reply from its body. Raises pydantic's ValidationError if it is no chat completion."""
    said = draw_fields(Completion.model_validate_json(raw))
    status: CallStatus = "ok"
    if said["finish"] == "refused":
        status = "refused" if said["text"] else "filtered"
    return Reply(raw, status, said.get("usage"), said["model"])


def _alternatives(logprobs: Any) -> tuple[dict[str, float], ...] | None:
    """Of the first tokens: what else could have been said, with natural logs; None if not told."""
    tokens = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not isinstance(tokens, list):
        return None
    told = []
    for token in tokens[:MAX_TOLD_TOKENS]:
        given = token.get("top_logprobs") if isinstance(token, dict) else None
        listed = given if isinstance(given, list) else []
        pairs = [(x.get("token"), x.get("logprob")) for x in listed if isinstance(x, dict)]
        told.append(
            _summed(
                (text, float(log))
                for text, log in pairs
                if isinstance(text, str) and isinstance(log, int | float) and -1e6 < log <= 1e-3
            )
        )
    return tuple(told) if any(told) else None


def _summed(alternatives: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Log-probabilities by text; of tokens that are written alike, that of either."""
    # A server that decodes one by one writes SentencePiece's "A" and "A after a blank" alike.
    found: dict[str, float] = {}
    for text, log in dict.fromkeys(alternatives):  # the very same twice is one
        known = found.get(text, -math.inf)
        found[text] = max(known, log) + math.log1p(math.exp(-abs(known - log)))
    return found


def kept_fields(raw: str) -> dict[str, Any]:
    """Fields of a Draw from a body that was kept; the body of an error is a filter's refusal."""
    try:
        return draw_fields(Completion.model_validate_json(raw))
    except ValidationError:
        return {"text": "", "finish": "refused"}


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks us to wait: a number, or a date."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None


def text_tokens(said: list[dict[str, Any]]) -> int:
    """More tokens than the texts of messages have, by any usual tokenizer.

    One for three bytes of UTF-8: English has four to a token, a Chinese character three bytes.
    """
    parts = [part for message in said for part in _texts(message["content"])]
    return (
        16
        + 8 * len(said)
        + sum(math.ceil(len(part.encode("utf-8", "replace")) / 3) for part in parts)
    )


def _texts(content: str | list[dict[str, Any]]) -> list[str]:
    if isinstance(content, str):
        return [content]
    return [part["text"] for part in content if part["type"] == "text"]


def image_tokens(side: int) -> int:
    """More tokens than most providers count for a square of `side` pixels, at most 2048.

    The largest of: 85 + 170 per tile of 512 (OpenAI, high detail), side^2 / 750 (Anthropic), and
    one for each 28 x 28 pixels (Qwen and its like). `judge.image_tokens` says it for others.
    """
    tiles = math.ceil(min(side, 768) / 512) ** 2
    return max(85 + 170 * tiles, math.ceil(side * side / 750), math.ceil(side / 28) ** 2)

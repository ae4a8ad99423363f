"""The chat-completions wire format: what we send, and the part of a reply that we read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Any

from pydantic import BaseModel, Field

from stllava.records import Request, Usage

MAX_RETRY_AFTER_S = 300.0  # what a server may ask for and get


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Usage(BaseModel):
    prompt_tokens: int | None = None
    completion_tokens: int | None = None


class Completion(BaseModel):
    """The part of a chat completion that we read; a reply without it is a failed call."""

    choices: list[_Choice] = Field(min_length=1)
    model: str | None = None
    usage: _Usage | None = None


def messages(request: Request, image_uri: str) -> list[dict[str, Any]]:
    """Turns as chat messages; the image stands before the first question, as in training."""
    messages: list[dict[str, Any]] = []
    for turn in request.turns:
        content: Any = turn.question
        if not messages:
            image = {"type": "image_url", "image_url": {"url": image_uri}}
            content = [image, {"type": "text", "text": turn.question}]
        messages.append({"role": "user", "content": content})
        if turn.answer is not None:
            messages.append({"role": "assistant", "content": turn.answer})
    return messages


def draw_fields(completion: Completion) -> dict[str, Any]:
    """Text, finish, usage and model of a Draw."""
    choice = completion.choices[0]
    said: dict[str, Any] = {"model": completion.model}
    if (usage := completion.usage) is not None:
        said["usage"] = Usage(
            prompt_tokens=usage.prompt_tokens or 0, completion_tokens=usage.completion_tokens or 0
        )
    if choice.finish_reason == "content_filter":
        return {**said, "text": "", "finish": "refused"}  # what was said before the cut is no reply
    if choice.message.refusal:
        return {**said, "text": choice.message.refusal, "finish": "refused"}
    finish = "length" if choice.finish_reason == "length" else "stop"
    return {**said, "text": choice.message.content or "", "finish": finish}


def retry_after_s(headers: Mapping[str, str], now: float) -> float | None:
    """Seconds that the server asks us to wait: a number, or a date."""
    value = headers.get("retry-after", "").strip()
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(value).timestamp() - now
        except ValueError:
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER_S) if math.isfinite(seconds) else None

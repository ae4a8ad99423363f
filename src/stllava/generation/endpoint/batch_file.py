"""Lines of the files of a batch: the calls that are handed in, and what comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from stllava.generation.endpoint.transport import MAX_REPLY_BYTES, Failure
from stllava.generation.key import reply_without
from stllava.generation.wire import Reply, read_completion

# As each line names it, whatever the base URL is.
ROUTE: Literal["/v1/chat/completions"] = "/v1/chat/completions"


class _Response(BaseModel):
    status_code: int
    body: dict[str, Any]


class _Line(BaseModel):
    custom_id: str
    response: _Response | None = None


class Answered(NamedTuple):
    """One line of a result file: under which key, and what came."""

    key: str
    outcome: Reply | Failure


def line_of(key: str, body: dict[str, Any]) -> bytes:
    """One call as a line of the file that is handed in; `body`: a call's arguments."""
    sent = {name: value for name, value in body.items() if name != "extra_body"}
    sent |= body.get("extra_body", {})
    said = {"custom_id": key, "method": "POST", "url": ROUTE, "body": sent}
    return json.dumps(said, separators=(",", ":")).encode() + b"\n"


def read_line(raw: bytes, secret: str) -> Answered | None:
    """What a result line says; None where it does not even say of which call. `secret`: the key."""
    try:
        line = _Line.model_validate_json(raw)
    except ValidationError:
        return None
    if line.response is None:
        return Answered(line.custom_id, Failure("not asked"))  # expired or cancelled: not charged
    body = reply_without(secret, json.dumps(line.response.body, separators=(",", ":")))
    if line.response.status_code != 200:
        error = line.response.body.get("error")
        if isinstance(error, dict) and error.get("code") == "content_filter":
            return Answered(line.custom_id, Reply(body, "filtered"))
        return Answered(line.custom_id, Failure(str(line.response.status_code)))
    try:
        return Answered(line.custom_id, read_completion(body))
    except ValidationError:
        return Answered(line.custom_id, Failure("not a chat completion", maybe_paid=True))


def lines(file: Path) -> Iterator[bytes]:
    """Lines of a result file; one that is too long to be a reply is left out."""
    with file.open("rb") as source:
        while line := source.readline(MAX_REPLY_BYTES):
            if line.endswith(b"\n") or len(line) < MAX_REPLY_BYTES:
                yield line
                continue
            while (rest := source.readline(MAX_REPLY_BYTES)) and not rest.endswith(b"\n"):
                pass

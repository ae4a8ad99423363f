"""A loopback server that speaks OpenAI's chat completions, and misbehaves on demand.

`with chat_server(lambda prompt: "8 7") as server:` and talk to `server.url`. What the function
returns is said; a `Response` is sent as it is, so that a test can break any part of it.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

MODEL_RETURNED = "scripted-2026-01-01"


@dataclass(frozen=True)
class Response:
    """One HTTP response. `truncated`: the connection ends before the promised length."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    truncated: bool = False


Reply = str | Response


@dataclass
class ChatServer:
    """What was received: JSON bodies and Authorization headers, in order of arrival."""

    url: str = ""
    bodies: list[dict[str, Any]] = field(default_factory=list)
    authorizations: list[str] = field(default_factory=list)
    models: list[dict[str, Any]] | None = None  # listed at /models; None: no such route


def completion(
    text: str | None, *, finish: str | None = "stop", refusal: str | None = None
) -> Response:
    message = {"role": "assistant", "content": text, "refusal": refusal}
    return Response(
        body=json.dumps(
            {
                "id": "chatcmpl-1",
                "object": "chat.completion",
                "created": 0,
                "model": MODEL_RETURNED,
                "choices": [{"index": 0, "message": message, "finish_reason": finish}],
                "usage": {"prompt_tokens": 11, "completion_tokens": 3, "total_tokens": 14},
            }
        ).encode()
    )


def failure(
    status: int, *, message: str = "no", code: str | None = None, **headers: str
) -> Response:
    """An error as the API words it; `retry_after="7"` becomes the header Retry-After."""
    error = {"error": {"message": message, "type": "error", "code": code, "param": None}}
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Response(status=status, body=json.dumps(error).encode(), headers=named)


EMPTY_CHOICES = Response(body=b'{"id": "x", "object": "chat.completion", "choices": []}')
NOT_JSON = Response(body=b"<html>gateway</html>", headers={"Content-Type": "text/html"})
TRUNCATED = Response(body=completion("8 7").body, truncated=True)


def script(*replies: Reply) -> Callable[[str], Reply]:
    """Says the replies one after another, and the last one from then on."""
    lock, remaining = threading.Lock(), list(replies)

    def reply(_prompt: str) -> Reply:
        with lock:
            return remaining.pop(0) if len(remaining) > 1 else remaining[0]

    return reply


def send(handler: BaseHTTPRequestHandler, response: Response) -> None:
    """Write a response; a truncated one promises more bytes than come."""
    handler.send_response(response.status)
    for name, value in {"Content-Type": "application/json", **response.headers}.items():
        handler.send_header(name, value)
    handler.send_header("Content-Length", str(len(response.body) + 9 * response.truncated))
    handler.end_headers()
    handler.wfile.write(response.body)
    handler.close_connection = handler.close_connection or response.truncated


@contextmanager
def chat_server(reply: Callable[[str], Reply]) -> Iterator[ChatServer]:
    """Serve `reply(text of the last message)` at `url`/chat/completions."""
    state, lock = ChatServer(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            raw = self.rfile.read(int(self.headers["Content-Length"]))
            if self.path != "/v1/chat/completions":
                send(self, failure(404, message=f"no route {self.path}"))
                return
            body = json.loads(raw)
            with lock:
                state.bodies.append(body)
                state.authorizations.append(self.headers.get("Authorization", ""))
            said = reply(message_text(body["messages"][-1]["content"]))
            send(self, completion(said) if isinstance(said, str) else said)

        def do_GET(self) -> None:
            if self.path != "/v1/models" or state.models is None:
                send(self, failure(404, message=f"no route {self.path}"))
                return
            send(self, Response(body=json.dumps({"data": state.models}).encode()))

        def log_message(self, *args: Any) -> None:
            pass

    with serving(Handler) as state.url:
        yield state


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server on loopback for as long as the block runs; its base URL."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def message_text(content: str | list[dict[str, Any]]) -> str:
    if isinstance(content, str):
        return content
    return "\n".join(part["text"] for part in content if part["type"] == "text")

"""A loopback chat server that fails as providers do, by plan, and counts what it delivered.

A prompt's first tries meet the faults that `plan` names; then it gets its reply. Faults and replies
depend on the prompt alone, so that every run against it ends the same.
"""

from __future__ import annotations

import hashlib
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from servers import EMPTY_CHOICES, NOT_JSON, Response, completion, failure, send

FAULTS = (
    "429 seconds", "429 date", "500", "503", "529", "slow", "reset", "truncated", "wrong type",
    "empty choices", "huge",
)  # fmt: skip
HUGE_BYTES = 4_500_000
USAGE = {"prompt_tokens": 11, "completion_tokens": 3}  # of every completion

Plan = Callable[[str], Sequence[str]]


@dataclass
class FaultyServer:
    """What happened, by prompt. `completed`: replies that were delivered whole."""

    url: str = ""
    tries: Counter[str] = field(default_factory=Counter)
    completed: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    in_flight: int = 0
    most_in_flight: int = 0
    keys: set[str] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)


def chance(prompt: str, purpose: str) -> random.Random:
    return random.Random(hashlib.sha256(f"{purpose}\0{prompt}".encode()).digest())


def some_faults(prompt: str, share: float = 0.3) -> list[str]:
    """Up to three faults, each with probability `share`."""
    dice = chance(prompt, "faults")
    found = []
    while len(found) < 3 and dice.random() < share:
        found.append(dice.choice(FAULTS))
    return found


def some_reply(prompt: str) -> Response | str:
    """Scores; for one prompt in twenty a refusal, a filter's stop or a NaN."""
    dice = chance(prompt, "reply")
    kind = dice.random()
    if kind < 0.02:
        return completion(None, refusal="I cannot judge this.")
    if kind < 0.03:
        return completion("8", finish="content_filter")
    if kind < 0.05:
        return "nan 7"
    return f"{dice.randint(1, 10)} {dice.randint(1, 10)}"


@contextmanager
def faulty_server(
    plan: Plan = some_faults,
    reply: Callable[[str], Response | str] = some_reply,
    *,
    slow_s: float = 1.0,
    latency_s: float = 0.0,
) -> Iterator[FaultyServer]:
    """Serve at `url`/chat/completions. `slow_s`: longer than the client waits."""
    state = FaultyServer()
    settings = {"state": state, "plan": staticmethod(plan), "reply": staticmethod(reply)}
    settings |= {"slow_s": slow_s, "latency_s": latency_s}
    with serving(type("Handler", (_Handler,), settings)) as port:
        state.url = f"http://127.0.0.1:{port}/v1"
        yield state


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    state: FaultyServer
    plan: Plan
    reply: Callable[[str], Response | str]
    slow_s: float
    latency_s: float

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        prompt, state = text_of(body), self.state
        with state.lock:
            attempt = state.tries[prompt]
            state.tries[prompt] += 1
            state.in_flight += 1
            state.most_in_flight = max(state.most_in_flight, state.in_flight)
            state.keys.add(self.headers.get("Authorization", ""))
        try:
            time.sleep(self.latency_s)
            faults = self.plan(prompt)
            self._serve(prompt, faults[attempt] if attempt < len(faults) else None)
        except OSError:
            self.close_connection = True  # the client has gone
        finally:
            with state.lock:
                state.in_flight -= 1

    def _serve(self, prompt: str, fault: str | None) -> None:
        if fault is not None:
            with self.state.lock:
                self.state.faults[fault] += 1
            self._fail(fault)
            return
        said = self.reply(prompt)
        with self.state.lock:  # counted first: a client that is killed may have paid
            self.state.completed[prompt] += 1
        send(self, completion(said) if isinstance(said, str) else said)

    def _fail(self, fault: str) -> None:
        if fault == "reset":
            off = struct.pack("ii", 1, 0)
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, off)
            self.close_connection = True
        elif fault == "slow":
            self.close_connection = True
            time.sleep(self.slow_s)
        elif fault == "drip":
            self._drip()
        else:
            send(self, broken(fault))

    def _drip(self) -> None:
        """A byte now and then, without end: no read ever times out."""
        self.send_response(200)
        self.send_header("Content-Length", "1000000")
        self.end_headers()
        until = time.monotonic() + self.slow_s
        self.close_connection = True
        while time.monotonic() < until:
            self.wfile.write(b" ")
            time.sleep(0.02)

    def log_message(self, *args: Any) -> None:
        pass


def broken(fault: str) -> Response:
    """The response to a try that fails."""
    if fault == "429 seconds":
        return failure(429, retry_after="0.01")
    if fault == "429 date":
        return failure(429, retry_after=formatdate(time.time(), usegmt=True))
    if fault in ("500", "503", "529"):
        return failure(int(fault))
    if fault == "truncated":
        return Response(body=completion("8 7").body, truncated=True)
    if fault == "huge":
        return Response(body=b" " * HUGE_BYTES + completion("8 7").body)
    return {"wrong type": NOT_JSON, "empty choices": EMPTY_CHOICES}[fault]


class _Server(ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: Any) -> None:
        pass  # a killed client is what the tests are about


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[int]:
    """The port at which the handler answers."""
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def text_of(body: dict[str, Any]) -> str:
    """The texts of all messages."""
    contents = [message["content"] for message in body["messages"]]
    parts = [[{"text": c}] if isinstance(c, str) else c for c in contents]
    return "\n".join(part["text"] for message in parts for part in message if "text" in part)

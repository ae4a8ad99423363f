"""A loopback server that takes batches as OpenAI's does: files, batches, results out of order.

Calls are answered by `reply(prompt)` when a batch is looked at for the `looks`-th time; single
calls are answered at once. `faults[route]` are sent first, one a request, in the place of a reply.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from typing import Any

from servers import Reply, Response, completion, failure, message_text, send, serving

LOST = Response(status=0)  # carried out, but the answer does not arrive
SERVED = Response(status=1)  # no fault this time


@dataclass
class BatchServer:
    """What is there, by id, and what was asked: batches created, calls made one by one."""

    reply: Callable[[str], Reply]
    looks: int = 2
    ends: str = "completed"  # or failed, expired, cancelled
    answers: int | None = None  # so many calls of a batch; None: all
    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    batches: dict[str, dict[str, Any]] = field(default_factory=dict)
    faults: dict[str, list[Response]] = field(default_factory=dict)
    handed_in: list[dict[str, Any]] = field(default_factory=list)  # lines of all batches
    answered: list[str] = field(default_factory=list)  # custom ids whose reply was charged
    single: list[dict[str, Any]] = field(default_factory=list)  # bodies
    extra_lines: tuple[bytes, ...] = ()  # in every result file
    why_failed: str = "too many tokens"

    def upload(self, body: bytes) -> dict[str, Any]:
        content = body.split(b"\r\n\r\n")
        part = next(p for h, p in pairwise(content) if b"filename=" in h)
        return self._store(part.rpartition(b"\r\n--")[0])

    def create(self, body: bytes) -> dict[str, Any]:
        said = json.loads(body)
        assert said["endpoint"] == "/v1/chat/completions"
        assert said["completion_window"] == "24h"
        name = f"batch_{len(self.batches)}"
        lines = [json.loads(line) for line in self.files[said["input_file_id"]].splitlines()]
        self.handed_in += lines
        self.batches[name] = {
            "id": name,
            "object": "batch",
            "status": "validating",
            "input_file_id": said["input_file_id"],
            "endpoint": said["endpoint"],
            "completion_window": "24h",
            "created_at": 0,
            "request_counts": {"total": len(lines), "completed": 0, "failed": 0},
            "looked": 0,
        }
        return self.batches[name]

    def look(self, name: str) -> dict[str, Any]:
        batch = self.batches[name]
        batch["looked"] += 1
        if batch["looked"] < self.looks:
            batch["status"] = "in_progress"
        elif batch["status"] not in ("completed", "failed", "expired", "cancelled"):
            self._end(batch)
        return batch

    def _end(self, batch: dict[str, Any]) -> None:
        lines = [json.loads(x) for x in self.files[batch["input_file_id"]].splitlines()]
        if self.ends == "failed":
            errors = {"data": [{"code": "token_limit_exceeded", "message": self.why_failed}]}
            batch.update(status="failed", errors=errors)
            return
        results: dict[bool, list[bytes]] = {True: [], False: []}
        random.Random(len(lines)).shuffle(lines)
        for number, line in enumerate(lines):
            came = self.answers is None or number < self.answers
            said = self.reply(message_text(line["body"]["messages"][-1]["content"]))
            said = completion(said) if isinstance(said, str) else said
            response = {"status_code": said.status, "body": json.loads(said.body)}
            found = {"id": f"r{number}", "custom_id": line["custom_id"], "error": None}
            found["response"] = response if came else None
            if not came:
                found["error"] = {"code": "batch_expired", "message": "not in time"}
            elif said.status == 200:
                self.answered.append(line["custom_id"])
            results[came and said.status == 200].append(json.dumps(found).encode())
        batch["status"] = self.ends
        counts = {"completed": len(results[True]), "failed": len(results[False])}
        batch["request_counts"] |= counts
        for good, name in ((True, "output_file_id"), (False, "error_file_id")):
            if results[good]:
                text = b"\n".join([*results[good], *self.extra_lines]) + b"\n"
                batch[name] = self._store(text)["id"]

    def _store(self, content: bytes) -> dict[str, Any]:
        name = f"file-{len(self.files)}"
        self.files[name] = content
        return {
            "id": name, "object": "file", "bytes": len(content), "created_at": 0,
            "filename": "x.jsonl", "purpose": "batch", "status": "processed",
        }  # fmt: skip


@contextmanager
def batch_server(reply: Callable[[str], Reply], **settings: Any) -> Iterator[BatchServer]:
    state, lock = BatchServer(reply, **settings), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self._answer(self.rfile.read(int(self.headers["Content-Length"])))

        def do_GET(self) -> None:
            self._answer(b"")

        def _answer(self, body: bytes) -> None:
            path = self.path.partition("?")[0].removeprefix("/v1")
            route = f"{self.command} {re.sub(r'/(file-|batch_)[0-9]+', '/ID', path)}"
            with lock:
                if state.faults.get(route):
                    fault = state.faults[route].pop(0)
                    if fault is SERVED:
                        send(self, _said(state, route, path, body))
                        return
                    if fault is LOST:  # carried out, but the answer is lost
                        _said(state, route, path, body)
                        self.close_connection = True
                        return
                    send(self, fault)
                    return
                send(self, _said(state, route, path, body))

        def log_message(self, *args: Any) -> None:
            pass

    with serving(Handler) as state.url:
        yield state


def _said(state: BatchServer, route: str, path: str, body: bytes) -> Response:
    name = path.split("/")[2] if path.count("/") > 1 else ""
    found: Any
    match route:
        case "POST /files":
            found = state.upload(body)
        case "POST /batches":
            found = state.create(body)
        case "GET /batches":
            found = {"object": "list", "data": list(state.batches.values()), "has_more": False}
        case "GET /batches/ID":
            found = state.look(name)
        case "GET /files/ID/content":
            return Response(body=state.files[name], headers={"Content-Type": "text/plain"})
        case "POST /chat/completions":
            state.single.append(json.loads(body))
            said = state.reply(message_text(state.single[-1]["messages"][-1]["content"]))
            return completion(said) if isinstance(said, str) else said
        case _:
            return failure(404, message=f"no route {route}")
    return Response(body=json.dumps(found).encode())

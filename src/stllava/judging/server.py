"""A server of the user's own, up while a stage needs it: policy and judge on one GPU in turn.

It runs in a process group of its own, which ends as a whole when the stage does, also after an
error, Ctrl-C or SIGTERM. A SIGKILL of this process cannot be caught: then the next start finds the
server still answering and says which process group to end.
"""

from __future__ import annotations

import logging
import os
import shlex
import signal
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from stllava.errors import JudgeError
from stllava.generation.key import without

log = logging.getLogger(__name__)

POLL_S = 0.25
PROBE_S = 5.0  # for one answer of the ready URL
GRACE_S = 15.0  # between SIGTERM and SIGKILL
LAST_LINES = 3
LOG, PID = "server.log", "server.pid"


@contextmanager
def running_server(
    command: str,
    *,
    ready_url: str,
    folder: Path,
    timeout_s: float,
    env: Mapping[str, str] | None = None,
    grace_s: float = GRACE_S,
    secret: str = "",
) -> Iterator[int]:
    """Start `command` without a shell, wait until `ready_url` answers 200, stop it at the end.

    Yields its process id, which is also its group's. `folder` gets server.log, to which every
    start appends what the server prints, with `secret` blotted out. Raises JudgeError if it cannot
    be started, ends early, is not ready after `timeout_s` seconds, or if something answers at
    `ready_url` already.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if is_ready(ready_url):
        raise JudgeError(_already_there(ready_url, folder / PID))
    with _sigterm_ends_the_block():
        process = _start(command, env or {})
        (folder / LOG).touch()
        printed = threading.Thread(target=_keep, args=(process, folder / LOG, secret), daemon=True)
        printed.start()
        (folder / PID).write_text(f"{process.pid}\n", encoding="utf-8")
        try:
            _wait(process, printed, ready_url, timeout_s, folder / LOG)
            yield process.pid
        finally:
            stop(process, grace_s)
            printed.join(PROBE_S)  # a child that left the group may hold the pipe open
            (folder / PID).unlink(missing_ok=True)


def is_ready(url: str) -> bool:
    """Whether the URL answers 200. No proxy is asked: the server is on this machine."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=PROBE_S) as response:
            return bool(response.status == 200)
    except (OSError, ValueError, urllib.error.URLError):
        return False


def stop(process: subprocess.Popen[bytes], grace_s: float = GRACE_S) -> None:
    """End the process group: SIGTERM, after `grace_s` seconds SIGKILL. No zombie is left."""
    _signal(process.pid, signal.SIGTERM)
    with suppress(subprocess.TimeoutExpired):
        process.wait(grace_s)
    _signal(process.pid, signal.SIGKILL)  # also for children that outlive their parent
    process.wait()


def _keep(process: subprocess.Popen[bytes], log_file: Path, secret: str) -> None:
    """Write what the server prints, line by line: it knows the environment, keys and all."""
    assert process.stdout is not None
    with process.stdout, log_file.open("ab") as output:
        for line in process.stdout:
            output.write(without(secret, line.decode("utf-8", "replace")).encode())
            output.flush()


def _start(command: str, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    try:
        words = shlex.split(command)
    except ValueError as error:
        raise JudgeError(f"judge.server.command: {error}: {command}") from None
    if not words:
        raise JudgeError("judge.server.command is empty; give a command such as `vllm serve NAME`")
    log.info("starting %s", words[0])
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, **env},
            start_new_session=True,
        )
    except OSError as error:
        raise JudgeError(
            f"judge.server.command: {words[0]}: {error.strerror}; install it or give its full path"
        ) from None


def _wait(
    process: subprocess.Popen[bytes],
    printed: threading.Thread,
    url: str,
    timeout_s: float,
    output: Path,
) -> None:
    deadline = time.monotonic() + timeout_s
    while not is_ready(url):
        if process.poll() is not None:
            printed.join(PROBE_S)
            raise JudgeError(
                f"judge.server: it ended with code {process.returncode} before {url} answered; "
                f"{output} ends: {_last_lines(output)}"
            )
        if time.monotonic() > deadline:
            raise JudgeError(
                f"judge.server: {url} did not answer within {timeout_s:g} s; raise "
                f"judge.server.timeout_s or correct ready_url; {output} ends: {_last_lines(output)}"
            )
        time.sleep(POLL_S)


def _last_lines(output: Path) -> str:
    with output.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - 4096))
        lines = [line.strip() for line in file.read().decode("utf-8", "replace").splitlines()]
    return " | ".join([line for line in lines if line][-LAST_LINES:]) or "(empty)"


def _already_there(url: str, pid_file: Path) -> str:
    left = ""
    with suppress(OSError, ValueError):
        group = int(pid_file.read_text(encoding="utf-8"))
        left = f" (left by a killed run? then `kill -- -{group}`)"
    return (
        f"judge.server: something answers at {url} already{left}; stop it, take another port, or "
        "leave judge.server out to use it"
    )


def _signal(group: int, number: signal.Signals) -> None:
    with suppress(ProcessLookupError, PermissionError):  # macOS: EPERM for a group of zombies
        os.killpg(group, number)


@contextmanager
def _sigterm_ends_the_block() -> Iterator[None]:
    """SIGTERM becomes an exception here, as Ctrl-C is one, so that `finally` blocks run."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers; its own are as they were
        return

    def raise_exit(number: int, _frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, raise_exit)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)

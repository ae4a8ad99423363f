"""Whose reservation it is, and whether that process still lives."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path

BATCH = "batch:"  # starts an owner that is no process: see `batches`
_ours: set[str] = set()  # of this process: in a container, its forerunner had the same number


def new_owner() -> str:
    """Names this process and one opened ledger in it."""
    owner = f"{socket.gethostname()} {os.getpid()} {secrets.token_hex(8)}"
    _ours.add(owner)
    return owner


def retire(owner: str) -> None:
    """The ledger is closed: what it still holds, nobody will settle."""
    _ours.discard(owner)


def is_alive(owner: str) -> bool:
    """False where the process is surely gone; another machine's cannot be seen from here."""
    host, pid, _ = owner.rsplit(" ", 2)
    if host != socket.gethostname():
        return True
    if int(pid) == os.getpid():
        return owner in _ours
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return not _is_zombie(int(pid))


def _is_zombie(pid: int) -> bool:
    """Whether it ended and nobody has asked how; False where the system does not say."""
    try:
        said = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return False
    return said.rpartition(")")[2].split()[:1] == ["Z"]

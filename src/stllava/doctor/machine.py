"""Cores, memory and disk."""

from __future__ import annotations

import os
import platform
import shutil
import tempfile
from pathlib import Path

from stllava.doctor.finding import GIB, Finding, Level

LOW_DISK, FULL_DISK = 10 * GIB, GIB  # a 7B checkpoint in fp32 takes 27 GiB, the demo 0.1
LOW_MEMORY = 2 * GIB  # the demo peaks at about 1


def processor() -> Finding:
    """CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cpu", "ok", f"{cores} of {os.cpu_count()} cores, {platform.machine()}")


def memory() -> Finding:
    """RAM of the machine or of its container, whichever is less."""
    sizes = [limit for limit in (_physical_memory(), _container_memory()) if limit]
    if not sizes:
        return Finding("memory", "ok", "size not known on this system")
    text = f"{min(sizes) / GIB:.1f} GiB" + (" (container limit)" if sizes[-1] < sizes[0] else "")
    if min(sizes) < LOW_MEMORY:
        return Finding("memory", "warn", text, "the demo needs about 1 GiB; use a larger machine")
    return Finding("memory", "ok", text)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _container_memory() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text) if text.strip().isdigit() else None


def disk(where: Path) -> Finding:
    """Free space where runs are written."""
    free = shutil.disk_usage(where).free
    text = f"{free / GIB:.1f} GiB free in {where}"
    remedy = "free space, or give another folder with --run"
    level: Level = "bad" if free < FULL_DISK else "warn" if free < LOW_DISK else "ok"
    return Finding("disk", level, text, "" if level == "ok" else remedy)


def writable(where: Path) -> Finding:
    """A file is really written: permission bits say little in containers and on network disks."""
    try:
        with tempfile.TemporaryFile(dir=where) as file:
            file.write(b"stllava")
    except OSError as error:
        remedy = "change into a folder of yours, or give one with --run"
        return Finding("write", "bad", f"{where} cannot be written: {error.strerror}", remedy)
    return Finding("write", "ok", f"{where} can be written")

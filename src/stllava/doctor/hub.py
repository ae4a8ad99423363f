"""The hub's cache on this machine, and whether the hub may be asked."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from stllava.doctor.finding import GIB, Finding

TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its switches


def hub_cache(env: Mapping[str, str]) -> Finding:
    """Where Hugging Face files are kept, and how much there is."""
    path = _hub_cache_path(env)
    if not path.is_dir():
        return Finding("hub cache", "ok", f"{path} (nothing there yet)")
    total = 0
    for folder, _, names in os.walk(path):  # snapshots are links into blobs: counted once
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink() and file.is_file():
                total += file.stat().st_size
    return Finding("hub cache", "ok", f"{path}, {total / GIB:.1f} GiB")


def _hub_cache_path(env: Mapping[str, str]) -> Path:
    """As huggingface_hub decides it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return Path(env[name]).expanduser()
    home = env.get("HF_HOME")
    if not home:
        home = f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


def hub_offline(env: Mapping[str, str]) -> Finding:
    """Whether the hub may be asked."""
    if env.get("HF_HUB_OFFLINE", "").upper() in TRUE:
        remedy = "unset HF_HUB_OFFLINE to download or push"
        return Finding("hub", "warn", "HF_HUB_OFFLINE is set: nothing is downloaded", remedy)
    return Finding("hub", "ok", "HF_HUB_OFFLINE is not set: may be reached when asked")

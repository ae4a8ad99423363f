"""Is this machine ready? Every finding is ok, warn or bad, with its remedy in one line.

Works from the base install: what may be missing is looked for by name and never imported here.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping
from pathlib import Path

from stllava.doctor.finding import Finding
from stllava.doctor.gpu import accelerator
from stllava.doctor.hub import hub_cache, hub_offline
from stllava.doctor.machine import disk, memory, processor, writable
from stllava.doctor.packages import base_policies, libraries

__all__ = ["Finding", "examine"]


def examine(where: Path, env: Mapping[str, str]) -> list[Finding]:
    """Look at everything. `where` is the folder that runs are written to, `env` the environment."""
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *libraries(),
        base_policies(),
        processor(),
        memory(),
        *accelerator(),
        disk(where),
        writable(where),
        hub_cache(env),
        hub_offline(env),
    ]

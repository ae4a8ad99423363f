"""What a training stage really took: the GPU's own count, or the resident memory of the process."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

import torch

from stllava.training.memory.plan import MemoryPlan, gib

PROC = Path("/proc/self")


class Meter(NamedTuple):
    """Where counting began."""

    cuda: bool
    start: int  # bytes resident; 0 on a GPU
    reset: bool  # whether the highest mark was set back to it

    @classmethod
    def begin(cls, device: str) -> Meter:
        """Set the highest mark back, where the system allows it."""
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            return cls(True, 0, True)
        try:
            (PROC / "clear_refs").write_text("5", encoding="ascii")
            reset = True
        except OSError:
            reset = False
        return cls(False, _status("VmRSS"), reset)

    def end(self, plan: MemoryPlan | None) -> dict[str, Any]:
        """`measured` and `estimated` bytes, comparable, and in words what they are."""
        if self.cuda:
            measured, estimated = torch.cuda.max_memory_allocated(), plan and plan.peak
            what = "allocated on the GPU at most"
        else:
            measured = max(0, _status("VmHWM") - self.start)
            estimated = plan and plan.peak - plan.loaded  # weights are there when counting begins
            since = "" if self.reset else ", since the process began"
            what = f"resident memory of the process at most{since}, beyond what it began with"
        return {"estimated": estimated, "measured": measured, "what": what}


def said(found: dict[str, Any]) -> str:
    """One line for the reader."""
    if not found["measured"]:
        return "memory: measured no more than the process already held"
    estimated = f"estimated {gib(found['estimated'])} GiB, " if found["estimated"] else ""
    return f"memory: {estimated}measured {gib(found['measured'])} GiB ({found['what']})"


def _status(name: str) -> int:
    """Bytes by the kernel's name for them; 0 where there is no /proc."""
    try:
        text = (PROC / "status").read_text(encoding="ascii", errors="replace")
    except OSError:
        return 0
    found = re.search(rf"^{name}:\s+(\d+) kB", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else 0

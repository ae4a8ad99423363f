"""What the measurements of `gpu` share: one model, one clock, one kind of row."""

from __future__ import annotations

import gc
from collections.abc import Callable
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor

from benchmarks.families import Family
from benchmarks.pairs import Pair
from benchmarks.timing import cpu_seconds, wall_seconds


class Row(NamedTuple):
    """One line of the table."""

    name: str
    per_second: float
    unit: str
    utilisation: float | None  # share of the measured matrix rate
    peak: int | None  # bytes


class Bench(NamedTuple):
    """What all measurements share."""

    family: Family
    device: torch.device
    dtype: torch.dtype
    ranks: tuple[int, int]
    rounds: int
    rate: float  # FLOP a second of large matrix products
    pairs: list[Pair]
    images: dict[str, dict[str, Tensor]]

    def seconds(self, call: Callable[[], object]) -> float:
        """Median of the rounds, after one that is not counted."""
        clock = wall_seconds if self.device.type == "cuda" else cpu_seconds
        call()
        return median(clock(call) for _ in range(self.rounds))

    def autocast(self) -> torch.autocast:
        return torch.autocast(
            self.device.type, torch.bfloat16, enabled=self.dtype == torch.bfloat16
        )


def new_model(bench: Bench) -> Any:
    """The same random weights at every call."""
    from transformers import AutoModelForImageTextToText

    torch.manual_seed(0)
    with bench.device:
        return AutoModelForImageTextToText.from_config(bench.family.config, dtype=bench.dtype)


def measured(
    bench: Bench, name: str, step: Callable[[], None], units: float, unit: str, flops: int
) -> Row:
    """Time and peak of a step that handles so many units."""
    if bench.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    seconds = bench.seconds(step)
    peak = torch.cuda.max_memory_allocated() if bench.device.type == "cuda" else None
    return Row(name, units / seconds, unit, flops / seconds / bench.rate, peak)


def release() -> None:
    """Give back what was deleted."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()

"""How everything here is measured: CPU seconds, floating-point operations, bytes of tensors.

Needs torch alone, because the peer process imports it too (see `peer_trl`).
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count

Run = Callable[[], float]  # does the work once and says how many seconds it took


def cpu_seconds(call: Callable[[], object]) -> float:
    """Of this process, all threads. On a busy machine wall time says little."""
    start = time.process_time()
    call()
    return time.process_time() - start


def wall_seconds(call: Callable[[], object]) -> float:
    """For a GPU: until the device is done."""
    torch.cuda.synchronize()
    start = time.perf_counter()
    call()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def interleave(
    variants: Mapping[str, Run], rounds: int, *, warm_up: bool = True
) -> dict[str, list[float]]:
    """A B C, A B C, ...: what disturbs the machine disturbs all. The warm-up is not counted."""
    seconds: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(-warm_up, rounds):
        for name, run in variants.items():
            taken = run()
            if number >= 0:
                seconds[name].append(taken)
    return seconds


def ratio(base: Sequence[float], ours: Sequence[float]) -> float:
    """How many times less `ours` takes: median of the ratios of each round."""
    return median(b / o for b, o in zip(base, ours, strict=True))


def _forward(q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_flop_count(q, k, v)


def _backward(grad: Any, q: Any, k: Any, v: Any, *_: Any, out_shape: Any = None, **__: Any) -> int:
    return sdpa_backward_flop_count(grad, q, k, v)


def count_flops(call: Callable[[], object]) -> int:
    """Of matrix products and attention; a multiplication with its addition is two.

    PyTorch's counter knows no formula for the CPU's fused attention and would count nothing there.
    A causal mask is counted in full, whoever uses it.
    """
    aten = torch.ops.aten
    formulas = {
        aten._scaled_dot_product_flash_attention_for_cpu: _forward,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: _backward,
    }
    with FlopCounterMode(display=False, custom_mapping=formulas) as counter:
        call()
    return int(counter.get_total_flops())


class Measured(NamedTuple):
    """What one call did and held."""

    flops: int
    saved: int  # bytes that autograd kept for backward passes, parameters left out
    peak: int  # the most bytes that tensors made by the call took at a time


def measure(call: Callable[[], object], parameters: Iterable[Tensor]) -> Measured:
    """Count one call, such as a training step.

    Bytes are those of unique storages: exact for tensors, blind to what kernels and the allocator
    take beside them. The resident memory of the process would measure fragmentation as well.
    """
    known = {p.untyped_storage().data_ptr() for p in parameters}
    kept = _Bytes()

    def pack(tensor: Tensor) -> Tensor:
        if _address(tensor) not in known:
            kept.add(tensor.untyped_storage())
        return tensor

    with _Live() as live, torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        flops = count_flops(call)
    return Measured(flops, kept.total, live.bytes.peak)


class _Bytes:
    """Storages that are alive, each counted once; an address may be used again afterwards."""

    def __init__(self) -> None:
        self.now = self.peak = self.total = 0
        self.seen: set[int] = set()

    def add(self, storage: Any) -> None:
        address, size = storage.data_ptr(), storage.nbytes()
        if not size or address in self.seen:
            return
        self.seen.add(address)
        self.total += size
        self.now += size
        self.peak = max(self.peak, self.now)
        weakref.finalize(storage, self._drop, address, size)

    def _drop(self, address: int, size: int) -> None:
        self.seen.discard(address)
        self.now -= size


class _Live(TorchDispatchMode):
    """Counts every tensor that an operation makes, as long as it is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = _Bytes()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        given = {_address(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _address(x) not in given:
                self.bytes.add(x.untyped_storage())
        return out


def _address(x: Tensor) -> int:
    return x.untyped_storage().data_ptr()

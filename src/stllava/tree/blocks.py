"""Attention along root paths, without a T x T mask.

A row is cut into blocks: unbranched runs of large subtrees, and groups of small sibling subtrees.
All tokens of a block have the same ancestors outside it, the *path*; so a block's queries meet
the keys of its path, all visible, and those of the block, under a small local mask.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

LIMIT = 256  # tokens of small subtrees that are computed together


@dataclass(frozen=True)
class Block:
    """Queries start..stop; `path` are the ranges of their common ancestors, from the root on."""

    start: int
    stop: int
    path: tuple[tuple[int, int], ...]
    mask: Tensor | None  # (stop - start, path + stop - start) bool; None: causal, no path

    def keys(self, x: Tensor) -> Tensor:
        """Of (..., T, D) the tokens that the block's queries may meet."""
        spans = [x[..., a:b, :] for a, b in (*self.path, (self.start, self.stop))]
        return torch.cat(spans, dim=-2) if len(spans) > 1 else spans[0]


_PLANS = WeakTensorKeyDictionary()  # every layer of a forward pass is handed the same tensor


def plan_blocks(ends_R11T: Tensor) -> list[list[Block]]:
    """Blocks of every row; computed once per tensor."""
    plan: list[list[Block]] | None = _PLANS.get(ends_R11T)
    if plan is None:
        plan = [_row_blocks(ends.tolist(), ends.device) for ends in ends_R11T[:, 0, 0]]
        _PLANS[ends_R11T] = plan
    return plan


def _row_blocks(ends: Sequence[int], device: torch.device) -> list[Block]:
    ends_T = torch.tensor(ends, device=device)
    return [
        Block(start, stop, path, _local_mask(ends_T, start, stop, path))
        for start, stop, path in _cover(ends, 0, len(ends), ())
    ]


def _cover(
    ends: Sequence[int], start: int, stop: int, path: tuple[tuple[int, int], ...]
) -> Iterator[tuple[int, int, tuple[tuple[int, int], ...]]]:
    """Blocks of the sibling subtrees in start..stop, which all hang under `path`."""
    node = opened = start
    while node < stop:
        end = ends[node]
        if end - opened > LIMIT and node > opened:
            yield opened, node, path
            opened = node
        if end - node > LIMIT:
            run = node + 1
            while run < end and ends[run] == end:
                run += 1
            yield node, run, path
            yield from _cover(ends, run, end, (*path, (node, run)))
            opened = end
        node = end
    if opened < stop:
        yield opened, stop, path


def _local_mask(
    ends_T: Tensor, start: int, stop: int, path: tuple[tuple[int, int], ...]
) -> Tensor | None:
    index = torch.arange(start, stop, device=ends_T.device)
    before = sum(b - a for a, b in path)
    if not before and bool((ends_T[start:stop] >= stop).all()):
        return None
    local = (index <= index[:, None]) & (index[:, None] < ends_T[start:stop])
    return torch.nn.functional.pad(local, (before, 0), value=True)

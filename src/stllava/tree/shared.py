"""Decoding on a shared cache: the prefix of an image is kept once for all its texts.

Keys and values of the prompts' tree stay as they were computed, (G, heads, T, D) for G rows of
trees; every text (a *stream*) has its own short cache of what it said itself. A query meets both,
under one softmax.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor
from transformers import Cache, DynamicCache

_CURRENT: ContextVar[SharedCache | None] = ContextVar("shared cache", default=None)


def current() -> SharedCache | None:
    """The cache that attention must use now, if decoding goes on."""
    return _CURRENT.get()


class SharedCache(Cache):
    """Keys and values of streams on top of a prefix that several of them have in common.

    `prefix` is the cache of the prefill, with G rows of T tokens. `row_S` says which row stream s
    continues, `sees_ST` which of its tokens are its ancestors, `depth_ST` how deep these lie.
    """

    def __init__(
        self, prefix: DynamicCache, row_S: Tensor, sees_ST: Tensor, depths_GT: Tensor, room: int
    ) -> None:
        super().__init__(layers=[])
        self.prefix = [(layer.keys, layer.values) for layer in prefix.layers]
        self.row_S, self.sees_ST, self.depths_GT = row_S, sees_ST, depths_GT
        self.start_S = (depths_GT[row_S] * sees_ST).amax(-1) + 1  # depth of the first own token
        self.room = room
        self.own: list[tuple[Tensor, Tensor] | None] = [None] * len(self.prefix)
        self.length = 0
        self._slots()

    def _slots(self) -> None:
        """Place of each stream among those of its row: queries of a row are computed together."""
        counts = torch.bincount(self.row_S, minlength=len(self.depths_GT))
        first = counts.cumsum(0) - counts
        order = torch.argsort(self.row_S, stable=True)
        rank = torch.empty_like(order)
        rank[order] = torch.arange(len(order), device=order.device)
        self.slot_S = rank - first[self.row_S]
        self.width = int(counts.max())
        sees = self.sees_ST.new_zeros(len(counts), self.width, self.sees_ST.shape[1])
        sees[self.row_S, self.slot_S] = self.sees_ST
        self.sees_GWT = sees

    def update(self, key: Tensor, value: Tensor, layer_idx: int, *_: Any, **__: Any) -> Any:
        """Append one token per stream, (S, heads, 1, D); hands back the stream's own ones."""
        own = self.own[layer_idx]
        if own is None:
            shape = (*key.shape[:2], self.room, key.shape[3])
            own = self.own[layer_idx] = (key.new_empty(shape), value.new_empty(shape))
        for kept, new in zip(own, (key, value), strict=True):
            kept[:, :, self.length] = new[:, :, 0]
        stop = self.length + 1
        return own[0][:, :, :stop], own[1][:, :, :stop]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        return self.length

    def keep(self, index: Tensor) -> None:
        """Drop the streams that ended."""
        self.row_S, self.sees_ST = self.row_S[index], self.sees_ST[index]
        self.start_S = self.start_S[index]
        self.own = [pair and (pair[0][index], pair[1][index]) for pair in self.own]
        self._slots()

    @contextmanager
    def step(self) -> Iterator[None]:
        """One token for every stream goes through the model."""
        token = _CURRENT.set(self)
        try:
            yield
        finally:
            _CURRENT.reset(token)
        self.length += 1

    def attend(
        self, module: Any, query: Tensor, key: Tensor, value: Tensor, scaling: float | None
    ) -> Tensor:
        """(S, H, 1, D) queries over prefix and own keys; returns (S, 1, H, D).

        Shapes: S streams, G rows, W places per row, K key heads, J query heads per key head.
        """
        prefix_key, prefix_value = self.prefix[module.layer_idx]
        S, H, _, D = query.shape
        K = prefix_key.shape[1]
        q_SKJD = query.view(S, K, H // K, D) * (scaling or D**-0.5)
        q_GKMD = self._gather(q_SKJD)
        scores_GKMT = q_GKMD @ prefix_key.transpose(-1, -2)
        far_SKJT = self._scatter(scores_GKMT).masked_fill(~self._visible(module), -torch.inf)
        near_SKJL = q_SKJD @ key.transpose(-1, -2)
        near_SKJL = near_SKJL.masked_fill(~self._near(module, key.shape[2]), -torch.inf)
        kind = torch.promote_types(query.dtype, torch.float32)
        weights = torch.cat([far_SKJT, near_SKJL], -1).softmax(-1, dtype=kind).to(query.dtype)
        far, near = weights[..., : far_SKJT.shape[-1]], weights[..., far_SKJT.shape[-1] :]
        out_SKJD: Tensor = self._scatter(self._gather(far) @ prefix_value) + near @ value
        return out_SKJD.reshape(S, 1, H, D)

    def _gather(self, x_SKJD: Tensor) -> Tensor:
        """Streams to (G, K, W * J, D), so that those of a row meet its keys in one product."""
        _, K, J, D = x_SKJD.shape
        out = x_SKJD.new_zeros(len(self.depths_GT), self.width, K, J, D)
        out[self.row_S, self.slot_S] = x_SKJD
        return out.permute(0, 2, 1, 3, 4).reshape(len(out), K, self.width * J, D)

    def _scatter(self, x_GKMD: Tensor) -> Tensor:
        G, K, M, D = x_GKMD.shape
        split = x_GKMD.view(G, K, self.width, M // self.width, D)
        return split.permute(0, 2, 1, 3, 4)[self.row_S, self.slot_S]

    def _visible(self, module: Any) -> Tensor:
        """(S, 1, 1, T): ancestors, in a layer with a window only the near ones."""
        sees_ST = self.sees_ST
        window = getattr(module, "sliding_window", None)
        if window is not None:
            here_S1 = (self.start_S + self.length)[:, None]
            sees_ST = sees_ST & (here_S1 - self.depths_GT[self.row_S] < window)
        return sees_ST[:, None, None]

    def _near(self, module: Any, length: int) -> Tensor:
        window = getattr(module, "sliding_window", None)
        distance = torch.arange(length - 1, -1, -1, device=self.row_S.device)
        return distance < window if window is not None else distance >= 0

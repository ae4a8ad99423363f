"""Who sees whom, in the form each attention backend wants it.

`dense` is a boolean mask, (R, 1, T, T): the reference. `flex` is FlexAttention's block mask, which
skips empty blocks on CUDA. `blocks` hands over the subtree ends alone, (R, 1, 1, T) integers, and
attention goes along root paths without any T x T mask (see `blocks`).
"""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from stllava.tree.batch import TreeBatch
from stllava.tree.rules import Rules

Backend = Literal["dense", "blocks", "flex"]
BLOCKS_FROM = 512  # tokens in a row from which `blocks` is faster than `dense` on a CPU


def choose_backend(batch: TreeBatch, rules: Rules, wanted: str = "auto") -> Backend:
    """The attention backend for a batch. `blocks` cannot do windows or two-way images."""
    if wanted == "auto":
        if batch.ids.is_cuda:
            return "flex"
        return "blocks" if batch.ids.shape[1] >= BLOCKS_FROM and rules.plain else "dense"
    if wanted == "blocks" and not rules.plain:
        return "dense"
    return wanted  # type: ignore[return-value]


def attention_mask(batch: TreeBatch, rules: Rules, backend: Backend, image_id: int) -> Any:
    """What goes into the model as `attention_mask`; a dict by layer type where layers differ."""
    if backend == "blocks":
        return batch.ends[:, None, None, :]
    make = _flex_mask if backend == "flex" else _dense_mask
    blocks = image_blocks(batch.ids, image_id) if rules.image_both_ways else None
    full = make(batch, blocks, None)
    if rules.window is None:
        return full
    return {"full_attention": full, "sliding_attention": make(batch, blocks, rules.window)}


def padding_mask(batch: TreeBatch) -> Tensor:
    """(R, T) of plain rows: 1 where there is text."""
    width = batch.ids.shape[1]
    length_R1 = batch.last[:, None] % width + 1
    return (torch.arange(width, device=batch.ids.device) < length_R1).long()


def image_blocks(ids_RT: Tensor, image_id: int) -> Tensor:
    """Number of the run of image tokens that a token lies in, -1 outside. (R, T)."""
    is_image = ids_RT == image_id
    starts = is_image & ~torch.nn.functional.pad(is_image, (1, 0))[:, :-1]
    return torch.where(is_image, starts.cumsum(-1) - 1, -1)


def _dense_mask(batch: TreeBatch, blocks_RT: Tensor | None, window: int | None) -> Tensor:
    index = torch.arange(batch.ids.shape[1], device=batch.ids.device)
    sees_RTT = (index <= index[:, None]) & (index[:, None] < batch.ends[:, None, :])
    if blocks_RT is not None:
        same = blocks_RT[:, :, None] == blocks_RT[:, None, :]
        sees_RTT |= same & (blocks_RT >= 0)[:, None, :]
    if window is not None:
        sees_RTT &= batch.depths[:, :, None] - batch.depths[:, None, :] < window
    return sees_RTT[:, None]


def _flex_mask(batch: TreeBatch, blocks_RT: Tensor | None, window: int | None) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    ends, depths = batch.ends, batch.depths

    def sees(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        see = (k <= q) & (q < ends[b, k])
        if blocks_RT is not None:
            see = see | ((blocks_RT[b, q] == blocks_RT[b, k]) & (blocks_RT[b, k] >= 0))
        if window is not None:
            see = see & (depths[b, q] - depths[b, k] < window)
        return see

    num_rows, width = batch.ids.shape
    return create_block_mask(sees, num_rows, None, width, width, device=str(batch.ids.device))

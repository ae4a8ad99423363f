"""One attention function for all backends, known to transformers as "stllava".

Which backend runs is told by the mask it is handed (see `mask`). Decoding on a shared cache goes
through the same function (see `shared`).
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from stllava.tree.blocks import plan_blocks
from stllava.tree.rules import rules_of
from stllava.tree.shared import current

NAME = "stllava"


def use_tree_attention(core: Any, *, vision: str = "sdpa") -> None:
    """Let the language model of a Hugging Face vision-language model run on trees.

    `vision` is the vision tower's implementation, by transformers' name. A language model whose
    rules forbid sharing keeps its own.
    """
    text = {"": NAME, "text_config": NAME} if rules_of(core.config).share else {}
    core.set_attn_implementation({**text, "vision_config": vision})


def tree_attention(
    module: Any,
    query: Tensor,  # (R, H, Q, D)
    key: Tensor,  # (R, G, K, D); H is a multiple of G
    value: Tensor,
    attention_mask: Any,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Attention under a dense mask, a block mask, subtree ends, or (no mask) causally."""
    extras = {"s_aux", "softcap"} & {name for name in kwargs if kwargs[name] is not None}
    assert not extras, f"not computed here: {extras}; rules_of must keep such a model apart"
    shared = current()
    if shared is not None:
        return shared.attend(module, query, key, value, scaling), None
    if attention_mask is not None and not isinstance(attention_mask, Tensor):
        return _flex(query, key, value, attention_mask, scaling), None
    key, value = _repeat(key, query), _repeat(value, query)
    if isinstance(attention_mask, Tensor) and attention_mask.dtype == torch.int64:
        out = _along_paths(query, key, value, attention_mask, scaling)
    else:
        causal = attention_mask is None and query.shape[2] > 1
        out = attend(query, key, value, attention_mask, scaling, causal=causal, dropout=dropout)
    return out.transpose(1, 2).contiguous(), None


def _along_paths(
    query: Tensor, key: Tensor, value: Tensor, ends: Tensor, scaling: float | None
) -> Tensor:
    rows = []
    for row, blocks in enumerate(plan_blocks(ends)):
        q, k, v = query[row : row + 1], key[row : row + 1], value[row : row + 1]
        parts = [
            attend(
                q[..., block.start : block.stop, :],
                block.keys(k),
                block.keys(v),
                block.mask,
                scaling,
                causal=block.mask is None,
            )
            for block in blocks
        ]
        rows.append(torch.cat(parts, dim=2))
    return torch.cat(rows)


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    scaling: float | None,
    *,
    causal: bool = False,
    dropout: float = 0.0,
) -> Tensor:
    """Softmax attention, (R, H, Q, D). bf16 on a CPU is written out: SDPA's backward is slow."""
    if query.device.type != "cpu" or not _sixteen_bit(query):
        return F.scaled_dot_product_attention(
            query, key, value, mask, dropout_p=dropout, is_causal=causal, scale=scaling
        )
    if causal:
        mask = torch.ones(query.shape[2], key.shape[2], dtype=torch.bool).tril()
    scores = query @ key.transpose(-1, -2) * (scaling or query.shape[-1] ** -0.5)
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(-1, dtype=torch.float32).to(value.dtype)
    return F.dropout(weights, dropout) @ value


def _sixteen_bit(x: Tensor) -> bool:
    """Whether products are computed in 16 bits, be it by autocast."""
    autocast = torch.is_autocast_enabled("cpu") and x.dtype == torch.float32
    return autocast or x.dtype in (torch.bfloat16, torch.float16)


def _repeat(x: Tensor, query: Tensor) -> Tensor:
    """Grouped-query attention: every key head serves several query heads."""
    times = query.shape[1] // x.shape[1]
    return x.repeat_interleave(times, dim=1) if times > 1 else x


@cache
def _flex_kernel(compiled: bool) -> Any:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=False) if compiled else flex_attention


def _flex(query: Tensor, key: Tensor, value: Tensor, mask: Any, scaling: float | None) -> Tensor:
    out: Tensor = _flex_kernel(query.is_cuda)(
        query,
        key,
        value,
        block_mask=mask,
        scale=scaling,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return out.transpose(1, 2).contiguous()


AttentionInterface.register(NAME, tree_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)

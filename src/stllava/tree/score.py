"""Log-probabilities of learned tokens, with logits only where one is predicted, in chunks."""

from __future__ import annotations

from inspect import signature
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stllava.tree.batch import TreeBatch
from stllava.tree.mask import attention_mask, choose_backend, padding_mask
from stllava.tree.rules import CAUSAL, Rules

CHUNK = 2**25  # logits that exist at a time (128 MiB in fp32)


def hidden_states(
    core: Any,
    batch: TreeBatch,
    rules: Rules = CAUSAL,
    *,
    backend: str = "auto",
    cache: Any = None,
) -> Tensor:
    """(R, T, width): what stands before the language-model head. `cache` keeps keys and values.

    Where the batch does not share, the model makes masks and positions itself.
    """
    given: dict[str, Any]
    if batch.shared:
        chosen = choose_backend(batch, rules, backend)
        mask = attention_mask(batch, rules, chosen, core.config.image_token_id)
        given = {"attention_mask": mask, "position_ids": batch.positions}
    else:
        given = {"attention_mask": padding_mask(batch), **token_types(core, batch.ids)}
    hidden: Tensor = core.model(
        input_ids=batch.ids,
        past_key_values=cache,
        use_cache=cache is not None,
        **given,
        **batch.vision,
    ).last_hidden_state
    return hidden


def token_types(core: Any, ids_RT: Tensor) -> dict[str, Tensor]:
    """What a family's processor says beside the ids: 1 at image tokens. Empty where not asked."""
    asked = signature(core.model.forward).parameters
    is_image_RT = (ids_RT == core.config.image_token_id).int()
    return {n: is_image_RT for n in ("token_type_ids", "mm_token_type_ids") if n in asked}


def token_log_probs(core: Any, batch: TreeBatch, hidden_RTD: Tensor) -> Tensor:
    """log p(token | its path) of each learned token, in nats. (N,), fp32 (or fp64)."""
    vectors_PD = hidden_RTD.flatten(0, 1)[batch.predictors]
    vocabulary = core.lm_head.weight.shape[0]
    size = max(1, CHUNK // vocabulary)
    if len(vectors_PD) <= size:
        return _log_probs(core, vectors_PD, batch.slots, batch.targets)
    parts, where = [], []
    for start in range(0, len(vectors_PD), size):
        inside = (batch.slots >= start) & (batch.slots < start + size)
        vectors = vectors_PD[start : start + size]
        slots, targets = batch.slots[inside] - start, batch.targets[inside]
        # Its logits are computed again in the backward pass instead of being kept.
        parts.append(checkpoint(_log_probs, core, vectors, slots, targets, use_reentrant=False))
        where.append(inside.nonzero().squeeze(-1))
    logps, order = torch.cat(parts), torch.cat(where)
    return torch.empty_like(logps).index_copy(0, order, logps)


def _log_probs(core: Any, vectors_PD: Tensor, slots_N: Tensor, targets_N: Tensor) -> Tensor:
    scores_PV: Tensor = head_logits(core, vectors_PD).log_softmax(-1)
    return scores_PV[slots_N, targets_N]


def head_logits(core: Any, vectors: Tensor) -> Tensor:
    """(..., V) raw logits, in fp32 (or fp64)."""
    logits: Tensor = core.lm_head(vectors)
    logits = logits if logits.dtype == torch.float64 else logits.float()
    cap = getattr(core.config.get_text_config(), "final_logit_softcapping", None)
    return torch.tanh(logits / cap) * cap if cap else logits


def sequence_sums(batch: TreeBatch, logp_N: Tensor, num: int) -> Tensor:
    """Summed log-probability of each of `num` sequences' learned tokens."""
    return logp_N.new_zeros(num).index_add(0, batch.sequence, logp_N)

"""Streams of tokens growing on prompts: what a decoding loop needs from the model.

A stream is one draw. `SharedStreams` read the tree of all prompts once and decode on its cache;
`RepeatedStreams` are the way for models whose state cannot be shared (recurrent layers).

Shapes: S streams, P prompts, T tokens of a row, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor
from transformers import DynamicCache

from stllava.policy.policy import Policy
from stllava.tree import TreeBatch, hidden_states
from stllava.tree.score import head_logits, token_types
from stllava.tree.shared import SharedCache

# Stands in for a mask, so that none is made: who sees whom is known to the cache.
NO_MASK = torch.ones(1, 1, 1, 1, dtype=torch.bool)


class Streams(Protocol):
    """Draws being decoded together."""

    logits: Tensor  # (S, V) of each stream's next token, raw

    def step(self, tokens_S: Tensor) -> None:
        """Every stream says its token."""

    def keep(self, index: Tensor) -> None:
        """Only these streams go on."""


class SharedStreams:
    """The tree of the prompts is read once; `draws[p]` streams continue prompt p."""

    def __init__(self, policy: Policy, batch: TreeBatch, draws: Sequence[int], room: int) -> None:
        self.core = policy.core
        prefix = DynamicCache()
        hidden_RTD = hidden_states(
            self.core, batch, policy.rules, backend=policy.backend, cache=prefix
        )
        width = batch.ids.shape[1]
        row_P = batch.last // width
        index = torch.arange(width, device=batch.ids.device)
        at_P1 = batch.last[:, None] % width
        sees_PT = (index <= at_P1) & (at_P1 < batch.ends[row_P])
        stream = torch.arange(len(draws)).repeat_interleave(torch.tensor(draws))
        stream = stream.to(batch.ids.device)
        self.cache = SharedCache(prefix, row_P[stream], sees_PT[stream], batch.depths, room)
        self.logits = head_logits(self.core, hidden_RTD.flatten(0, 1)[batch.last])[stream]
        last_position = batch.positions.flatten(-2)[..., batch.last]
        self.dims = batch.positions.ndim
        self.position_S = (last_position.amax(0) if self.dims == 3 else last_position)[stream]

    def step(self, tokens_S: Tensor) -> None:
        self.position_S = self.position_S + 1
        positions = self.position_S[:, None]
        with self.cache.step():
            hidden_S1D = self.core.model(
                input_ids=tokens_S[:, None],
                position_ids=positions.expand(3, -1, -1) if self.dims == 3 else positions,
                attention_mask=NO_MASK.to(tokens_S.device),
                past_key_values=self.cache,
                use_cache=True,
            ).last_hidden_state
        self.logits = head_logits(self.core, hidden_S1D[:, -1])

    def keep(self, index: Tensor) -> None:
        self.cache.keep(index)
        self.position_S, self.logits = self.position_S[index], self.logits[index]


class RepeatedStreams:
    """Draws of a single prompt, each a row that the library's own cache goes with."""

    def __init__(self, policy: Policy, batch: TreeBatch, num_draws: int) -> None:
        self.core = policy.core
        vision = {  # of one image; its patches may be what the first axis counts
            name: value.repeat(num_draws, *[1] * (value.ndim - 1))
            for name, value in batch.vision.items()
        }
        ids = batch.ids.expand(num_draws, -1)
        types = token_types(self.core, ids)
        out = self.core.model(input_ids=ids, use_cache=True, **types, **vision)
        self.cache = out.past_key_values
        self.logits = head_logits(self.core, out.last_hidden_state[:, -1])
        self.num = num_draws
        self.rows = torch.arange(num_draws, device=batch.ids.device)  # those that still go on

    def step(self, tokens_S: Tensor) -> None:
        tokens = tokens_S.new_zeros(self.num)  # ended rows go along: no state is ever moved
        tokens[self.rows] = tokens_S
        out = self.core.model(input_ids=tokens[:, None], past_key_values=self.cache, use_cache=True)
        self.cache = out.past_key_values
        self.logits = head_logits(self.core, out.last_hidden_state[self.rows, -1])

    def keep(self, index: Tensor) -> None:
        self.rows, self.logits = self.rows[index], self.logits[index]

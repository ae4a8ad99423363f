"""Is sharing exact for this model? Asked of the model itself, when it is loaded.

Log-probabilities of a small tree are compared with one sequence at a time. As a control the same
tree is computed under a wrong rule, siblings seeing each other: if the comparison does not notice
that, it would notice nothing, and rows stay separate.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stllava.tree.batch import TreeBatch
from stllava.tree.rules import Rules
from stllava.tree.score import hidden_states, token_log_probs

EXACT, ROUNDED = 1e-3, 0.05  # mean nats a token allowed: fp32, and 16-bit arithmetic
CONTROL = 5  # times the wrong rule must differ more than the right one, and than EXACT


class Probe(NamedTuple):
    """Mean differences from one sequence at a time, in nats a token."""

    tree: float
    wrong: float  # under the deliberately wrong rule
    allowed: float

    @property
    def exact(self) -> bool:
        """NaN anywhere is a no."""
        seen = self.wrong > CONTROL * max(self.tree, EXACT / 10)
        return self.tree <= self.allowed and seen

    def __str__(self) -> str:
        return f"off by {self.tree:.1g} nats a token, by {self.wrong:.2g} under a wrong mask"


@torch.no_grad()
def probe_sharing(
    core: Any, rules: Rules, tree: TreeBatch, alone: Sequence[TreeBatch], backend: str = "auto"
) -> Probe:
    """Compare `tree` with its sequences, each `alone` under the model's own mask and positions."""

    def log_probs(batch: TreeBatch, backend: str = backend) -> Tensor:
        hidden = hidden_states(core, batch, rules, backend=backend)
        return token_log_probs(core, batch, hidden).float()

    expected = torch.cat([log_probs(replace(batch, shared=False)) for batch in alone])
    every = ("dense", "blocks") if backend == "auto" and not tree.ids.is_cuda else (backend,)
    right = max((log_probs(tree, b) - expected).abs().mean().item() for b in every)
    ends = torch.full_like(tree.ends, tree.ends.shape[1])  # every token before is an ancestor
    wrong = (log_probs(replace(tree, ends=ends)) - expected).abs().mean().item()
    sixteen_bit = next(core.parameters()).dtype in (torch.bfloat16, torch.float16)
    return Probe(right, wrong, ROUNDED if sixteen_bit else EXACT)

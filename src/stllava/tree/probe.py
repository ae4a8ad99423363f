"""Is sharing exact for this model? Asked of the model itself, when it is loaded.

Log-probabilities of a small tree are compared with one sequence at a time. As a control the same
tree is computed under a wrong rule, siblings seeing each other: if the comparison does not notice
that, it would notice nothing, and rows stay separate.
"""

from __future__ import annotations

from collections.abc import Sequence
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
        return f"{self.tree:.1g} nats a token apart, {self.wrong:.2g} under a wrong mask"


@torch.no_grad()
def probe_sharing(
    core: Any, rules: Rules, tree: TreeBatch, alone: Sequence[TreeBatch], backend: str = "auto"
) -> Probe:
    """Compare `tree` with its sequences, each `alone` in a plain batch."""

    def log_probs(batch: TreeBatch) -> Tensor:
        hidden = hidden_states(core, batch, rules, backend=backend)
        return token_log_probs(core, batch, hidden).float()

    expected = torch.cat([log_probs(batch) for batch in alone])
    right = (log_probs(tree) - expected).abs().mean().item()
    ends = torch.full_like(tree.ends, tree.ends.shape[1])  # every token before is an ancestor
    wrong_tree = TreeBatch(**{**vars(tree), "ends": ends})
    wrong = (log_probs(wrong_tree) - expected).abs().mean().item()
    sixteen_bit = next(core.parameters()).dtype in (torch.bfloat16, torch.float16)
    return Probe(right, wrong, ROUNDED if sixteen_bit else EXACT)

"""Log-probabilities of learned tokens: the one forward pass of both training stages."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from stllava.policy.policy import Policy
from stllava.tree import CAUSAL, Rules, TreeBatch, hidden_states, token_log_probs


class TokenScorer(nn.Module):
    """Wraps a policy's model so that training always goes through one `forward` (DDP, FSDP)."""

    def __init__(self, core: Any, rules: Rules = CAUSAL, backend: str = "auto") -> None:
        super().__init__()
        self.core = core
        self.rules = rules
        self.backend = backend

    @classmethod
    def of(cls, policy: Policy) -> TokenScorer:
        return cls(policy.core, policy.rules, policy.backend)

    def forward(self, batch: TreeBatch) -> Tensor:
        """log p(token | what precedes it) of each learned token. (N,), in nats, fp32 (or fp64)."""
        hidden = hidden_states(self.core, batch, self.rules, backend=self.backend)
        return token_log_probs(self.core, batch, hidden)

"""Stage 2: Direct Preference Optimization (Rafailov et al. 2023), equation 1 of the paper.

Shapes: B pairs, N learned tokens. `chosen` and `rejected` are stacked: rows 0..B-1 and B..2B-1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stllava.chat import Tokens
from stllava.config import DpoSection
from stllava.errors import PolicyError
from stllava.policy.adapters import reference
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer, make_batch
from stllava.records import Draw, Preference, Record, Turn
from stllava.training.objective import Loss, MicroBatch, OpenImage


class DpoTerms(NamedTuple):
    """Per pair, (B,) each; rewards are beta-scaled log-ratios to the reference, in nats."""

    loss: Tensor
    chosen_reward: Tensor
    rejected_reward: Tensor


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, *, beta: float
) -> DpoTerms:
    """-log sigmoid of the reward margin, from summed log-probabilities (B,)."""
    chosen_reward = beta * (chosen - ref_chosen)
    rejected_reward = beta * (rejected - ref_rejected)
    return DpoTerms(-F.logsigmoid(chosen_reward - rejected_reward), chosen_reward, rejected_reward)


class ReferenceLogProbs(Record):
    """What the frozen stage-1 policy gave to both answers of a preference, in nats."""

    id: str
    chosen: float
    rejected: float


class DpoObjective:
    """Preferences against the reference, with an optional NLL anchor on the chosen answer.

    With `dpo_weight` 0 and `nll_weight` 1 this is plain SFT on the chosen answers: the control
    that says what the preference term adds.
    """

    def __init__(
        self,
        policy: Policy,
        preferences: Sequence[Preference],
        open_image: OpenImage,
        settings: DpoSection,
    ) -> None:
        self.policy = policy
        self.open_image = open_image
        self.settings = settings
        self.preferences = {p.id: p for p in preferences}
        self.ids = list(self.preferences)
        self.reference: dict[str, ReferenceLogProbs] = {}

    def collate(self, records: Sequence[tuple[str, int]]) -> MicroBatch:
        pairs = [self.preferences[record_id] for record_id, _ in records]
        drawn = [p.chosen for p in pairs] + [p.rejected for p in pairs]
        sequences = [self._tokens(p, d) for p, d in zip(pairs * 2, drawn, strict=True)]
        names = list(dict.fromkeys(p.image for p in pairs))
        pixels = self.policy.pixel_values([self.open_image(name) for name in names])
        index = [names.index(p.image) for p in pairs] * 2
        batch, num_cut = make_batch(sequences, pixels, index, self.settings.max_tokens)
        extra = {"weight": torch.tensor([p.weight for p in pairs])}
        if self.reference:
            known = [self.reference[p.id] for p in pairs]
            extra["ref_chosen"] = torch.tensor([r.chosen for r in known])
            extra["ref_rejected"] = torch.tensor([r.rejected for r in known])
        return MicroBatch(batch, tuple(p.id for p in pairs), float(len(pairs)), extra, num_cut)

    def _tokens(self, preference: Preference, draw: Draw) -> Tokens:
        turn = Turn(
            question=preference.question, answer=draw.text, answer_ids=draw.token_ids or None
        )
        return self.policy.chat.training([turn], [False])

    def loss(self, scorer: TokenScorer, micro: MicroBatch) -> Loss:
        num = len(micro.ids)
        logp_N = scorer(micro.batch)
        sums_2B = logp_N.new_zeros(2 * num).index_add(0, micro.batch.rows, logp_N)
        chosen, rejected = sums_2B[:num], sums_2B[num:]
        extra = {name: value.to(chosen.device) for name, value in micro.extra.items()}
        terms = dpo_loss(
            chosen, rejected, extra["ref_chosen"], extra["ref_rejected"], beta=self.settings.beta
        )
        length = torch.bincount(micro.batch.rows, minlength=2 * num)[:num]
        nll = -chosen / length
        per_pair = self.settings.dpo_weight * terms.loss + self.settings.nll_weight * nll
        margin = (terms.chosen_reward - terms.rejected_reward).detach()
        sums = {
            "loss/dpo": (terms.loss.sum().item(), float(num)),
            "loss/nll": (nll.sum().item(), float(num)),
            "rewards/chosen": (terms.chosen_reward.sum().item(), float(num)),
            "rewards/rejected": (terms.rejected_reward.sum().item(), float(num)),
            "rewards/margins": (margin.sum().item(), float(num)),
            "rewards/abs_margins": (margin.abs().sum().item(), float(num)),
            "rewards/accuracies": ((margin > 0).float().sum().item(), float(num)),
        }
        return Loss((extra["weight"] * per_pair).sum(), sums)

    def reference_log_probs(
        self, scorer: TokenScorer, batch_size: int
    ) -> Iterator[ReferenceLogProbs]:
        """One gradient-free pass with the adapters off, in id order."""
        for start in range(0, len(self.ids), batch_size):
            micro = self.collate([(i, 0) for i in self.ids[start : start + batch_size]])
            num = len(micro.ids)
            with torch.no_grad(), reference(self.policy):
                logp_N = scorer(micro.batch.to(self.policy.device)).cpu()
            sums = logp_N.new_zeros(2 * num).index_add(0, micro.batch.rows.cpu(), logp_N).tolist()
            for i, record_id in enumerate(micro.ids):
                yield ReferenceLogProbs(id=record_id, chosen=sums[i], rejected=sums[num + i])


def check_first_step(
    objective: DpoObjective, scorer: TokenScorer, *, bf16: bool
) -> tuple[float, float]:
    """Before training, policy and reference are one: margin 0 and loss ln 2.

    Returns mean |beta margin| and the mean DPO loss over one micro-batch. Raises PolicyError if
    they are off by more than rounding: 1e-3 nat per sequence in fp32, 0.02 of margin in bf16.
    """
    ids = objective.ids[: objective.settings.micro_batch_size]
    micro = objective.collate([(record_id, 0) for record_id in ids])
    micro.batch = micro.batch.to(objective.policy.device)
    with torch.no_grad():
        sums = objective.loss(scorer, micro).sums
    loss = sums["loss/dpo"][0] / sums["loss/dpo"][1]
    beta = objective.settings.beta
    margin = sums["rewards/abs_margins"][0] / sums["rewards/abs_margins"][1]
    allowed = 0.02 if bf16 else 2e-3 * beta
    if margin > allowed or abs(loss - math.log(2)) > allowed:
        raise PolicyError(
            f"dpo: at step 0 mean |beta margin| is {margin:.3g} and the loss {loss:.4f} instead "
            f"of 0 and ln 2: the reference is not the policy's start; redo the stage"
        )
    return margin, loss

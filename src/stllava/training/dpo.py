"""Stage 2: Direct Preference Optimization (Rafailov et al. 2023), equation 1 of the paper.

Shapes: B pairs, N learned tokens. Sequence 2b is pair b's chosen answer, 2b + 1 its rejected one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from stllava.chat import Tokens
from stllava.config import DpoSection
from stllava.errors import PolicyError
from stllava.policy.adapters import reference
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer
from stllava.records import Draw, Preference, Turn
from stllava.training.objective import Loss, MicroBatch, Objective, OpenImage
from stllava.training.reference import ReferenceLogProbs
from stllava.tree import sequence_sums


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


class DpoObjective(Objective):
    """Preferences against the reference, with an optional NLL anchor on the chosen answer.

    With `dpo_weight` 0 and `nll_weight` 1 this is plain SFT on the chosen answers: the control
    that says what the preference term adds. Without `reference` log-probabilities the reference
    answers beside the policy, with its adapters off (`dpo.reference: online`).
    """

    def __init__(
        self,
        policy: Policy,
        preferences: Sequence[Preference],
        open_image: OpenImage,
        settings: DpoSection,
    ) -> None:
        self.preferences = {p.id: p for p in preferences}
        super().__init__(policy, list(self.preferences), open_image, settings)
        self.settings = settings
        self.reference: dict[str, ReferenceLogProbs] = {}

    def image_of(self, record_id: str) -> str:
        return self.preferences[record_id].image

    def texts(self, record_id: str, epoch: int) -> list[Tokens]:
        preference = self.preferences[record_id]
        return [self._text(preference, d) for d in (preference.chosen, preference.rejected)]

    def _text(self, preference: Preference, draw: Draw) -> Tokens:
        turn = Turn(
            question=preference.question, answer=draw.text, answer_ids=draw.token_ids or None
        )
        return self.policy.chat.training([turn], [False])

    def count(self, examples: Sequence[object]) -> float:
        """Units of the loss: pairs."""
        return float(len(examples))

    def extra(self, ids: Sequence[str]) -> dict[str, Tensor]:
        extra = {"weight": torch.tensor([self.preferences[i].weight for i in ids])}
        if self.reference:
            known = [self.reference[i] for i in ids]
            extra["ref_chosen"] = torch.tensor([r.chosen for r in known])
            extra["ref_rejected"] = torch.tensor([r.rejected for r in known])
        return extra

    def log_probs(self, scorer: TokenScorer, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """Of the chosen and the rejected answers, summed over their tokens. (B,) each."""
        sums = sequence_sums(micro.batch, scorer(micro.batch), 2 * len(micro.ids))
        return sums[0::2], sums[1::2]

    def reference_log_probs(self, scorer: TokenScorer, micro: MicroBatch) -> tuple[Tensor, Tensor]:
        """The same of the reference: adapters off, projector frozen; without gradient."""
        with torch.no_grad(), reference(self.policy):
            return self.log_probs(scorer, micro)

    def loss(self, scorer: TokenScorer, micro: MicroBatch) -> Loss:
        num = len(micro.ids)
        extra = {name: value.to(micro.batch.ids.device) for name, value in micro.extra.items()}
        if "ref_chosen" in extra:
            ref_chosen, ref_rejected = extra["ref_chosen"], extra["ref_rejected"]
        else:
            ref_chosen, ref_rejected = self.reference_log_probs(scorer, micro)
        chosen, rejected = self.log_probs(scorer, micro)
        terms = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, beta=self.settings.beta)
        length = torch.bincount(micro.batch.sequence, minlength=2 * num)[0::2]
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


def check_first_step(
    objective: DpoObjective, scorer: TokenScorer, micros: Sequence[MicroBatch], *, bf16: bool
) -> tuple[float, float]:
    """Before training, policy and reference are one: margin 0 and loss ln 2.

    Returns mean |beta margin| and the mean DPO loss over some micro-batches. Raises PolicyError if
    they are off by more than rounding: 1e-3 nat per sequence in fp32, 0.02 of margin in bf16.
    """
    totals = {"loss/dpo": 0.0, "rewards/abs_margins": 0.0}
    num = sum(len(micro.ids) for micro in micros)
    for micro in micros:
        with torch.no_grad():
            sums = objective.loss(scorer, micro).sums
        for name in totals:
            totals[name] += sums[name][0] / num
    loss, margin = totals["loss/dpo"], totals["rewards/abs_margins"]
    allowed = 0.02 if bf16 else 2e-3 * objective.settings.beta
    if not (margin <= allowed and abs(loss - math.log(2)) <= allowed):  # NaN is a failure too
        raise PolicyError(
            f"dpo: at step 0 mean |beta margin| is {margin:.3g} and the loss {loss:.4f} instead "
            "of 0 and ln 2: the reference is not the policy's start; redo the stage"
        )
    return margin, loss

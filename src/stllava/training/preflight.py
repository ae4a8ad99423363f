"""Before the first step: which tensors really receive gradient, at which learning rate.

The published vision adapters never trained, because the tower ran under `no_grad`; nothing said
so. Here one real micro-batch is run backwards first, and a group without gradient stops the stage.
"""

from __future__ import annotations

from typing import Any

import torch

from stllava.config import TrainSection
from stllava.errors import PolicyError
from stllava.policy.adapters import parameter_groups
from stllava.policy.scorer import TokenScorer
from stllava.training.objective import MicroBatch, Objective


def preflight(
    scorer: TokenScorer, objective: Objective, micro: MicroBatch, settings: TrainSection
) -> list[dict[str, Any]]:
    """One backward pass on a real micro-batch. Returns a row per parameter group.

    LoRA A matrices get no gradient while B is zero, so "with gradient" counts B matrices and full
    tensors. Weights and optimiser stay untouched. Raises PolicyError for a group without gradient,
    and for any tensor that can never get one.
    """
    scorer.train()
    loss = objective.loss(scorer, micro).total / micro.count
    loss.backward()
    rows = [_row(group) for group in parameter_groups(scorer.core, settings)]
    scorer.zero_grad(set_to_none=True)
    for row in rows:
        if not row["with_gradient"]:
            raise PolicyError(
                f"{row['group']}: none of its {row['tensors']} tensors receives gradient; "
                "nothing would be trained there"
            )
        if row["without"]:
            raise PolicyError(
                f"{row['group']}: {row['without'][0]} and {len(row['without']) - 1} more tensors "
                "are not reached by the loss; they would stay as they are"
            )
    return rows


def _row(group: dict[str, Any]) -> dict[str, Any]:
    with_gradient, without = 0, []
    checked = 0
    for name, parameter in zip(group["names"], group["params"], strict=True):
        if "lora_A" in name:
            if parameter.grad is None:
                without.append(name)
            continue
        checked += 1
        if parameter.grad is None:
            without.append(name)
        elif torch.count_nonzero(parameter.grad):
            with_gradient += 1
    return {
        "group": group["name"],
        "tensors": len(group["params"]),
        "parameters": sum(p.numel() for p in group["params"]),
        "learning_rate": group["lr"],
        "checked": checked,
        "with_gradient": with_gradient,
        "without": without,
    }

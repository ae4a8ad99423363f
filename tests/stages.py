"""Both training stages on toys: settings, objectives and trainings, as the pipeline makes them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import toy
from torch import Tensor

from stllava.config import DpoSection, SftSection
from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.policy.policy import Policy
from stllava.records import Preference, Request, Turn
from stllava.training.dpo import DpoObjective
from stllava.training.objective import MicroBatch, Objective
from stllava.training.reference import computed
from stllava.training.sft import SftObjective
from stllava.training.trainer import train

QUESTIONS = ("Is there a nodule?", "What organ is shown?", "How many lesions are there, if any?")


def sft_settings(**fields: Any) -> SftSection:
    return SftSection.model_validate({**toy.TRAINING, **fields})


def dpo_settings(**fields: Any) -> DpoSection:
    return DpoSection.model_validate({**toy.TRAINING, **fields})


def sft_objective(
    policy: Policy, settings: SftSection, number: int = 10, seed: int = 0, **fields: Any
) -> SftObjective:
    talks = toy.conversations(number)
    return SftObjective(policy, talks, toy.open_image, settings, seed, **fields)


def dpo_objective(policy: Policy, settings: DpoSection, number: int = 10) -> DpoObjective:
    objective = DpoObjective(policy, toy.preferences(number), toy.open_image, settings)
    if settings.reference != "online":
        compute_reference(objective)
    return objective


def compute_reference(objective: DpoObjective, budget: int = 100) -> None:
    """As the dpo stage does it: one pass with the adapters off."""
    keys = dict.fromkeys(objective.ids, "")
    found = computed(objective, toy.scorer_of(objective.policy), (), keys, budget)
    objective.reference = {record.id: record for record in found}


OBJECTIVES: dict[str, tuple[Any, Any]] = {
    "sft": (sft_settings, sft_objective),
    "dpo": (dpo_settings, dpo_objective),
}


@cache
def sampled_preferences() -> tuple[Preference, ...]:
    """Six pairs of draws as the answer stage leaves them; two about each image."""
    requests = [
        Request(
            id=f"i{n // 2}/q{n}",
            image=f"i{n // 2}",
            turns=(Turn(question=QUESTIONS[n % 3]),),
            num_draws=2,
            max_tokens=4 + n,
        )
        for n in range(6)
    ]
    generator = PolicyGenerator(toy.policy(), toy.open_image, name="toy")
    sampling = Sampling(temperature=1.2, top_k=100, top_p=0.95, seed=3)
    draws = list(generator.generate(requests, sampling))
    return tuple(
        Preference(
            id=request.id,
            answers_id=request.id,
            image=request.image,
            question=request.turns[0].question,
            chosen=draws[2 * n],
            rejected=draws[2 * n + 1],
            margin=1.0,
            source="toy",
        )
        for n, request in enumerate(requests)
    )


def with_chosen(pairs: Sequence[Preference], **changes: Any) -> list[Preference]:
    """The pairs, the third one's chosen draw changed."""
    changed = pairs[2].model_copy(update={"chosen": pairs[2].chosen.model_copy(update=changes)})
    return [*pairs[:2], changed, *pairs[3:]]


def micro_batch(objective: Objective, number: int | None = None) -> MicroBatch:
    """All records of an objective, or the first `number`, as one micro-batch."""
    return objective.collate([(record_id, 0) for record_id in objective.ids[:number]])


def run_training(
    policy: Policy, objective: Objective, settings: Any, output: Path, progress: Any = None
) -> dict[str, Any]:
    return train(
        toy.scorer_of(policy), objective, settings,
        output=Path(output), seed=5, precision="fp32", device="cpu", progress=progress,
    )  # fmt: skip


def trained_tensors(policy: Policy) -> dict[str, Tensor]:
    return {n: p.detach().clone() for n, p in policy.core.named_parameters() if p.requires_grad}

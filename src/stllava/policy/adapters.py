"""What is trained: one adapter with two ranks, the projector in full, three learning-rate groups.

The reference policy is the same model with its adapters off, projector included; no second model.
A stage ends with a *merged* checkpoint whose logits were compared with the adapted model's.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch import Tensor, nn

from stllava.config import LoraSection, SftSection, TrainSection
from stllava.errors import PolicyError
from stllava.policy.families import LLAVA, Family, family_of, lora_targets, projector_modules
from stllava.policy.policy import Policy
from stllava.policy.published.asker import UNTRAINED, asker_token_indices

log = logging.getLogger(__name__)

GROUPS = ("lora_llm", "lora_vit", "projector")
GROUP_OF_PART = {"language": "lora_llm", "vision": "lora_vit", "projector": "projector"}

# The merged model adds B @ A to the weight once instead of at every call. That is fp32 rounding,
# which the prototype extractor can turn into more: a patch halfway between two prototypes may
# change sides. So the mean may not differ, and a single token only a little.
MERGE_TOLERANCE_MEAN, MERGE_TOLERANCE_MAX = 2e-3, 0.5


def adapt(policy: Policy, settings: TrainSection) -> None:
    """Wrap the policy's model with fresh adapters, in place. Adapter B matrices start at zero."""
    lora = settings.lora
    targets = []
    if lora.llm_rank:
        targets.append(lora_targets(policy.core, "language"))
    if lora.vit_rank:
        targets.append(lora_targets(policy.core, "vision"))
    if not targets:
        raise PolicyError("lora: both ranks are 0; at least one of llm_rank, vit_rank must be set")
    with warnings.catch_warnings():
        # PEFT 0.21 reads a property that transformers 5.23 renamed; nothing a user could act on.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        policy.model = get_peft_model(policy.model, _peft_config(policy, targets, settings))
    _freeze_unused(policy)


def _freeze_unused(policy: Policy) -> None:
    family = family_of(policy.core)
    for name, parameter in policy.core.named_parameters():
        if ".ln_1." in name and family.part_of(name) == "projector":  # never applied: no gradient
            parameter.requires_grad_(False)


def _peft_config(policy: Policy, targets: list[str], settings: TrainSection) -> LoraConfig:
    lora = settings.lora
    vision = rf"(?:.*\.)?{family_of(policy.core).vision}\..*"
    return LoraConfig(
        r=lora.llm_rank or lora.vit_rank,
        lora_alpha=lora.llm_alpha,
        lora_dropout=lora.llm_dropout,
        target_modules="|".join(f"({t})" for t in targets),
        rank_pattern={vision: lora.vit_rank} if lora.vit_rank else {},
        alpha_pattern={vision: lora.vit_alpha} if lora.vit_rank else {},
        modules_to_save=projector_modules(policy.core) if settings.train_projector else None,
        trainable_token_indices=_new_rows(policy, settings),
    )


def _new_rows(policy: Policy, settings: TrainSection) -> dict[str, list[int]] | None:
    """The embedding row of a <vusr> that no training has seen, where this one will."""
    asks = isinstance(settings, SftSection) and settings.question_ratio > 0
    return asker_token_indices(policy) if asks and policy.provenance.get(UNTRAINED) else None


def set_dropout(policy: Policy, lora: LoraSection) -> None:
    """LoRA dropout per group; PEFT has one number for all, so it is set after wrapping."""
    family = family_of(policy.core)
    for name, module in policy.core.named_modules():
        if name.endswith("lora_dropout.default") and hasattr(module, "p"):
            vision = family.part_of(name) == "vision"
            module.p = lora.vit_dropout if vision else lora.llm_dropout


def group_of(name: str, family: Family = LLAVA) -> str:
    """The learning-rate group a trainable parameter belongs to."""
    return GROUP_OF_PART[family.part_of(name)]


def parameter_groups(core: Any, settings: TrainSection) -> list[dict[str, Any]]:
    """AdamW groups in the order of GROUPS; empty ones are left out."""
    family = family_of(core)
    rates = dict(
        zip(GROUPS, (settings.lr_llm, settings.lr_vit, settings.lr_projector), strict=True)
    )
    members: dict[str, list[tuple[str, nn.Parameter]]] = {group: [] for group in GROUPS}
    for name, parameter in core.named_parameters():
        if parameter.requires_grad:
            members[group_of(name, family)].append((name, parameter))
    return [
        {
            "name": group,
            "params": [p for _, p in named],
            "names": [n for n, _ in named],
            "lr": rates[group],
            "weight_decay": settings.weight_decay,
        }
        for group, named in members.items()
        if named
    ]


@contextmanager
def reference(policy: Policy) -> Iterator[None]:
    """Within it the policy answers as before training: LoRA off, projector and tower frozen."""
    try:
        with policy.model.disable_adapter():
            yield
    finally:
        _freeze_unused(policy)  # PEFT makes the whole projector trainable again on its way out


def merge(policy: Policy, probe: Callable[[], Tensor]) -> float:
    """Merge adapters into the weights, in place. Returns the largest change of `probe`'s output.

    `probe` computes log-probabilities on real inputs. Raises PolicyError above the tolerances.
    """
    policy.model.eval()
    with torch.inference_mode():
        before = probe()
    if policy.model.peft_config["default"].trainable_token_indices:
        policy.provenance.pop(UNTRAINED, None)
    policy.model = policy.model.merge_and_unload()
    with torch.inference_mode():
        after = probe()
    change = (before - after).abs()
    mean, largest = change.mean().item(), change.max().item()
    if not (mean <= MERGE_TOLERANCE_MEAN and largest <= MERGE_TOLERANCE_MAX):
        raise PolicyError(
            f"merged and adapted model differ by {mean:.2g} nats a token, at most {largest:.2g} "
            f"(allowed {MERGE_TOLERANCE_MEAN:g} and {MERGE_TOLERANCE_MAX:g}); the merged "
            "checkpoint was not written"
        )
    return largest


def zero_lora_b(state: dict[str, Tensor]) -> list[str]:
    """LoRA B matrices that are all zero: those adapters never trained."""
    return [name for name, t in state.items() if re.search(r"lora_B", name) and not t.any()]

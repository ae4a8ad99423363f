"""Gradient checkpointing: layers keep their input alone and are computed again on the way back."""

from __future__ import annotations

from stllava.policy.policy import Policy


def recompute_layers(policy: Policy) -> None:
    """Switch it on for an adapted policy, vision encoder included, in place."""
    core = policy.core  # transformers 5.23 has another name for it
    old = core.gradient_checkpointing_enable
    getattr(core, "activation_checkpointing_enable", old)({"use_reentrant": False})
    core.enable_input_require_grads()

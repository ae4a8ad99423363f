"""QLoRA: a training's frozen language model in 4 bits, while adapters and projector stay whole.

Nothing quantised is ever saved: the adapters are merged into the unquantised weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn

from stllava.errors import MissingExtra, PolicyError
from stllava.policy.families import language_layers

if TYPE_CHECKING:
    from stllava.policy.policy import Policy

# Numbers that share a scale. A row must hold whole blocks: bitsandbytes 0.50 reads others wrongly
# on a CPU (off by as much as the weights themselves).
BLOCK = 64


class QuantisedBase(NamedTuple):
    """What of a policy is in 4 bits."""

    maps: int  # linear maps of the language model's layers in 4 bits
    weights: int  # numbers in them
    bytes: int  # that they take, scales included
    left: int  # linear maps of these layers that stay as they are: no whole blocks

    def __str__(self) -> str:
        left = f", {self.left} stay as they are (rows of no whole {BLOCK})" if self.left else ""
        return (
            f"base in 4 bits (nf4, double quantisation): {self.maps} linear maps of the language "
            f"model{left}, {self.weights:,} weights in {self.bytes / 2**20:,.1f} MiB"
        )


def quantise(policy: Policy, device: str) -> QuantisedBase:
    """Bring a policy to `device`, in place, the linear maps of its language model's layers as nf4.

    One map is moved at a time, so the unquantised model is never on `device` as a whole. Vision
    encoder, projector, embeddings, head and norms stay as they are. The same weights give the same
    bits. Call it before adapters are laid over the model.

    Raises MissingExtra without bitsandbytes, PolicyError if it does not work on `device` or the
    model offers nothing to quantise.
    """
    core = policy.core
    if hasattr(core.config, "quantization_config"):
        raise PolicyError(
            "model.quantize: nf4 needs an unquantised base, and this checkpoint is quantised "
            "already; give the original, or set model.quantize=none"
        )
    make = _working(device)
    for layer in language_layers(core):
        for name, linear in list(layer.named_modules()):
            if type(linear) is nn.Linear and linear.in_features % BLOCK == 0:
                parent, _, child = name.rpartition(".")
                setattr(layer.get_submodule(parent), child, make(linear, device))
    found = quantised_base(core)
    if found is None:
        raise PolicyError(
            f"model.quantize: nf4: {core.config.model_type} has no linear maps of whole blocks of "
            f"{BLOCK} in its language model; set model.quantize=none"
        )
    core.is_loaded_in_4bit = True  # PEFT asks for it before it lays LoRA over such layers
    policy.model.to(device)
    return found


def quantised_base(core: Any) -> QuantisedBase | None:
    """What is in 4 bits, counted in the model itself; None if nothing is."""
    linears = [
        module
        for layer in language_layers(core)
        for name, module in layer.named_modules()
        if isinstance(module, nn.Linear) and "lora_" not in name
    ]
    weights: list[Any] = [module.weight for module in linears]
    packed = [weight for weight in weights if type(weight).__name__ == "Params4bit"]
    if not packed:
        return None
    states = [weight.quant_state for weight in packed]
    scales = [t for s in states for t in (s.absmax, s.code, s.state2.absmax, s.state2.code)]
    return QuantisedBase(
        maps=len(packed),
        weights=sum(state.shape.numel() for state in states),
        bytes=sum(t.numel() * t.element_size() for t in [*packed, *scales]),
        left=len(linears) - len(packed),
    )


def _working(device: str) -> Any:
    """The 4-bit layer, after it has computed something on `device`."""
    try:
        from stllava.policy.nf4 import NF4Linear
    except ImportError as error:
        raise MissingExtra("bitsandbytes", "qlora") from error
    try:
        linear = nn.Linear(BLOCK, 1, bias=False, device="meta").to_empty(device="cpu")
        nn.init.ones_(linear.weight)  # no random number is drawn
        x = torch.ones(1, BLOCK, device=device, requires_grad=True)
        NF4Linear(linear, device)(x).sum().backward()
    except (RuntimeError, NotImplementedError, AttributeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise PolicyError(
            f"model.quantize: nf4 does not work on {device} here: {reason}; "
            "`python -m bitsandbytes` says more, or set model.quantize=none"
        ) from error
    return NF4Linear

"""A policy without values: the shapes of its weights and adapters, nothing allocated.

It is built from a config on the meta device, adapted by the same code as a real one, and then given
fake tensors (`torch._subclasses.FakeTensorMode`): they say they lie on a CPU, so autocast treats
them as real ones, and every operation computes shapes alone.
"""

from __future__ import annotations

from copy import deepcopy
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import AttentionInterface, AttentionMaskInterface, AutoModelForImageTextToText
from transformers.masking_utils import sdpa_mask

from stllava.config import TrainSection
from stllava.formats import STLLAVA, ChatFormat
from stllava.policy import adapters
from stllava.policy.families import language_layers
from stllava.policy.policy import Policy
from stllava.policy.published.asker import UNTRAINED
from stllava.training.recompute import recompute_layers
from stllava.tree import rules_of

FUSED = "stllava-fused"
BLOCK = 64  # 4-bit weights that share a scale, as in policy.quantise
SCALES = (1 + 4 / 256) / BLOCK  # bytes a 4-bit weight takes for its doubly quantised scale


class _SomeRow:
    """A tokenizer of which only the place of the asker's token is asked."""

    def convert_tokens_to_ids(self, token: str) -> int:
        return len(token)


class Speaker(NamedTuple):
    """What of a policy decides whether the row of its new asker token is trained."""

    tokenizer: Any = None
    format: ChatFormat = STLLAVA
    provenance: dict[str, Any] = {}  # noqa: RUF012  (read only)

    @classmethod
    def newcomer(cls) -> Speaker:
        """Of a checkpoint that others published: its asker speaks by a token that is added."""
        return cls(_SomeRow(), STLLAVA, {UNTRAINED: True})

    @classmethod
    def of(cls, policy: Policy) -> Speaker:
        return cls(policy.tokenizer, policy.format, dict(policy.provenance))


def sketch(
    config: Any,
    settings: TrainSection,
    *,
    quantize: str = "none",
    fused_attention: bool = True,
    vision: str = "sdpa",
    speaker: Speaker | None = None,
) -> Policy:
    """The adapted policy of a config in training mode, fp32 as `Policy.load` has it, on meta.

    `fused_attention`: as on a GPU, where attention keeps queries, keys, values and its result, but
    no weights. Else what a CPU computes; `vision` is the encoder's attention there.
    """
    config, speaker = deepcopy(config), speaker or Speaker()
    with torch.device("meta"):
        core = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        # The asker's format and tokenizer are all of the speaker that adapters ask for.
        policy = Policy(core, speaker.tokenizer, None, speaker.format, speaker.provenance)
        policy.rules = rules_of(config)
        if quantize == "nf4":
            _quantise(core)
        adapters.adapt(policy, settings)
    adapters.set_dropout(policy, settings.lora)
    if settings.gradient_checkpointing:
        recompute_layers(policy)
    if fused_attention:
        core.set_attn_implementation({"": FUSED, "text_config": FUSED, "vision_config": FUSED})
    elif vision != "sdpa":
        core.set_attn_implementation({"vision_config": vision})
    policy.model.train()
    return policy


def shapes_only(config: Any) -> Policy:
    """The plain model of a config with fake weights and its vision encoder whole."""
    config = deepcopy(config)
    with torch.device("meta"):
        core = AutoModelForImageTextToText.from_config(config, dtype=torch.float32)
        policy = Policy(core, None, None, STLLAVA)
    give_fake_values(core)
    return policy


def give_fake_values(model: nn.Module) -> None:
    """Tensors of the same shapes that claim to lie on a CPU, in place of those on meta."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    made: dict[int, tuple[Tensor, Tensor]] = {}  # the old one is kept, else its id is used again
    with mode:
        for module in model.modules():
            tables: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for table in tables:
                for name, old in table.items():
                    if old is not None:
                        table[name] = made.setdefault(id(old), (_fake(old), old))[0]


def _fake(old: Tensor) -> Tensor:
    new = torch.empty(old.shape, dtype=old.dtype)
    return nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new


class FourBitLinear(nn.Linear):
    """What `policy.nf4.NF4Linear` keeps and computes: half a byte a weight, whole for a moment."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None)
        packed = torch.empty(linear.weight.numel() // 2, 1, dtype=torch.uint8)
        self.weight = nn.Parameter(packed, requires_grad=False)
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.get_autocast_dtype("cpu"))
        out: Tensor = _FourBitProduct.apply(x, self.in_features, self.out_features)
        return out


class _FourBitProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, size_in: int, size_out: int) -> Tensor:
        ctx.sizes = size_in, size_out
        return F.linear(x, x.new_empty(size_out, size_in))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        size_in, size_out = ctx.sizes
        return grads[0] @ grads[0].new_empty(size_out, size_in), None, None


def _quantise(core: Any) -> None:
    """The maps that `policy.quantise.quantise` would bring to 4 bits."""
    for layer in language_layers(core):
        for name, linear in list(layer.named_modules()):
            if type(linear) is nn.Linear and linear.in_features % BLOCK == 0:
                parent, _, child = name.rpartition(".")
                setattr(layer.get_submodule(parent), child, FourBitLinear(linear))


class _Fused(torch.autograd.Function):
    """Shapes of a fused attention kernel and of what it keeps."""

    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        out = query.new_empty(*query.shape[:-1], value.shape[-1])
        log_sums = query.new_empty(query.shape[:-1], dtype=torch.float32)
        ctx.save_for_backward(query, key, value, out, log_sums)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, ...]:
        return tuple(torch.empty_like(x) for x in ctx.saved_tensors[:3])


def _fused_attention(
    module: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any
) -> tuple[Tensor, None]:
    if torch.is_autocast_enabled("cpu"):
        kind = torch.get_autocast_dtype("cpu")
        query, key, value = query.to(kind), key.to(kind), value.to(kind)
    out: Tensor = _Fused.apply(query, key, value)
    return out.transpose(1, 2).contiguous(), None


AttentionInterface.register(FUSED, _fused_attention)
AttentionMaskInterface.register(FUSED, sdpa_mask)

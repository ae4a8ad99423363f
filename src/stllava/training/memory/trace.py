"""One forward and backward pass of a sketched policy, and the bytes of tensors alive in it.

Nothing is computed: the tensors have shapes and no values. What is counted are unique storages, as
long as they are alive, so that what autograd keeps, what gradient checkpointing keeps instead, and
what passes through on the way back are all seen where the model's own code makes them.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from stllava.policy.families import (
    family_of,
    language_layers,
    num_vision_layers,
    vision_layers,
)
from stllava.policy.policy import Policy
from stllava.training.memory.sketch import give_fake_values
from stllava.tree import TreeBatch, token_log_probs
from stllava.tree.mask import attention_mask, choose_backend, padding_mask


class Traced(NamedTuple):
    """Bytes beside weights, gradients and optimiser states."""

    inputs: int  # token ids, pixels
    vision: int  # kept for the backward pass by vision encoder and projector
    language: int  # by language model and head
    passing: int  # the most that exists for a moment on top, in the backward pass as a rule

    @property
    def peak(self) -> int:
        return sum(self)


class LiveBytes(TorchDispatchMode):
    """Counts every tensor that an operation makes, as long as it is alive."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self.seen: set[int] = set()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        given = {_storage(x) for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)}
        out = func(*args, **(kwargs or {}))
        for x in tree_leaves(out):
            if isinstance(x, Tensor) and _storage(x) not in given:
                self._add(x.untyped_storage())
        return out

    def _add(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if size and key not in self.seen:
            self.seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._drop, key, size)

    def _drop(self, key: int, size: int) -> None:
        self.seen.discard(key)
        self.now -= size


def _storage(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def trace(
    policy: Policy, batch: TreeBatch, *, bf16: bool, backend: str, fused_attention: bool = True
) -> Traced:
    """Run a sketched policy over a batch (on the CPU, with real ids and pixels) and count.

    Gradients of trained tensors exist already, as in every micro-batch of a step after the first.
    """
    core = policy.core
    for parameter in core.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.empty_like(parameter)
    inputs = sum(x.nbytes for x in [*vars(batch).values(), *batch.vision.values()] if _is(x))
    with LiveBytes() as live:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else nullcontext():
            features_FD = image_features(core, batch.vision)
            vision = live.now
            hidden_RTD = _hidden(policy, batch, features_FD, backend, fused_attention)
            logp_N = token_log_probs(core, batch, hidden_RTD)
        del features_FD, hidden_RTD
        loss = logp_N.sum()
        kept = live.now
        loss.backward()
    core.zero_grad(set_to_none=True)
    return Traced(inputs, min(vision, kept), kept - min(vision, kept), live.peak - kept)


def trace_layers(policy: Policy, batch: TreeBatch, **how: Any) -> Traced:
    """`trace` of a sketch on meta, whose layers are cut down to two and then to one.

    A layer keeps what any other keeps, so the rest is a multiple of the difference; what passes
    through does so one layer at a time.
    """
    core = policy.core
    lists = _layer_lists(core)
    depths = {part: used for part, (_, used) in lists.items()}
    _cut(core, lists, 2)
    give_fake_values(policy.model)
    two = trace(policy, batch, **how)
    if max(depths.values()) <= 2:
        return two
    _cut(core, lists, 1)
    one = trace(policy, batch, **how)
    more = {part: max(0, depth - 2) for part, depth in depths.items()}
    return Traced(
        two.inputs,
        two.vision + more["vision"] * (two.vision - one.vision),
        two.language + more["language"] * (two.language - one.language),
        two.passing,
    )


def _layer_lists(core: Any) -> dict[str, tuple[nn.ModuleList, int]]:
    """By part: the list of layers, and how many of them do anything."""
    known = {id(m[0]): m for m in core.modules() if isinstance(m, nn.ModuleList) and len(m)}
    language = known[id(language_layers(core)[0])]
    vision = known[id(vision_layers(core)[0])]
    return {
        "vision": (vision, num_vision_layers(core)),
        "language": (language, len(language)),
    }


def _cut(core: Any, lists: dict[str, tuple[nn.ModuleList, int]], depth: int) -> None:
    """Leave the first `depth` layers that do something, and those that do nothing."""
    for part, (layers, used) in lists.items():
        kept = min(depth, used)
        del layers[kept:used]
        lists[part] = (layers, kept)
    vision = core.model.get_submodule(family_of(core).vision)
    for config in (vision.config, core.config.vision_config):
        if hasattr(config, "num_hidden_layers"):  # the library counts features from the end by it
            config.num_hidden_layers = len(lists["vision"][0])


def _is(x: object) -> bool:
    return isinstance(x, Tensor)


def image_features(core: Any, vision: Mapping[str, Tensor]) -> Tensor:
    """(F, D) what the language model reads in place of image tokens."""
    found = core.get_image_features(**vision).pooler_output
    parts = found if isinstance(found, (list, tuple)) else [found]
    return torch.cat([part.reshape(-1, part.shape[-1]) for part in parts])


def _hidden(
    policy: Policy, batch: TreeBatch, features_FD: Tensor, backend: str, fused_attention: bool
) -> Tensor:
    """What `tree.hidden_states` computes, without looking at values."""
    core = policy.core
    embedded_RTD = core.get_input_embeddings()(batch.ids)
    is_image_RT1 = (batch.ids == core.config.image_token_id)[..., None]
    given: dict[str, Any] = {}
    if not fused_attention:
        given["attention_mask"] = padding_mask(batch)
        if batch.shared:
            chosen = choose_backend(batch, policy.rules, backend)
            image_id = core.config.image_token_id
            given["attention_mask"] = attention_mask(batch, policy.rules, chosen, image_id)
    if batch.shared:
        given["position_ids"] = batch.positions
    hidden: Tensor = core.model.get_submodule(family_of(core).language)(
        inputs_embeds=embedded_RTD.masked_scatter(is_image_RT1, features_FD.to(embedded_RTD.dtype)),
        use_cache=False,
        **given,
    ).last_hidden_state
    return hidden

"""The library's own forward of one sequence at a time: what the token tree is compared with."""

import copy
import dataclasses
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
import toy
from torch import Tensor

from stllava.config import DpoSection, SftSection
from stllava.policy.adapters import GROUPS, group_of
from stllava.training.dpo import DpoObjective
from stllava.training.sft import SftObjective

EXACT = 1e-10  # relative; measured: below 5e-14
CLEAR = 1e-3  # by which each control must fail; measured: 5e-3 and more


class Result(NamedTuple):
    log_probs: Tensor  # (S,) summed over the learned tokens of each sequence
    loss: Tensor
    gradients: dict[str, Tensor]


def plain(policy):
    """A copy with the library's own attention and all its vision layers."""
    twin = copy.deepcopy(policy)
    for module in twin.core.modules():
        vars(module).pop("forward", None)
    twin.core.set_attn_implementation("sdpa")
    return twin


def plain_log_probs(twin, text, image):
    """log p of each learned token; the first token has nothing before it."""
    pixels = twin.pixel_values([toy.open_image(image)])
    logits = twin.core(input_ids=torch.tensor([text.ids]), pixel_values=pixels).logits[0]
    at = [t for t, code in enumerate(text.learned) if code and t]
    return logits.log_softmax(-1)[[t - 1 for t in at], [text.ids[t] for t in at]]


def plain_result(policy, settings, examples):
    twin = plain(policy)
    texts = [(text, example.image) for example in examples for text in example.texts]
    log_probs = [plain_log_probs(twin, *text) for text in texts]
    sums = torch.stack([one.sum() for one in log_probs])
    if isinstance(settings, DpoSection):
        with torch.no_grad(), twin.model.disable_adapter():
            start = torch.stack([plain_log_probs(twin, *text).sum() for text in texts])
        rewards = settings.beta * (sums - start)
        anchor = -sum(one.mean() for one in log_probs[0::2])
        dpo = -F.logsigmoid(rewards[0::2] - rewards[1::2]).sum()
        loss = dpo + settings.nll_weight * anchor
    else:
        loss = -sums.sum()
    loss.backward()
    return Result(sums.detach(), loss.detach(), toy.gradients(twin))


def difference(got, wanted):
    """Largest relative difference of log-probabilities, loss, and each group's gradients."""
    assert got.gradients.keys() == wanted.gradients.keys()
    found = {"log_probs": [relative(got.log_probs, wanted.log_probs)]}
    found["loss"] = [relative(got.loss, wanted.loss)]
    for name, gradient in wanted.gradients.items():
        found.setdefault(group_of(name), []).append(relative(got.gradients[name], gradient))
    assert found.keys() == {"log_probs", "loss", *GROUPS}
    return {part: torch.stack(values).max().item() for part, values in found.items()}


def relative(got, wanted):
    return (got - wanted).abs().max() / wanted.abs().max()


class Case(NamedTuple):
    objective: DpoObjective | SftObjective
    examples: list
    wanted: Result


def build(kind, variant):
    section = DpoSection if kind == "dpo" else SftSection
    anchor = {"nll_weight": 0.1} if kind == "dpo" else {}
    settings = section.model_validate({**toy.TRAINING, **anchor})
    policy = toy.adapted(settings, variant=variant, feature_layer=-2)
    policy.core.double()
    toy.perturb(policy)
    if kind == "dpo":
        pairs = [
            pair.model_copy(update={"image": "aaab"[number % 4]})
            for number, pair in enumerate(toy.preferences(6))
        ]
        objective = DpoObjective(policy, pairs, toy.open_image, settings)
    else:
        objective = SftObjective(policy, toy.conversations(6), toy.open_image, settings, 0, kind)
    examples = [objective.example(record, 0) for record in objective.ids]
    return Case(objective, examples, plain_result(policy, settings, examples))


case = cache(build)
KINDS, VARIANTS = ("dpo", "turns", "records"), ("mlp", "prototype")


def tree_result(case, change=lambda batch: batch, backend="dense"):
    objective, policy = case.objective, case.objective.policy
    micro = objective.micro_batch(case.examples)
    micro.batch = change(micro.batch)
    scorer = toy.scorer_of(dataclasses.replace(policy, backend=backend))
    policy.core.zero_grad()
    loss = objective.loss(scorer, micro).total
    loss.backward()
    with torch.no_grad():
        log_probs = scorer(micro.batch)
    sums = log_probs.new_zeros(len(micro.batch.last)).index_add(0, micro.batch.sequence, log_probs)
    return Result(sums, loss.detach(), toy.gradients(policy))


def assert_exact(got, wanted):
    found = difference(got, wanted)
    assert all(value < EXACT for value in found.values()), found


def positions_not_restarted(batch):
    along = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    return dataclasses.replace(batch, positions=along)

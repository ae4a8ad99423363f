"""The <vusr> token for a policy that has none: one row more, and the way to train only that row."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from stllava.formats import VUSR, Asker, with_asker

if TYPE_CHECKING:
    from stllava.policy.policy import Policy

UNTRAINED = "asker_untrained"  # in the card, until a training has seen <vusr>


def set_asker(policy: Policy, asker: Asker) -> None:
    """Let the asker speak as a recipe says, in place; call before adapters.

    Raises RecipeError if the policy's chat format cannot; "auto" leaves what its card records.
    """
    form = with_asker(policy.format, asker)
    if form.asked_by == "token":
        add_asker_token(policy)
    policy.format = form
    policy.provenance["asker"] = form.asked_by


def add_asker_token(policy: Policy) -> bool:
    """Let the asker speak by <vusr>, in place; call before adapters. Returns whether it was new.

    The token's rows in embedding and head start as the mean of all rows. What the card says of
    the asker changes with it.
    """
    new = VUSR not in policy.tokenizer.get_vocab()
    if new:
        policy.tokenizer.add_special_tokens(
            {"additional_special_tokens": [VUSR]}, replace_extra_special_tokens=False
        )
        _grow(policy)
        policy.provenance[UNTRAINED] = True
    policy.format = with_asker(policy.format, "token")
    policy.provenance["asker"] = "token"
    return new


def _grow(policy: Policy) -> None:
    token = int(policy.tokenizer.convert_tokens_to_ids(VUSR))
    model = policy.core
    rows = model.get_input_embeddings().weight.shape[0]
    known = min(rows, token)
    if token >= rows:
        model.resize_token_embeddings(token + 1, mean_resizing=False)
    with torch.no_grad():
        for layer in (model.get_input_embeddings(), model.get_output_embeddings()):
            layer.weight[token] = layer.weight[:known].float().mean(0).to(layer.weight.dtype)


def asker_token_indices(policy: Policy) -> dict[str, list[int]] | None:
    """For `peft.LoraConfig(trainable_token_indices=...)`: the embedding row of <vusr> and no other.

    The row of the head is not trained: roles are never learned, so <vusr> is never predicted.
    None where the asker speaks by text.
    """
    if policy.format.asked_by == "text":
        return None
    return {"embed_tokens": [int(policy.tokenizer.convert_tokens_to_ids(VUSR))]}

"""Log-probabilities of learned tokens: the one forward pass of both training stages.

Shapes: I images, R rows, T tokens, N learned tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from stllava.chat import Tokens
from stllava.errors import DataError


@dataclass
class Batch:
    """Rows of tokens and the images they talk about; each image is there once."""

    pixels: Tensor  # (I, 3, H, W)
    image_of_row: Tensor  # (R,)
    input_ids: Tensor  # (R, T), right-padded
    attention_mask: Tensor  # (R, T)
    rows: Tensor  # (N,) row of each learned token
    columns: Tensor  # (N,) its position
    codes: Tensor  # (N,) chat.QUESTION or chat.ANSWER

    def to(self, device: torch.device) -> Batch:
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def make_batch(
    sequences: Sequence[Tokens], pixels: Tensor, image_of_row: Sequence[int], max_tokens: int
) -> tuple[Batch, int]:
    """Pad sequences to the right. Returns the batch and how many sequences were cut short.

    Raises DataError if a sequence would lose image tokens or all its learned ones.
    """
    cut = [Tokens(s.ids[:max_tokens], s.learned[:max_tokens]) for s in sequences]
    num_cut = sum(len(s.ids) > max_tokens for s in sequences)
    width = max(len(s.ids) for s in cut)
    input_ids = torch.zeros(len(cut), width, dtype=torch.long)
    mask = torch.zeros_like(input_ids)
    learned = torch.zeros_like(input_ids)
    for row, (ids, codes) in enumerate(cut):
        if not any(codes):
            raise DataError(f"no learned token within {max_tokens} tokens; raise max_tokens")
        input_ids[row, : len(ids)] = torch.tensor(ids)
        mask[row, : len(ids)] = 1
        learned[row, : len(ids)] = torch.tensor(codes)
    rows, columns = learned.nonzero(as_tuple=True)
    index = torch.tensor(list(image_of_row))
    return Batch(pixels, index, input_ids, mask, rows, columns, learned[rows, columns]), num_cut


class TokenScorer(nn.Module):
    """Wraps a policy's model so that training always goes through one `forward` (DDP, FSDP)."""

    def __init__(self, core: Any, image_token_id: int) -> None:
        super().__init__()
        self.core = core
        self.image_token_id = image_token_id

    def forward(self, batch: Batch) -> Tensor:
        """log p(token | what precedes it) of each learned token. Returns (N,), in nats, float32."""
        features = self.core.get_image_features(pixel_values=batch.pixels).pooler_output
        features_ILD = torch.stack(list(features))
        embeds = self.core.get_input_embeddings()(batch.input_ids)
        is_image = (batch.input_ids == self.image_token_id).unsqueeze(-1)
        image_rows = features_ILD[batch.image_of_row].to(embeds.dtype)
        embeds = embeds.masked_scatter(is_image, image_rows)
        hidden_RTD = self.core.model.language_model(
            inputs_embeds=embeds, attention_mask=batch.attention_mask, use_cache=False
        ).last_hidden_state
        predictors_ND = hidden_RTD[batch.rows, batch.columns - 1]  # position t predicts t + 1
        logits_NV = self.core.lm_head(predictors_ND).float()
        targets_N = batch.input_ids[batch.rows, batch.columns]
        return logits_NV.log_softmax(-1).gather(-1, targets_N.unsqueeze(-1)).squeeze(-1)

"""SQ-LLaVA: LLaVA whose projector first groups the image's patches into prototypes.

Architecture of Sun et al. 2024 (ECCV), which section 4.1 of the paper follows. Parameter names and
every quirk are those of the published checkpoints (`mm_projector.{sim_alpha,sim_beta,c,v,f,ln_1,
mlp.0,mlp.2}`), else their weights would mean something else.

Shapes: B images, L patches, D vision width, N centres.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForImageTextToText,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaModel,
)
from transformers.conversion_mapping import (
    get_checkpoint_conversion_mapping,
    register_checkpoint_conversion_mapping,
)


class SqlLavaConfig(LlavaConfig):
    """LlavaConfig plus the prototype extractor's two numbers (published: 256 of 576, 2)."""

    model_type = "sqllava"

    num_centers: int = 256
    num_cluster_iterations: int = 2


class QuickGELU(nn.Module):
    """x * sigmoid(1.702 x), CLIP's cheap GELU."""

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(1.702 * x)


class PrototypeProjector(nn.Module):
    """Adds to each patch the prototype it belongs to, then maps to the language model's width.

    Equal to the published loop over [B, N, L, D] products, as batched matrix products: each patch
    has exactly one nearest centre, so the sums over patches and centres are S @ f and S^T @ out.
    Kept quirks: the softmax runs over centres, `value` is normalised over patches, `ln_1` is never
    applied (frozen here, so that no trainable tensor goes without gradient).
    """

    def __init__(self, config: SqlLavaConfig) -> None:
        super().__init__()
        width, text_width = config.vision_config.hidden_size, config.text_config.hidden_size
        self.num_iterations = config.num_cluster_iterations
        self.sim_alpha = nn.Parameter(torch.ones(1, 1, 1))
        self.sim_beta = nn.Parameter(torch.zeros(1, 1, 1))
        self.c = nn.Linear(width, width)
        self.v = nn.Linear(width, width)
        self.f = nn.Linear(width, width)
        self.ln_1 = nn.LayerNorm(width).requires_grad_(False)
        self.pool = nn.AdaptiveAvgPool1d(config.num_centers)
        self.mlp = nn.Sequential(
            nn.Linear(width, text_width), QuickGELU(), nn.Linear(text_width, text_width)
        )

    def forward(self, image_features: Tensor) -> Tensor:
        """(B, L, D) patches to (B, L, text width)."""
        return self.mlp(image_features + self.prototypes(image_features))

    def prototypes(self, x_BLD: Tensor) -> Tensor:
        """For each patch its prototype, weighted by their similarity. Returns (B, L, D)."""
        value_BDL = F.normalize(self.v(x_BLD).transpose(1, 2), dim=-1)  # over L: as published
        feature_BLD = self.f(x_BLD)
        centers_BND = self._pool(x_BLD)
        pooled_feature_BND = self._pool(feature_BLD)
        for _ in range(self.num_iterations):
            centers_BND = self.c(centers_BND)
            assign_BNL = (F.normalize(centers_BND, dim=-1) @ value_BDL).softmax(dim=1)
            centers_BND = assign_BNL @ feature_BLD
        cosine_BNL = F.normalize(centers_BND, dim=-1) @ F.normalize(x_BLD, dim=-1).transpose(1, 2)
        similarity_BNL = torch.sigmoid(self.sim_beta + self.sim_alpha * cosine_BNL)
        nearest_B1L = similarity_BNL.argmax(dim=1, keepdim=True)
        mask_BNL = torch.zeros_like(similarity_BNL).scatter_(1, nearest_B1L, 1.0)
        weight_BNL = similarity_BNL * mask_BNL
        size_BN1 = mask_BNL.sum(dim=-1, keepdim=True) + 1.0
        out_BND = (weight_BNL @ feature_BLD + pooled_feature_BND) / size_BN1
        return weight_BNL.transpose(1, 2) @ out_BND

    def _pool(self, x_BLD: Tensor) -> Tensor:
        return self.pool(x_BLD.transpose(1, 2)).transpose(1, 2)


class SqlLavaModel(LlavaModel):
    """LlavaModel with the prototype projector."""

    config_class = SqlLavaConfig

    def __init__(self, config: SqlLavaConfig) -> None:
        super().__init__(config)
        self.multi_modal_projector = PrototypeProjector(config)
        self.post_init()


class SqlLavaForConditionalGeneration(LlavaForConditionalGeneration):
    """SQ-LLaVA with its language-model head, known to `AutoModelForImageTextToText`."""

    config_class = SqlLavaConfig

    def __init__(self, config: SqlLavaConfig) -> None:
        super().__init__(config)
        self.model = SqlLavaModel(config)
        self.post_init()


def register() -> None:
    """Make the Auto classes know SQ-LLaVA; safe to call twice.

    Weights are read under LLaVA's key names on the hub too, which exported folders have. The
    library finds its renamings by model type, and inside the model by the name of the class.
    """
    AutoConfig.register(SqlLavaConfig.model_type, SqlLavaConfig, exist_ok=True)
    AutoModel.register(SqlLavaConfig, SqlLavaModel, exist_ok=True)
    AutoModelForImageTextToText.register(
        SqlLavaConfig, SqlLavaForConditionalGeneration, exist_ok=True
    )
    for ours, theirs in (
        (SqlLavaConfig.model_type, LlavaConfig.model_type),
        (SqlLavaModel.__name__, LlavaModel.__name__),
    ):
        renaming = get_checkpoint_conversion_mapping(theirs)
        register_checkpoint_conversion_mapping(ours, renaming, overwrite=True)


register()

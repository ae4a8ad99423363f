"""The model that published tensors make: its config from theirs, its tensors' names and shapes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import isqrt
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
)

from stllava.errors import PolicyError
from stllava.formats import MISTRAL, V1, V1_SQ, ChatFormat
from stllava.policy.published.keys import Shape, canonical
from stllava.policy.published.layout import LLAVA_TYPES, TEXT_MODELS, read_config
from stllava.policy.sqllava import SqlLavaConfig, SqlLavaForConditionalGeneration

Projector = Literal["prototype", "mlp"]

TEXT_CONFIGS = {"llama": LlamaConfig, "mistral": MistralConfig}
LEGACY_ROPE = ("rope_theta", "rope_scaling")  # how configs up to transformers 4 say it
CLIP_HEAD = 64  # width of one attention head in every published CLIP vision transformer
CLASSES: dict[Projector, tuple[Any, Any]] = {
    "prototype": (SqlLavaConfig, SqlLavaForConditionalGeneration),
    "mlp": (LlavaConfig, LlavaForConditionalGeneration),
}


class Blueprint(NamedTuple):
    """Config and class of the model, and its tensors: canonical name to (own name, shape)."""

    config: Any
    model_class: Any
    projector: Projector
    tensors: dict[str, tuple[str, Shape]]

    @property
    def shapes(self) -> dict[str, Shape]:
        return {name: shape for name, (_, shape) in self.tensors.items()}

    @property
    def chat_format(self) -> ChatFormat:
        """How the published files with this projector and language model write a conversation."""
        if self.projector == "prototype":
            return V1_SQ
        return MISTRAL if self.config.text_config.model_type == "mistral" else V1


def projector_of(names: Iterable[str], where: str) -> Projector:
    """Which projector canonical names spell. Raises PolicyError if it is none of ours."""
    prefix = "multi_modal_projector."
    found = {name.removeprefix(prefix) for name in names if name.startswith(prefix)}
    if not found:
        raise PolicyError(f"{where}: no projector in it; name its file with --projector")
    if "sim_alpha" in found:
        return "prototype"
    if {name.split(".")[0] for name in found} == {"linear_1", "linear_2"}:
        return "mlp"
    raise PolicyError(
        f"{where}: projector of {', '.join(sorted(found)[:3])}: "
        "neither mlp2x_gelu nor the prototype extractor"
    )


def text_config(path: Path) -> Any:
    """The language model's config, of a LLaVA folder or a language model's."""
    said = read_config(path)
    if isinstance(said.get("text_config"), dict):
        return LlavaConfig.from_dict(said).text_config
    kind = {**TEXT_MODELS, **LLAVA_TYPES}.get(str(said.get("model_type")))
    if kind is None:
        raise PolicyError(
            f"{path / 'config.json'}: model_type {said.get('model_type')!r} is neither a LLaVA "
            "nor a Llama or Mistral"
        )
    if said.get("quantization_config"):
        raise PolicyError(f"{path / 'config.json'}: quantized weights cannot be converted")
    made = TEXT_CONFIGS[kind]
    return made(
        **_known(made, said), **{k: said[k] for k in LEGACY_ROPE if said.get(k) is not None}
    )


def _known(made: Any, said: Mapping[str, Any]) -> dict[str, Any]:
    """The fields that a config class has, without those about files and versions."""
    foreign = {"model_type", "architectures", "transformers_version", "dtype", "torch_dtype"}
    return {k: v for k, v in said.items() if k in set(made().to_dict()) - foreign}


def vision_config(path: Path, shapes: Mapping[str, Shape]) -> Any:
    """The vision encoder's config as its folder says it, else as its tensors imply."""
    said = read_config(path)
    inner = said.get("vision_config")
    if said.get("model_type") in ("clip", "llava") and isinstance(inner, dict):
        if inner.get("model_type", "clip_vision_model") != "clip_vision_model":
            raise PolicyError(f"{path}: vision encoder {inner['model_type']}, not CLIP's")
        said = (
            inner
            if said["model_type"] == "clip"
            else LlavaConfig.from_dict(said).vision_config.to_dict()
        )
    elif said.get("model_type") != "clip_vision_model":
        return _implied(path, shapes)
    return CLIPVisionConfig(**_known(CLIPVisionConfig, said))


def _implied(path: Path, shapes: Mapping[str, Shape]) -> Any:
    """CLIP's config from canonical shapes: width, depth, patch and image are all in them."""
    try:
        patches = shapes["vision_tower.embeddings.position_embedding.weight"][0] - 1
        width, channels, patch, _ = shapes["vision_tower.embeddings.patch_embedding.weight"]
        inner = shapes["vision_tower.encoder.layers.0.mlp.fc1.weight"][0]
    except (KeyError, ValueError, IndexError):
        raise PolicyError(
            f"{path}: no CLIP vision encoder in it; name its folder with --vision"
        ) from None
    layers = {
        name.split(".")[3] for name in shapes if name.startswith("vision_tower.encoder.layers.")
    }
    return CLIPVisionConfig(
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=len(layers),
        num_attention_heads=max(1, width // CLIP_HEAD),
        num_channels=channels,
        patch_size=patch,
        image_size=isqrt(patches) * patch,
    )


def draw(text: Any, vision: Any, projector: Projector, said: Mapping[str, Any]) -> Blueprint:
    """The blueprint; `said` is the LLaVA folder's config.json, which names the feature layer.

    Nothing is allocated: the model is built on torch's meta device.
    """
    strategy = said.get("vision_feature_select_strategy") or (
        "full" if said.get("mm_vision_select_feature") == "cls_patch" else "default"
    )
    layer = said.get("vision_feature_layer", said.get("mm_vision_select_layer", -2))
    config_class, model_class = CLASSES[projector]
    kept = {k: said[k] for k in ("projector_hidden_act", "multimodal_projector_bias") if k in said}
    config = config_class(
        **kept,
        text_config=text,
        vision_config=vision,
        vision_feature_layer=layer,
        vision_feature_select_strategy=strategy,
        image_seq_length=(vision.image_size // vision.patch_size) ** 2 + (strategy == "full"),
        tie_word_embeddings=bool(text.tie_word_embeddings),
    )
    with torch.device("meta"):
        state = model_class(config).state_dict()
    tensors = {canonical(own): (own, tuple(t.shape)) for own, t in state.items()}
    if config.tie_word_embeddings:
        tensors.pop("lm_head.weight", None)
    return Blueprint(config, model_class, projector, tensors)

"""Models of real sizes with random weights, from their configs alone: for `gpu`.

Sizes are those of the published checkpoints; each has a toy of the same family beside it, so that
the program runs anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import transformers as tf
from peft import LoraConfig
from torch import Tensor

from stllava.policy.families import family_of, lora_targets, projector_modules

IMAGE_ID = 2


class Family(NamedTuple):
    """One model, and what its processor would say about an image."""

    config: Any
    num_image_tokens: int
    image: Callable[[torch.Generator], dict[str, Tensor]]  # arguments of one drawn image

    @property
    def vocabulary(self) -> int:
        return int(self.config.get_text_config().vocab_size)


def adapter(core: Any, llm_rank: int, vit_rank: int) -> LoraConfig:
    """LoRA on both sides and the projector in full, as `stllava.policy.adapters` has it."""
    vision = rf"(?:.*\.)?{family_of(core).vision}\..*"
    return LoraConfig(
        r=llm_rank,
        lora_alpha=2 * llm_rank,
        target_modules="|".join(f"({lora_targets(core, p)})" for p in ("language", "vision")),
        rank_pattern={vision: vit_rank},
        alpha_pattern={vision: 2 * vit_rank},
        modules_to_save=projector_modules(core),
    )


def llava(*, tiny: bool) -> Family:
    """LLaVA-1.5-7B: CLIP-L/336 and LLaMA-2-7B."""
    size = 56 if tiny else 336
    eye = {"image_size": size, "patch_size": 14}
    if tiny:
        text = tf.LlamaConfig(**_TINY_TEXT)
        vision = tf.CLIPVisionConfig(**eye, **_TINY_EYE)
    else:
        text = tf.LlamaConfig(vocab_size=32064)  # the defaults are LLaMA-2-7B's
        vision = tf.CLIPVisionConfig(
            **eye,
            hidden_size=1024,
            intermediate_size=4096,
            num_hidden_layers=24,
            num_attention_heads=16,
            projection_dim=768,
        )
    config = tf.LlavaConfig(
        vision_config=vision, text_config=text, image_token_index=IMAGE_ID, vision_feature_layer=-2
    )
    return Family(
        config,
        (size // 14) ** 2,
        lambda g: {"pixel_values": torch.randn(1, 3, size, size, generator=g)},
    )


def qwen(*, tiny: bool) -> Family:
    """Qwen2.5-VL-3B, 3.8 billion parameters; images of 448 x 448: 256 tokens."""
    side = 8 if tiny else 32  # patches; four of them are a token
    if tiny:
        text: dict[str, Any] = {**_TINY_TEXT, "rope_parameters": _rope(2, 3, 3)}
        eye: dict[str, Any] = {
            "depth": 2,
            "num_heads": 2,
            "hidden_size": 32,
            "out_hidden_size": _TINY_TEXT["hidden_size"],
            "intermediate_size": 64,
            "fullatt_block_indexes": [1],
        }
    else:
        text = {
            "hidden_size": 2048,
            "intermediate_size": 11008,
            "num_hidden_layers": 36,
            "num_attention_heads": 16,
            "num_key_value_heads": 2,
            "vocab_size": 151936,
            "tie_word_embeddings": True,
            "rope_parameters": _rope(16, 24, 24),
        }
        eye = {"out_hidden_size": 2048}  # the rest of the defaults is right
    config = tf.Qwen2_5_VLConfig(
        text_config=text,
        vision_config=eye,
        image_token_id=IMAGE_ID,
        video_token_id=5,
        vision_start_token_id=6,
        vision_end_token_id=7,
        tie_word_embeddings=not tiny,
    )
    return Family(
        config,
        (side // 2) ** 2,
        lambda g: {
            "pixel_values": torch.randn(side**2, 3 * 2 * 14 * 14, generator=g),
            "image_grid_thw": torch.tensor([[1, side, side]]),
        },
    )


def gemma(*, tiny: bool) -> Family:
    """Gemma-3-4B: 4.3 billion parameters; images of 896 x 896: 256 tokens."""
    size, tokens = (56, 16) if tiny else (896, 256)
    if tiny:
        text = tf.Gemma3TextConfig(**_TINY_TEXT, head_dim=16, sliding_window=16)
        vision = tf.SiglipVisionConfig(
            image_size=size, patch_size=14, vision_use_head=False, **_TINY_EYE
        )
    else:
        text = tf.Gemma3TextConfig(
            vocab_size=262208,
            hidden_size=2560,
            intermediate_size=10240,
            num_hidden_layers=34,
            num_attention_heads=8,
            num_key_value_heads=4,
            head_dim=256,
            sliding_window=1024,
        )
        vision = tf.SiglipVisionConfig(
            hidden_size=1152,
            intermediate_size=4304,
            num_hidden_layers=27,
            num_attention_heads=16,
            image_size=size,
            patch_size=14,
            vision_use_head=False,
        )
    config = tf.Gemma3Config(
        text_config=text,
        vision_config=vision,
        mm_tokens_per_image=tokens,
        image_token_index=IMAGE_ID,
    )
    return Family(
        config,
        tokens,
        lambda g: {"pixel_values": torch.randn(1, 3, size, size, generator=g)},
    )


SHAPES: dict[str, Callable[..., Family]] = {
    "llava-7b": llava,
    "qwen-4b": qwen,
    "gemma-4b": gemma,
}

_TINY_TEXT: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 200,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
_TINY_EYE: dict[str, Any] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


def _rope(*sections: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e6, "mrope_section": list(sections)}

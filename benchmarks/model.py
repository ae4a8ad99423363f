"""A policy with random weights in the proportions of a LLaVA, small enough for a CPU.

Speed does not depend on what weights know. The vocabulary is 2,000 words, so that the head is 4 %
of the language model's weights, near LLaVA-7B's 2 %: with 32,000 words and a width of 512 it would
be 65 %, and would exaggerate whatever is done about logits.
"""

from __future__ import annotations

import random
import re
import zlib
from dataclasses import replace
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image as PILImage
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaProcessor,
    PreTrainedTokenizerFast,
)

from stllava.config import DpoSection, LoraSection, TrainSection
from stllava.formats import IMAGE, STLLAVA
from stllava.policy import adapters
from stllava.policy.policy import Policy
from stllava.records import Draw, Preference

VOCABULARY = 2000
SPECIAL = ["<pad>", "</s>", IMAGE, "<unk>", "<vusr>", "USER:", "ASSISTANT:"]
WORDS = [f"w{number}" for number in range(VOCABULARY - len(SPECIAL))]
PAD, END, IMAGE_ID = range(3)
PROMPT_WORDS = 35  # of the system text, as LLaVA's


class Shape(NamedTuple):
    """Sizes of a LLaVA; the defaults are those of docs/performance.md."""

    layers: int = 8
    width: int = 512
    inner: int = 1376
    heads: int = 8
    vision_layers: int = 6
    vision_width: int = 192
    size: int = 336
    patch: int = 14
    llm_rank: int = 128
    vit_rank: int = 32

    @property
    def num_patches(self) -> int:
        return (self.size // self.patch) ** 2


MID = Shape()
TINY = Shape(2, 32, 64, 2, 2, 32, 56, 14, 4, 2)  # 16 patches; a test runs everything with it


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One id a word: texts of a given number of tokens are a matter of counting."""
    words = {word: number for number, word in enumerate(SPECIAL + WORDS)}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=[IMAGE, "<vusr>"],
    )


def make_processor() -> LlavaProcessor:
    """For libraries that want both parts in one."""
    return LlavaProcessor(
        CLIPImageProcessorPil(),
        make_tokenizer(),
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" drops again
    )


def make_policy(shape: Shape = MID, *, seed: int = 0) -> Policy:
    """Random weights, fp32. It never says a special word, so that lengths are what is asked for."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=shape.vision_width,
        intermediate_size=4 * shape.vision_width,
        num_hidden_layers=shape.vision_layers,
        num_attention_heads=shape.vision_width // min(64, shape.vision_width),
        image_size=shape.size,
        patch_size=shape.patch,
        projection_dim=shape.vision_width,
    )
    text = LlamaConfig(
        hidden_size=shape.width,
        intermediate_size=shape.inner,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        vocab_size=VOCABULARY,
        max_position_embeddings=2048,
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
        tie_word_embeddings=False,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=IMAGE_ID,
        image_seq_length=shape.num_patches,
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
    )
    model: Any = LlavaForConditionalGeneration(config).eval()
    model.lm_head.weight.data[: len(SPECIAL)] = 0  # far from the largest of 2,000 logits
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": shape.size}, crop_size={"height": shape.size, "width": shape.size}
    )
    system = " ".join(WORDS[:PROMPT_WORDS]) + " "
    return Policy(model, make_tokenizer(), processor, replace(STLLAVA, system=system))


def lora_of(shape: Shape) -> LoraSection:
    return LoraSection(
        llm_rank=shape.llm_rank,
        llm_alpha=2 * shape.llm_rank,
        vit_rank=shape.vit_rank,
        vit_alpha=2 * shape.vit_rank,
    )


def adapt(policy: Policy, settings: TrainSection) -> None:
    """Adapters as a stage puts them on, moved off their start: policy and reference differ."""
    torch.manual_seed(1)
    adapters.adapt(policy, settings)
    adapters.set_dropout(policy, settings.lora)
    noise = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.core.parameters():
            if parameter.requires_grad:
                parameter.add_(0.005 * torch.randn(parameter.shape, generator=noise))


def dpo_settings(shape: Shape = MID) -> DpoSection:
    return DpoSection(lora=lora_of(shape))


@lru_cache(maxsize=64)
def open_image(name: str) -> PILImage.Image:
    """Noise that depends on nothing but the name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    return PILImage.fromarray(rng.integers(0, 256, (512, 512, 3), dtype=np.uint8))


def words(rng: random.Random, low: int, high: int) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(low, high)))


def preferences(images: int, questions: int, *, seed: int = 0, short: int = 1) -> list[Preference]:
    """Drawn pairs: questions of 15 to 30 tokens, answers of 40 to 120, divided by `short`."""
    rng = random.Random(seed)
    made = []
    for image in range(images):
        for number in range(questions):
            name = f"i{seed}-{image}/q{number}"
            question = words(rng, 15 // short, 30 // short)
            draws = [
                Draw(request_id=name, index=i, text=words(rng, 40 // short, 120 // short))
                for i in range(2)
            ]
            made.append(
                Preference(
                    id=name,
                    answers_id=name,
                    image=f"i{seed}-{image}",
                    question=question,
                    chosen=draws[0],
                    rejected=draws[1],
                    margin=1.0,
                    source="drawn",
                )
            )
    return made


def as_words(text: str) -> str:
    """A real text in the toy vocabulary: pieces of up to five letters, as real tokenizers cut."""
    pieces = re.findall(r"\w{1,5}|[^\w\s]", text.lower())
    return " ".join(WORDS[zlib.crc32(piece.encode()) % len(WORDS)] for piece in pieces)

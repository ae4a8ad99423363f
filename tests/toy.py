"""Tiny real things for the tests of the core: a tokenizer, random policies, pictures, records.

Everything is seeded and small enough that a training step takes milliseconds. Nothing is mocked:
these are the classes that the package trains and saves.
"""

from __future__ import annotations

import random
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from PIL import Image as PILImage
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from stllava.config import DpoSection, LoraSection, SftSection
from stllava.formats import STLLAVA
from stllava.policy import adapters
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer
from stllava.policy.sqllava import SqlLavaConfig, SqlLavaForConditionalGeneration
from stllava.records import Conversation, Draw, Preference, Turn

torch.set_num_threads(1)  # toys are fastest so, and their floats the same on any machine

SIZE, PATCH, WIDTH, LAYERS = 32, 8, 32, 2
NUM_PATCHES = (SIZE // PATCH) ** 2
PAD, END, IMAGE, VUSR = range(4)  # token ids

SENTENCES = (
    "USER: Is there a nodule in the left lung? ASSISTANT: Yes, a small nodule on the left.",
    "USER: What organ is shown? ASSISTANT: The liver, with two large cysts.",
    "USER: Can you describe the image in detail? ASSISTANT: A chest X-ray without findings.",
    "USER: How many lesions are there? ASSISTANT: Three lesions in the right hemisphere.",
)

LORA = LoraSection(llm_rank=4, llm_alpha=8, vit_rank=2, vit_alpha=4)
TRAINING = {"lora": LORA, "batch_size": 4, "micro_batch_tokens": 100, "max_tokens": 256}


@cache
def tokenizer() -> PreTrainedTokenizerFast:
    """Byte-level BPE on a few sentences: every text can be written, control tokens included."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<pad>", "</s>", "<image>", "<vusr>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<pad>",
        eos_token="</s>",
        additional_special_tokens=["<image>", "<vusr>"],
    )


def policy(variant: str = "prototype", *, seed: int = 0, feature_layer: int = -1) -> Policy:
    """A policy with random weights; "prototype" is SQ-LLaVA, "mlp" is plain LLaVA."""
    torch.manual_seed(seed)
    vision = CLIPVisionConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        image_size=SIZE,
        patch_size=PATCH,
        projection_dim=WIDTH,
    )
    text = LlamaConfig(
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=2,
        vocab_size=len(tokenizer()),
        max_position_embeddings=512,
        initializer_range=0.3,  # far from uniform, so that wrong tokens show in every comparison
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=END,
        tie_word_embeddings=False,
    )
    common: dict[str, Any] = {
        "vision_config": vision,
        "text_config": text,
        "image_token_index": IMAGE,
        "image_seq_length": NUM_PATCHES,
        "vision_feature_layer": feature_layer,
        "vision_feature_select_strategy": "default",
    }
    model: Any
    if variant == "prototype":
        model = SqlLavaForConditionalGeneration(SqlLavaConfig(num_centers=7, **common))
    else:
        model = LlavaForConditionalGeneration(LlavaConfig(**common))
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE},
        crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.4, 0.4, 0.4],
        image_std=[0.25, 0.25, 0.25],
    )
    return Policy(model.eval(), tokenizer(), processor, STLLAVA)


def adapted(settings: SftSection | DpoSection, *, seed: int = 0, **kinds: Any) -> Policy:
    """A toy policy wrapped with fresh adapters, as a training stage wraps it."""
    toy = policy(seed=seed, **kinds)
    torch.manual_seed(seed)
    adapters.adapt(toy, settings)
    adapters.set_dropout(toy, settings.lora)
    return toy


def scorer_of(toy: Policy) -> TokenScorer:
    return TokenScorer.of(toy)


def perturb(toy: Policy, *, seed: int = 1, scale: float = 0.05) -> None:
    """Move every trainable tensor away from its start, as training would."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in toy.core.parameters():
            if parameter.requires_grad:
                parameter.add_(scale * torch.randn(parameter.shape, generator=noise))


@lru_cache(maxsize=64)
def open_image(name: str) -> PILImage.Image:
    """A blocky picture that depends on nothing but its name."""
    rng = np.random.default_rng(list(name.encode()))
    blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
    return PILImage.fromarray(blocks.repeat(SIZE // 4, axis=0).repeat(SIZE // 4, axis=1))


def conversations(number: int, *, seed: int = 0) -> list[Conversation]:
    """Conversations of one to three turns; every image has two of them."""
    rng = random.Random(seed)
    words = " ".join(SENTENCES).replace("USER:", "").replace("ASSISTANT:", "").split()

    def said(low: int, high: int) -> str:
        return " ".join(rng.choices(words, k=rng.randint(low, high)))

    return [
        Conversation(
            id=f"i{index // 2}/c{index}",
            image=f"i{index // 2}",
            turns=tuple(
                Turn(question=said(3, 8) + "?", answer=said(1, 8)) for _ in range(rng.randint(1, 3))
            ),
        )
        for index in range(number)
    ]


def preferences(number: int, *, seed: int = 0, **fields: Any) -> list[Preference]:
    """Pairs with spliced token ids, as the answer stage records them; two per image."""
    rng = random.Random(seed)

    def draw(request_id: str, index: int) -> Draw:
        ids = [rng.randrange(4, len(tokenizer())) for _ in range(rng.randint(1, 9))]
        text = tokenizer().decode(ids)
        return Draw(request_id=request_id, index=index, text=text, token_ids=(*ids, END))

    return [
        Preference(
            id=f"i{index // 2}/q{index}",
            answers_id=f"i{index // 2}/q{index}",
            image=f"i{index // 2}",
            question=rng.choice(SENTENCES)[6:30] + "?",
            chosen=draw(f"i{index // 2}/q{index}", 0),
            rejected=draw(f"i{index // 2}/q{index}", 1),
            margin=2.0,
            source="toy",
            **fields,
        )
        for index in range(number)
    ]


def gradients(toy: Policy) -> dict[str, torch.Tensor]:
    """Gradient of every trainable tensor, by name."""
    named = toy.core.named_parameters()
    return {n: p.grad.clone() for n, p in named if p.requires_grad and p.grad is not None}

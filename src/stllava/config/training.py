"""The policy, and both trainings."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from stllava.config.section import Section


class ModelSection(Section):
    """The policy a run starts from."""

    # Folder of a checkpoint, a hub id (owner/name), or a packaged base policy's name
    path: str = "base-prototype"
    # How the policy asks: as its checkpoint records, by the token <vusr>, or by the text VUSER
    asker: Literal["auto", "token", "text"] = "auto"
    image_side: int | None = Field(None, ge=14)  # pixels, for families that take any size
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of training; on a CPU generation is fp32
    # QLoRA: nf4 keeps the frozen language model in 4 bits while adapters are trained on it
    quantize: Literal["none", "nf4"] = "none"
    # Where a training is estimated to need more than the GPU has: stop before it, or go on
    memory_check: Literal["stop", "warn"] = "stop"
    # Over the token tree. auto: flex on CUDA; on a CPU blocks for long rows, else dense.
    attention: Literal["auto", "dense", "blocks", "flex"] = "auto"
    threads: int = Field(0, ge=0)  # CPU threads; 0: all


class LoraSection(Section):
    """Adapters (section 4.1): LLM r 128 alpha 256, ViT r 32 alpha 64."""

    llm_rank: int = Field(128, ge=0)
    llm_alpha: int = 256
    llm_dropout: float = Field(0.0, ge=0, lt=1)
    vit_rank: int = Field(32, ge=0)  # 0: the vision encoder stays frozen
    vit_alpha: int = 64
    vit_dropout: float = Field(0.0, ge=0, lt=1)


class TrainSection(Section):
    """What both training stages share."""

    lora: LoraSection = LoraSection()
    train_projector: bool = True
    lr_llm: float = 2e-4
    lr_vit: float = 2e-4
    lr_projector: float = 5e-5
    epochs: int = Field(1, ge=0)
    batch_size: int = Field(128, ge=1)  # records per optimiser step, over all devices
    # Tokens per forward pass on one device, padding included. Records of an image share theirs.
    micro_batch_tokens: int = Field(8192, ge=1)
    max_tokens: int = Field(2048, ge=1)  # longer answers are cut, image tokens never
    warmup_ratio: float = Field(0.03, ge=0, lt=1)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    weight_decay: float = 0.0
    max_grad_norm: float = 1.0
    save_steps: int = Field(50, ge=1)  # optimiser steps between checkpoints to resume from
    keep_trainer_state: bool = False  # keep the last of them after the stage is complete
    gradient_checkpointing: bool = False


class SftSection(TrainSection):
    """Stage 1: L_vq + L_qa."""

    question_ratio: float = Field(1.0, ge=0, le=1)  # share of questions the asker learns
    learn_first_question: bool = False  # eq. 1 indexes j + 1: all questions after the first


class DpoSection(TrainSection):
    """Stage 2, equation 1. beta is a symbol in the paper and 0.1 in the released code."""

    lr_llm: float = 5e-6
    lr_vit: float = 5e-6
    lr_projector: float = 2e-5
    beta: float = Field(0.1, gt=0)
    dpo_weight: float = Field(1.0, ge=0)  # 0 with nll_weight 1: plain SFT on the chosen answers
    nll_weight: float = Field(0.0, ge=0)  # anchor: mean NLL of the chosen answer's tokens
    # Where the reference's log-probabilities come from. auto: those recorded while sampling if
    # they agree with the policy at step 0, else one pass; online: adapters off in every step.
    reference: Literal["auto", "recorded", "computed", "online"] = "auto"

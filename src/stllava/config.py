"""The recipe: everything a run can be told, as typed data, checked before anything is computed.

Defaults here are the paper's where the paper says something; each other default says where it
comes from. How recipes are read: `stllava.recipe`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Section(BaseModel):
    """One part of a recipe; an unknown field is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelSection(Section):
    """The policy a run starts from."""

    # Folder of a checkpoint, a hub id (owner/name), or a packaged base policy's name
    path: str = "base-prototype"
    # How the policy asks: as its checkpoint records, by the token <vusr>, or by the text VUSER
    asker: Literal["auto", "token", "text"] = "auto"
    image_side: int | None = Field(None, ge=14)  # pixels, for families that take any size
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of training; generation is fp32 on CPU
    # Over the token tree. auto: flex on CUDA; on a CPU blocks for long rows, else dense.
    attention: Literal["auto", "dense", "blocks", "flex"] = "auto"
    threads: int = Field(0, ge=0)  # CPU threads; 0: all


class PlaceSection(Section):
    """Where a data set lies and how its file is to be read."""

    root: str | None = None  # folder of the data set, or of its images
    file: str | None = None  # where the form has one: conversations, questions, a table
    language: Literal["en", "zh", "all"] = "en"  # SLAKE has two
    columns: dict[str, str] = {}  # tables: our field -> their column
    mapping: str | None = None  # labels: the file that says what the columns mean
    restated: bool = False  # VQA-RAD's 3,064-question form, which restates its test questions


class SourceSection(PlaceSection):
    """Images, and instruction data where there are any."""

    source: Literal[
        "phantom", "vqa-rad", "slake", "path-vqa", "llava", "messages", "parquet", "table",
        "labels", "reports", "folder",
    ] = "folder"  # fmt: skip


class BenchmarkSection(PlaceSection):
    """Questions with reference answers. `root` None: the one of the data."""

    benchmark: Literal[
        "phantom", "vqa-rad", "slake", "path-vqa", "llava-med", "jsonl", "table", "choice",
        "parquet", "labels", "none",
    ] = "none"  # fmt: skip
    split: Literal["train", "validation", "test"] = "test"


class DataSection(SourceSection):
    """Where images and instruction data come from."""

    also: tuple[SourceSection, ...] = ()  # further sources
    sample: int | None = Field(None, ge=1)  # use so many images, by seed, stratified by source
    # Several turns about an image: one text in which later ones follow earlier ones, or a text each
    group: Literal["turns", "records"] = "turns"
    preference_images: int = Field(10_000, ge=0)  # stage 2 asks about so many (paper: 10k)
    ask_about: Literal["all", "unlabelled"] = "all"  # unlabelled: images without a conversation
    max_bad: float = Field(0.05, ge=0, le=1)  # share of unusable records above which to stop


class PhantomSection(Section):
    """The drawn world of the demo; not in the paper."""

    train_images: int = 1200  # with conversations: the little labelled data
    unlabelled_images: int = 1600  # for stage 2
    dev_images: int = 600
    test_images: int = 700
    terse: float = Field(0.3, ge=0, le=1)  # share of one-word answers in the instruction data
    split: Literal["dev", "test"] = "test"  # which held-out set eval uses
    judge_accuracy: float = Field(1.0, ge=0, le=1)  # 0.5: the random control
    world_seed: int = 0  # pictures; training seeds are `seed`


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


class SamplingSection(Section):
    """How a policy speaks when it samples (section 3)."""

    temperature: float = Field(1.2, ge=0)
    top_k: int | None = Field(100, ge=1)
    top_p: float = Field(0.95, gt=0, le=1)
    max_tokens: int = Field(256, ge=1)


class AskSection(SamplingSection):
    """The policy asks about images."""

    questions_per_image: int = Field(1, ge=1)
    describe_first: bool = True  # as the released script: describe greedily, then ask
    describe_prompt: str | None = None  # None: prompts.DESCRIBE
    unique: bool = True  # the same question about one image is dropped


class AnswerSection(SamplingSection):
    """The policy answers its questions several times."""

    draws: int = Field(2, ge=1)


class JudgeSection(Section):
    """Who prefers."""

    kind: Literal["openai", "phantom"] = "openai"
    model: str = "gpt-4o"
    base_url: str | None = None  # None: the provider's own
    api_key_env: str = "OPENAI_API_KEY"
    key_file: str | None = None
    orders: Literal["one", "both"] = "both"  # the paper asked in one order
    pairing: Literal["all", "ring"] = "ring"
    temperature: float = Field(0.2, ge=0)  # released script
    max_tokens: int = 512
    timeout_s: float = 60.0
    max_tries: int = Field(6, ge=1)
    concurrency: int = Field(4, ge=1)
    images_are_deidentified: bool = False  # needed before an image leaves this machine


class PreferSection(Section):
    """Which verdicts become training pairs; the paper has `select: pair` and no further rule.

    Lengths are in words, scores and margins in points of the judge's 1..10.
    """

    select: Literal["pair", "best_worst"] = "best_worst"
    orders_must_agree: bool = True  # a pair that its two orders name differently is dropped
    min_margin: float = Field(default=0.0, ge=0)  # the margin must be greater
    min_chosen_score: float | None = None  # the best answer must also be a good one
    max_length_gap: int | None = Field(default=None, ge=0)  # rejected is the one closest in length
    max_per_image: int | None = Field(default=None, ge=1)  # largest margins first
    balance_yes_no: bool = False  # as many chosen answers open with yes as with no
    balance_length: bool = False  # chosen is the longer one as often as the shorter one
    weight: Literal["none", "margin"] = "none"  # margin: in proportion to it, mean 1


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


class EvalSection(BenchmarkSection):
    """Which checkpoints answer which benchmarks."""

    also: tuple[BenchmarkSection, ...] = ()  # further benchmarks
    models: tuple[Literal["base", "sft", "dpo"], ...] = ("base", "sft", "dpo")
    max_tokens: int = 64
    limit: int | None = None  # only the first so many questions, for a quick look


class Recipe(Section):
    """A whole run."""

    name: str = "unnamed"
    seed: int = 0
    unit_images: int = Field(64, ge=1)  # images per work unit: what a kill can cost
    batch_rows: int = Field(256, ge=1)  # draws decoded together
    batch_tokens: int = Field(65536, ge=1)  # of their prompts, an image's once, padding included
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    phantom: PhantomSection = PhantomSection()
    sft: SftSection = SftSection()
    ask: AskSection = AskSection()
    answer: AnswerSection = AnswerSection()
    judge: JudgeSection = JudgeSection()
    prefer: PreferSection = PreferSection()
    dpo: DpoSection = DpoSection()
    eval: EvalSection = EvalSection()
    # What stage 2 is compared with: name -> overrides of judge, prefer or dpo. Each shares the
    # run's stage 1, questions and answers and gets its own verdicts, training and evaluation.
    controls: dict[str, tuple[str, ...]] = {}

    def dump(self) -> dict[str, Any]:
        """Plain data, as recipe.yaml and plan.json hold it."""
        return self.model_dump(mode="json")

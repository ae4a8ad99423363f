"""The recipe: everything a run can be told, as typed data, checked before anything is computed.

Defaults here are the paper's where the paper says something; each other default says where it
comes from. How recipes are read: `stllava.recipe`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

RUN_MODELS = ("base", "sft", "dpo")  # the policies of every run


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
    precision: Literal["auto", "fp32", "bf16"] = "auto"  # of training; on a CPU generation is fp32
    # QLoRA: nf4 keeps the frozen language model in 4 bits while adapters are trained on it
    quantize: Literal["none", "nf4"] = "none"
    # Where a training is estimated to need more than the GPU has: stop before it, or go on
    memory_check: Literal["stop", "warn"] = "stop"
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
        "parquet", "labels", "pope", "none",
    ] = "none"  # fmt: skip
    split: Literal["train", "validation", "test"] = "test"


class PairsSection(PlaceSection):
    """Preference pairs that others made; with them nothing is asked, answered or judged here."""

    form: Literal[
        "stllava", "released", "judge-output", "mmedpo", "rlaif-v", "trl", "llama-factory",
        "ms-swift",
    ] = "stllava"  # fmt: skip


class DataSection(SourceSection):
    """Where images and instruction data come from."""

    also: tuple[SourceSection, ...] = ()  # further sources
    preferences: PairsSection | None = None  # stage 2 from a file of pairs
    sample: int | None = Field(None, ge=1)  # use so many images, by seed, stratified by source
    # Several turns about an image: one text in which later ones follow earlier ones, or a text each
    group: Literal["turns", "records"] = "turns"
    preference_images: int = Field(10_000, ge=0)  # stage 2 asks about so many (paper: 10k)
    ask_about: Literal["all", "unlabelled"] = "all"  # unlabelled: images without a conversation
    max_bad: float = Field(0.05, ge=0, le=1)  # share of unusable records above which to stop


class ImagesSection(Section):
    """How files that are no plain 8-bit pictures (DICOM, 16-bit) become what a model sees."""

    # stored: the file's own window; percentile: its values' range. The others are presets for CT,
    # in Hounsfield units; an image that has none is shown as `stored` says.
    window: Literal[
        "stored", "percentile", "lung", "mediastinum", "abdomen", "liver", "soft-tissue", "bone",
        "brain",
    ] = "stored"  # fmt: skip
    frame: Literal["middle", "first"] | Annotated[int, Field(ge=1)] = "middle"  # of several; from 1
    keep_full: bool = False  # a 16-bit copy for review, in the run directory
    # Secret of the hashes that stand for patients: a file, else an environment variable, else
    # sampled, and then hashes of two runs do not agree
    salt_file: str | None = None
    salt_env: str = "STLLAVA_SALT"


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

    # Who asks. auto: the asker's role if the policy learned it, else the assistant, told to ask
    speaker: Literal["auto", "asker", "assistant"] = "auto"
    questions_per_image: int = Field(1, ge=1)
    describe_first: bool = True  # as the released script: describe greedily, then ask
    describe_prompt: str | None = None  # None: prompts.DESCRIBE
    unique: bool = True  # the same question about one image is dropped


class AnswerSection(SamplingSection):
    """The policy answers its questions several times."""

    draws: int = Field(2, ge=1)


class EndpointSection(Section):
    """A model behind an OpenAI-compatible API."""

    model: str = "gpt-4o"
    base_url: str | None = None  # None: the provider's own
    api_key_env: str = "OPENAI_API_KEY"
    key_file: str | None = None
    timeout_s: float = Field(60.0, gt=0)  # of one try
    max_tries: int = Field(6, ge=1)
    call_limit_s: float = Field(600.0, gt=0)  # of a call with all its tries and waits
    concurrency: int = Field(4, ge=1)  # at most; fewer while the server says it is too much
    images_are_deidentified: bool = False  # needed before an image leaves this machine


class ServerSection(Section):
    """A server of the user's own that is started for a stage and stopped after it."""

    command: str  # as typed in a shell, without pipes: "vllm serve NAME --port 8001"
    ready_url: str | None = None  # answers 200 once it is ready; None: base_url + "/models"
    timeout_s: float = Field(900.0, gt=0)  # until it is ready; large weights load slowly
    env: dict[str, str] = {}  # added to the environment; kept in recipe.yaml, so no secrets


class PricesSection(Section):
    """Dollars per million tokens; what is not given costs as much as input."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    image: float | None = Field(None, ge=0)


class JurorSection(EndpointSection):
    """One member of a jury."""

    prices: PricesSection | None = None


class JudgeSection(EndpointSection):
    """Who prefers."""

    # openai: any compatible endpoint; local: a checkpoint, in this process; reference: a rule that
    # compares with known answers; expert: nobody but the review sheet
    kind: Literal["openai", "phantom", "local", "reference", "expert"] = "openai"
    checkpoint: str | None = None  # local: folder, hub id, "base" or "sft"
    self_judging: bool = False  # local: allow the run's own policy, whose verdicts are "self"
    server: ServerSection | None = None  # openai: started before the stage, stopped after it
    rubric: str = "paper"  # paper, faithful, local, or a rubric file of one's own (.yaml)
    repair: bool = False  # ask once more where a reply cannot be read, quoting the form
    orders: Literal["one", "both"] = "both"  # the paper asked in one order
    samples: int = Field(1, ge=1)  # replies per pair and order; their scores are averaged
    blank_share: float = Field(0.0, ge=0, le=1)  # of the pairs, judged again without the image
    pairing: Literal["all", "ring"] = "ring"
    temperature: float = Field(0.2, ge=0)  # released script
    max_tokens: int = Field(512, ge=1)
    # SQLite file of all calls; None: judge/ledger.sqlite of the run. Runs may share one
    ledger: str | None = None
    prices: PricesSection | None = None  # None: unknown; a server on this machine is free
    max_usd: float | None = Field(None, ge=0)  # caps hold for all that the ledger has ever paid
    max_calls: int | None = Field(None, ge=0)
    image_tokens: int | None = Field(None, ge=0)  # of one image, for estimates; None: by formula
    # States of stored calls that are asked again when the stage is done over
    retry: tuple[Literal["refused", "filtered", "unparsed", "failed"], ...] = ("failed",)
    # Several endpoints by name in the place of one; rubric, orders and caps are those above
    jury: dict[str, JurorSection] = {}
    jury_rule: Literal["majority", "mean_z"] = "majority"
    # Share of known pairs it must be right on, at the interval's lower end, before it is paid
    min_accuracy: float | None = Field(None, ge=0, le=1)
    bench_pairs: int = Field(200, ge=10)  # of a true and a wrong answer, at most
    bench_file: str | None = None  # pairs by others, .jsonl; None: from the instruction data
    bench_images: str | None = None  # folder of their images; None: the file's

    @model_validator(mode="after")
    def _is_reachable(self) -> JudgeSection:
        if self.server is not None and self.base_url is None:
            raise ValueError("a server of one's own listens somewhere: give base_url too")
        if self.kind == "local" and not self.checkpoint:
            raise ValueError("kind: local needs a checkpoint: a folder, a hub id, base or sft")
        return self


class PreferSection(Section):
    """Which verdicts become training pairs; the paper has `select: pair` and no further rule.

    Lengths are in words, scores and margins in points of the judge's 1..10.
    """

    select: Literal["pair", "best_worst"] = "best_worst"
    orders_must_agree: bool = True  # all orders name the same winner
    min_margin: float = Field(default=0.0, ge=0)  # the margin must be greater
    min_chosen_score: float | None = None  # the best answer must also be a good one
    max_length_gap: int | None = Field(default=None, ge=0)  # rejected is the one closest in length
    max_per_image: int | None = Field(default=None, ge=1)  # largest margins first
    max_per_question_type: int | None = Field(default=None, ge=1)  # by opening words; likewise
    balance_yes_no: bool = False  # as many chosen answers open with yes as with no
    balance_length: bool = False  # chosen is the longer one as often as the shorter one
    weight: Literal["none", "margin"] = "none"  # margin: in proportion to it, mean 1
    # Pairs for the expert, in prefer/review.jsonl. unread: no verdict; blank: same without image
    review: tuple[Literal["ties", "inconsistent", "close", "unread", "blank"], ...] = ()
    review_margin: float | None = Field(default=None, ge=0)  # close: not above; None: min_margin


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


PromptName = Literal["plain", "options", "short"]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]  # also a folder's name


class EvalSection(BenchmarkSection):
    """Which models answer which benchmarks, and on which views of the images."""

    also: tuple[BenchmarkSection, ...] = ()  # further benchmarks
    models: tuple[Literal["base", "sft", "dpo"], ...] = ("base", "sft", "dpo")
    checkpoints: dict[ModelName, str] = {}  # further policies: name -> folder or hub id
    endpoints: dict[ModelName, EndpointSection] = {}  # models behind an API, by name
    max_tokens: int = Field(64, ge=1)
    limit: int | None = Field(None, ge=1)  # the first so many questions of each, for a quick look
    # How questions are worded. None: plain, but with the options for "choice"
    prompt: PromptName | None = None
    prompts: dict[str, PromptName] = {}  # of single benchmarks, by name
    # The same questions again without the image and with another's: on so many images of each
    # benchmark, by seed; None: all, 0: not at all. The interval of a delta needs some 100.
    grounding_images: int | None = Field(100, ge=0)
    stress: tuple[Literal["shuffle", "rephrase"], ...] = ()  # the same in other words
    judge: EndpointSection | None = None  # rates open answers beside recall and F1

    @model_validator(mode="after")
    def _names_are_distinct(self) -> EvalSection:
        names = [*RUN_MODELS, *self.checkpoints, *self.endpoints]
        again = sorted({name for name in names if names.count(name) > 1})
        if again:
            raise ValueError(f"{again[0]} names two models; base, sft and dpo are the run's own")
        return self


class Recipe(Section):
    """A whole run."""

    name: str = "unnamed"
    seed: int = 0
    unit_images: int = Field(64, ge=1)  # images per work unit: what a kill can cost
    batch_rows: int = Field(256, ge=1)  # draws decoded together
    batch_tokens: int = Field(65536, ge=1)  # of their prompts, an image's once, padding included
    model: ModelSection = ModelSection()
    data: DataSection = DataSection()
    images: ImagesSection = ImagesSection()
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

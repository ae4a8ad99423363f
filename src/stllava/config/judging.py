"""Who asks and answers, who judges, which verdicts become pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from stllava.config.section import Section


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

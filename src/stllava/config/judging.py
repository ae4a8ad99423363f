"""Who asks and answers, who judges, which verdicts become pairs."""

from __future__ import annotations

from typing import Literal, Self
from urllib.parse import urlsplit

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

    @model_validator(mode="after")
    def _has_a_plain_url(self) -> Self:
        """Keys have places of their own: an address is written into every record of a run."""
        if self.base_url is not None:
            _check_url(self.base_url)
        return self


def _check_url(url: str) -> None:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise ValueError("base_url: not an address; write http://HOST:PORT/v1") from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError("base_url: not an address; write http://HOST:PORT/v1 or https://HOST/v1")
    if "@" in parts.netloc or parts.query:
        raise ValueError("base_url: holds more than an address; a key belongs into api_key_env")


class PricesSection(Section):
    """Dollars per million tokens; what is not given costs as much as input."""

    input: float = Field(ge=0)
    output: float = Field(ge=0)
    cached_input: float | None = Field(None, ge=0)
    image: float | None = Field(None, ge=0)


class PaidSection(EndpointSection):
    """An endpoint whose calls are kept in a ledger, and what they may cost."""

    # SQLite file of all calls; None: one of the run. Runs may share one
    ledger: str | None = None
    prices: PricesSection | None = None  # None: unknown; a server on this machine is free
    max_usd: float | None = Field(None, ge=0)  # caps hold for all that the ledger has ever paid
    max_calls: int | None = Field(None, ge=0)
    # Of one image, for estimates; None: by formula
    image_tokens: int | None = Field(None, ge=0, le=10**6)


class ServerSection(Section):
    """A server of the user's own that is started for a stage and stopped after it."""

    command: str  # as typed in a shell, without pipes: "vllm serve NAME --port 8001"
    ready_url: str | None = None  # answers 200 once it is ready; None: base_url + "/models"
    timeout_s: float = Field(900.0, gt=0)  # until it is ready; large weights load slowly
    env: dict[str, str] = {}  # added to the environment; kept in recipe.yaml, so no secrets


class BatchSection(Section):
    """Calls are handed in as files that the provider answers within a day, at a lower price."""

    price: float = Field(0.5, gt=0, le=1)  # of the usual price
    poll_s: float = Field(60.0, gt=0)  # between looks at how far it is
    wait_s: float | None = Field(None, ge=0)  # then stop, to be collected later; None: to the end
    min_calls: int = Field(20, ge=1)  # fewer are asked one by one, at the full price
    max_calls: int = Field(50_000, ge=1, le=50_000)  # of one file
    max_mb: float = Field(150.0, gt=0, le=200)  # of one file; providers take 200


def _check_reachable(section: JurorSection | JudgeSection) -> None:
    if section.server is not None and section.batch is not None:
        raise ValueError("batch: a server of one's own answers at once; leave out one of them")
    if section.server is not None and section.base_url is None:
        raise ValueError("a server of one's own listens somewhere: give base_url too")
    if section.kind == "local" and not section.checkpoint:
        raise ValueError("kind: local needs a checkpoint: a folder, a hub id, base or sft")


class JurorSection(EndpointSection):
    """One member of a jury; its server runs, or its policy is loaded, while it is its turn."""

    # openai: any compatible endpoint; local: a checkpoint, in this process; the others are rules
    kind: Literal["openai", "local", "reference", "phantom"] = "openai"
    checkpoint: str | None = None  # local: folder, hub id, "base" or "sft"
    server: ServerSection | None = None  # openai: started and stopped with its turn
    prices: PricesSection | None = None  # openai
    batch: BatchSection | None = None  # openai: hand calls in as files; {} for the defaults

    @model_validator(mode="after")
    def _says_what_its_kind_has(self) -> JurorSection:
        _check_reachable(self)
        every = JurorSection.model_fields
        has = {"kind", "checkpoint"} if self.kind == "local" else {"kind"}
        if self.kind == "openai":
            has = every.keys() - {"checkpoint"}
        said = [name for name, field in every.items() if getattr(self, name) != field.default]
        odd = [name for name in said if name not in has]
        if odd:
            raise ValueError(f"kind: {self.kind} has no {', '.join(odd)}; leave that out")
        return self


class JudgeSection(PaidSection):
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
    batch: BatchSection | None = None  # openai: hand calls in as files; {} for the defaults
    # Share of verdicts whose calls got no reply; beyond it the stage stays open
    max_failed: float = Field(0.1, ge=0, le=1)
    # States of stored calls that are asked again when the stage is done over
    retry: tuple[Literal["refused", "filtered", "unparsed", "failed"], ...] = ("failed",)
    # Several judges by name in the place of one; rubric, orders and caps are those above
    jury: dict[str, JurorSection] = {}
    jury_rule: Literal["majority", "mean_z"] = "majority"
    # Share of known pairs it must be right on, at the interval's lower end, before it is paid
    min_accuracy: float | None = Field(None, ge=0, le=1)
    bench_pairs: int = Field(200, ge=10)  # of a true and a wrong answer, at most
    bench_file: str | None = None  # pairs by others, .jsonl; None: from the instruction data
    bench_images: str | None = None  # folder of their images; None: the file's

    @model_validator(mode="after")
    def _is_reachable(self) -> JudgeSection:
        _check_reachable(self)
        for name in ("server", "batch"):
            if self.jury and getattr(self, name) is not None:
                raise ValueError(f"{name}: members of a jury have their own; give it to one")
        if self.batch is not None and self.kind != "openai":
            raise ValueError(f"batch: kind: {self.kind} is no endpoint; leave it out")
        if self.jury and self.kind == "expert":
            raise ValueError("kind: expert asks nobody; leave the jury out, or take another kind")
        return self

    @model_validator(mode="after")
    def _samples_can_differ(self) -> JudgeSection:
        kinds: set[str] = {juror.kind for juror in self.jury.values()}
        kinds = kinds or {self.kind}
        why = "kind: local is greedy" if "local" in kinds else "temperature is 0"
        if self.samples > 1 and ("local" in kinds or ("openai" in kinds and not self.temperature)):
            remedy = "set samples to 1" + ("" if "local" in kinds else ", or raise temperature")
            raise ValueError(f"samples: {why}, so all {self.samples} would be equal; {remedy}")
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

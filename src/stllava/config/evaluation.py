"""Which models answer which benchmarks."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from stllava.config.data import BenchmarkSection
from stllava.config.judging import PaidSection

RUN_MODELS = ("base", "sft", "dpo")  # the policies of every run
PromptName = Literal["plain", "options", "short"]
ModelName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]{0,63}$")]  # also a folder's name


class EvalSection(BenchmarkSection):
    """Which models answer which benchmarks, and on which views of the images."""

    also: tuple[BenchmarkSection, ...] = ()  # further benchmarks
    models: tuple[Literal["base", "sft", "dpo"], ...] = ("base", "sft", "dpo")
    checkpoints: dict[ModelName, str] = {}  # further policies: name -> folder or hub id
    endpoints: dict[ModelName, PaidSection] = {}  # models behind an API, by name
    max_tokens: int = Field(64, ge=1)
    limit: int | None = Field(None, ge=1)  # the first so many questions of each, for a quick look
    # How questions are worded. None: plain, but with the options for "choice"
    prompt: PromptName | None = None
    prompts: dict[str, PromptName] = {}  # of single benchmarks, by name
    # The same questions again without the image and with another's: on so many images of each
    # benchmark, by seed; None: all, 0: not at all. The interval of a delta needs some 100.
    grounding_images: int | None = Field(100, ge=0)
    stress: tuple[Literal["shuffle", "rephrase"], ...] = ()  # the same in other words
    judge: PaidSection | None = None  # rates open answers beside recall and F1

    @model_validator(mode="after")
    def _names_are_distinct(self) -> EvalSection:
        names = [*RUN_MODELS, *self.checkpoints, *self.endpoints]
        again = sorted({name for name in names if names.count(name) > 1})
        if again:
            raise ValueError(f"{again[0]} names two models; base, sft and dpo are the run's own")
        return self

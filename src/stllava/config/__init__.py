"""The recipe: everything a run can be told, as typed data, checked before anything is computed.

Defaults here are the paper's where the paper says something; each other default says where it
comes from. How recipes are read: `stllava.recipe`.
"""

from __future__ import annotations

from typing import Any

from pydantic import Field

from stllava.config.data import (
    BenchmarkSection,
    DataSection,
    ImagesSection,
    PairsSection,
    PhantomSection,
    PlaceSection,
    SourceSection,
)
from stllava.config.evaluation import RUN_MODELS, EvalSection, ModelName, PromptName
from stllava.config.judging import (
    AnswerSection,
    AskSection,
    BatchSection,
    EndpointSection,
    JudgeSection,
    JurorSection,
    PaidSection,
    PreferSection,
    PricesSection,
    SamplingSection,
    ServerSection,
)
from stllava.config.section import Section
from stllava.config.training import DpoSection, LoraSection, ModelSection, SftSection, TrainSection

__all__ = [
    "RUN_MODELS",
    "AnswerSection",
    "AskSection",
    "BatchSection",
    "BenchmarkSection",
    "DataSection",
    "DpoSection",
    "EndpointSection",
    "EvalSection",
    "ImagesSection",
    "JudgeSection",
    "JurorSection",
    "LoraSection",
    "ModelName",
    "ModelSection",
    "PaidSection",
    "PairsSection",
    "PhantomSection",
    "PlaceSection",
    "PreferSection",
    "PricesSection",
    "PromptName",
    "Recipe",
    "SamplingSection",
    "Section",
    "ServerSection",
    "SftSection",
    "SourceSection",
    "TrainSection",
]


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

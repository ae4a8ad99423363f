"""What is asked: the recipe's benchmarks, each with its questions and their wording."""

from __future__ import annotations

from typing import NamedTuple

from stllava.config import BenchmarkSection, PromptName, Recipe
from stllava.errors import DataError, RecipeError
from stllava.files import read_records
from stllava.pipeline.job import Job
from stllava.records import VQASample


class Exam(NamedTuple):
    """One benchmark of the recipe."""

    name: str  # its folder: "vqa-rad", "slake-validation", "phantom-dev"
    benchmark: str  # as its samples say
    prompt: PromptName
    samples: tuple[VQASample, ...]


def exams(job: Job) -> list[Exam]:
    """Every benchmark in the recipe's order; DataError where one has no question."""
    every = list(read_records(job.file("prepare", "samples.jsonl"), VQASample))
    limit = job.recipe.eval.limit
    found = []
    for name, section in _named(job.recipe).items():
        samples = [s for s in every if s.benchmark in ("", name)]
        part: str = section.split
        if section.benchmark == "phantom":
            part = job.recipe.phantom.split
            samples = [sample for sample in samples if sample.split == part]
        if not samples:
            raise DataError(f"eval: no {part} question of {name}; see prepare/samples.jsonl")
        folder = name if part == "test" and name != "phantom" else f"{name}-{part}"
        found.append(Exam(folder, name, _prompt(job.recipe, name, section), tuple(samples[:limit])))
    return found


def _named(recipe: Recipe) -> dict[str, BenchmarkSection]:
    """The benchmarks by the names that prepare gives them: "slake", a second one "slake#2"."""
    named: dict[str, BenchmarkSection] = {}
    for section in (recipe.eval, *recipe.eval.also):
        if section.benchmark == "none":
            continue
        name, number = str(section.benchmark), 1
        while name in named:
            number += 1
            name = f"{section.benchmark}#{number}"
        named[name] = section
    return named


def _prompt(recipe: Recipe, name: str, section: BenchmarkSection) -> PromptName:
    """Multiple choice makes no sense without its options, so there they are the default."""
    default: PromptName = "options" if section.benchmark == "choice" else "plain"
    return recipe.eval.prompts.get(name) or recipe.eval.prompt or default


def check(recipe: Recipe) -> None:
    """Refuse what could not be carried out, before anything is computed."""
    section, named = recipe.eval, _named(recipe)
    unknown = sorted(set(section.prompts) - set(named))
    if unknown:
        known = ", ".join(named) or "none"
        raise RecipeError(f"eval.prompts.{unknown[0]}: no such benchmark in this recipe ({known})")
    prompts = [_prompt(recipe, name, one) for name, one in named.items()]
    if named and "shuffle" in section.stress and "options" not in prompts:
        raise RecipeError(
            "eval.stress: shuffle reorders options that are shown; add --set eval.prompt=options"
        )

"""Where a recipe's data lie: each source, file of pairs and benchmark with its name and folder.

Ids of the first folder stay as they are; those of any other begin with its key, so that two data
sets that both have an image "1" can be in one run. Places in one folder share its images.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from stllava.config import BenchmarkSection, PairsSection, Recipe, SourceSection
from stllava.errors import DataError, RecipeError

RUN = "run"  # the image root that is the run directory itself
AnyPlace = SourceSection | BenchmarkSection | PairsSection


class Place(NamedTuple):
    """One section of the recipe, its name in the run and its folder."""

    name: str  # unique among the sources, or among the benchmarks: "slake", "slake#2"
    key: str  # of its folder; places in one folder share it
    root: Path
    prefix: str  # of its ids
    section: AnyPlace


def places(recipe: Recipe) -> list[Place]:
    """The recipe's sources, pairs and benchmarks; RecipeError where one says too little."""
    found: list[Place] = []
    for section in _sections(recipe):
        root = _root(section, recipe)
        alike = [place for place in found if _role(place.section) is _role(section)]
        name = _free(kind_of(section), {place.name for place in alike})
        twin = next((place for place in found if place.root == root), None)
        key = twin.key if twin else _free(kind_of(section), {place.key for place in found})
        prefix = twin.prefix if twin else f"{key}/" if found else ""
        found.append(Place(name, key, root, prefix, section))
    return found


def benchmark_sections(recipe: Recipe) -> list[BenchmarkSection]:
    """The recipe's benchmarks, without "none"."""
    every: list[BenchmarkSection] = [recipe.eval, *recipe.eval.also]
    return [section for section in every if section.benchmark != "none"]


def image_roots(recipe: Recipe) -> dict[str, str]:
    """Key to folder, for plan.json; RUN is the run directory itself, which can be moved."""
    return {RUN: ".", **{place.key: str(place.root) for place in places(recipe)}}


def kind_of(section: AnyPlace) -> str:
    """The recipe's word for it: "slake", "llava", "mmedpo"."""
    if isinstance(section, PairsSection):
        return section.form
    return section.source if isinstance(section, SourceSection) else section.benchmark


def _sections(recipe: Recipe) -> list[AnyPlace]:
    data = recipe.data
    if data.source == "phantom":
        return []
    pairs = data.preferences
    sources: list[SourceSection] = [data, *data.also]
    if pairs is not None and data.source == "folder" and data.root is None:
        sources = sources[1:]  # the pairs name the images
    found: list[AnyPlace] = [*sources]
    if pairs is not None:
        found.append(pairs)
    return found + [s for s in benchmark_sections(recipe) if s.benchmark != "phantom"]


def _role(section: AnyPlace) -> type[AnyPlace]:
    roles = (SourceSection, BenchmarkSection, PairsSection)
    return next(role for role in roles if isinstance(section, role))


def _free(kind: str, taken: set[str]) -> str:
    """ "slake"; a second one "slake#2"."""
    name, number = kind, 1
    while name in taken:
        number += 1
        name = f"{kind}#{number}"
    return name


def _root(section: AnyPlace, recipe: Recipe) -> Path:
    given = section.root
    if given is None and not isinstance(section, SourceSection):
        given = recipe.data.root
    if given is None and section.file is not None:
        given = str(Path(section.file).parent)
    field = "eval.root" if isinstance(section, BenchmarkSection) else "data.root"
    if given is None:
        raise RecipeError(f"{field}: not set; give the folder with --set {field}=FOLDER")
    if not Path(given).is_dir():
        raise DataError(f"{given}: no such folder; set {field} to where the images are")
    return Path(given).resolve()

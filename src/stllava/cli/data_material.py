"""What `data check` and `data stats` look at: a recipe's data, or the records of a run."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

from stllava.checks.look import Opened, look_at, open_placed, unopened
from stllava.checks.material import Material, without_lost
from stllava.checks.run import image_roots, prepare_folder, read_run, with_preferences
from stllava.cli.console import Bars
from stllava.config import Recipe
from stllava.errors import DataError, RecipeError
from stllava.pipeline.prepare.gather import gather
from stllava.pipeline.prepare.places import RUN
from stllava.pipeline.prepare.places import image_roots as recipe_roots
from stllava.recipe import load_recipe
from stllava.records import Split


def material_of(
    what: str,
    overrides: list[str],
    bars: Bars,
    *,
    preferences: Path | None = None,
    pixels: bool = True,
    open_images: bool = True,
) -> Material:
    """The data set that `what` names: a run directory, its prepare/, or a recipe.

    `pixels`: search pictures for text, too. Without `open_images` no image is opened, and images
    are told apart by file. Raises RecipeError, DataError, RunError.
    """
    folder = prepare_folder(Path(what))
    if folder is None:
        recipe = load_recipe(what, overrides)
        material = _of_recipe(recipe, bars, pixels=pixels, open_images=open_images)
        return with_preferences(material, preferences) if preferences else material
    if overrides:
        raise DataError(f"{what}: --set changes a recipe, and this is a run directory")
    material = read_run(folder, preferences=preferences)
    if not open_images:
        return material
    bars.stage("look", len(material.images))
    return look_at(material, image_roots(folder), pixels=pixels, progress=bars.advance)


def _of_recipe(recipe: Recipe, bars: Bars, *, pixels: bool, open_images: bool) -> Material:
    """All that its sources and benchmarks hold, not only what the recipe would sample."""
    name = recipe.name
    if recipe.data.source == "phantom":
        raise RecipeError(
            f"{name}: draws its images; run `stllava prepare {name} --run DIR` and check DIR"
        )
    with TemporaryDirectory(prefix="stllava-") as scratch:  # for images that lie inside tables
        found = gather(recipe, Path(scratch))
        roots = {key: Path(root) for key, root in recipe_roots(recipe).items()}
        roots[RUN] = Path(scratch)
        opened: Opened = unopened(found.images)
        if open_images:
            bars.stage("look", len(found.images))
            opened = open_placed(found.images, roots, pixels=pixels, progress=bars.advance)
    part = {placed.id: placed.part for placed in found.images}
    splits = (
        Split.model_validate({"image": i.id, "group": i.group, "split": part[i.id]})
        for i in opened.images
    )
    return without_lost(
        Material(
            images=opened.images,
            conversations=found.conversations,
            samples=found.samples,
            annotated=found.training_samples,
            splits=tuple(splits),
            dropped=(*found.dropped, *opened.dropped),
            repairs=found.repairs,
            warnings=found.warnings,
            licences=found.licences,
            signs=opened.signs,
            files_looked_at=len(opened.images) if open_images else None,
        )
    )

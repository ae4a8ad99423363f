"""Recipes as files: packaged ones, one's own, what they extend, and overrides of single fields.

A recipe is YAML. `extends: NAME` starts from another one (a packaged recipe or a file beside it),
`--set section.field=value` overrides single fields.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from stllava.config import Recipe
from stllava.errors import RecipeError


def packaged_recipes() -> dict[str, Path]:
    """Recipes that ship with the package, by name."""
    folder = Path(str(resources.files("stllava") / "recipes"))
    return {file.stem: file for file in sorted(folder.glob("*.yaml"))}


def load_recipe(name_or_path: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe by packaged name or path and apply `section.field=value` overrides.

    Raises RecipeError, in one line, for an unknown name, bad YAML, or a field that is unknown or
    out of range.
    """
    path, data = _read(name_or_path, seen=())
    return _override(data, overrides, path)


def override(recipe: Recipe, overrides: Sequence[str]) -> Recipe:
    """The recipe with `section.field=value` overrides applied; RecipeError as in load_recipe."""
    return _override(recipe.dump(), overrides, recipe.name)


def _override(data: dict[str, Any], overrides: Sequence[str], where: str) -> Recipe:
    for text in overrides:
        _apply(data, text)
    try:
        return Recipe.model_validate(data)
    except ValidationError as error:
        raise RecipeError(f"{where}: {_explain(error)}") from error


def _read(name_or_path: str, *, seen: tuple[str, ...]) -> tuple[str, dict[str, Any]]:
    known = packaged_recipes()
    path = known.get(name_or_path, Path(name_or_path))
    if str(path.resolve()) in seen:
        raise RecipeError(f"{path}: extends itself through {' -> '.join(seen)}")
    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except OSError as error:
        hint = _did_you_mean(name_or_path, list(known))
        raise RecipeError(
            f"{name_or_path}: no such recipe or file{hint}; `stllava recipes` lists them"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(data, dict):
        raise RecipeError(f"{path}: a recipe is a mapping of sections")
    parent = data.pop("extends", None)
    if parent is None:
        return str(path), data
    beside = path.parent / str(parent)
    _, base = _read(str(beside if beside.is_file() else parent), seen=(*seen, str(path.resolve())))
    return str(path), _merge(base, data)


def _merge(base: dict[str, Any], top: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in top.items():
        # An empty mapping takes its parent's place: `controls: {}` is none at all.
        both = bool(value) and isinstance(value, dict) and isinstance(merged.get(key), dict)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, value = override.partition("=")
    if not equals:
        raise RecipeError(f"--set {override}: write section.field=value")
    *sections, field = key.strip().split(".")
    for section in sections:
        data = data.setdefault(section, {})
        if not isinstance(data, dict):
            raise RecipeError(f"--set {override}: {section} has no fields")
    try:
        data[field] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise RecipeError(f"--set {override}: {value!r} is not a YAML value") from error


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"]))
    if first["type"] == "extra_forbidden":
        *sections, field = map(str, first["loc"])
        return f"{where}: no such field{_did_you_mean(field, _fields(sections))}"
    if first["type"] == "value_error" and isinstance(first["input"], dict):
        return f"{where}: {first['ctx']['error']}"  # of fields together; what was given is long
    return f"{where}: {first['msg']}, got {first['input']!r}"


def _fields(sections: Sequence[str]) -> list[str]:
    model: type[BaseModel] = Recipe
    for name in sections:
        annotation = model.model_fields[name].annotation
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            return []
        model = annotation
    return list(model.model_fields)


def _did_you_mean(name: str, known: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""

"""Rubrics by name, or from a file of one's own.

A file is YAML: `name`, `version`, `template` (a text, or a list of parts that blank lines join)
with the places {question}, {answer_1} and {answer_2} (and, if wanted, {nonce}), and `output`: what
the judge replies with, `scores` (a line of two), `json` or `choice` (A, B or C).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stllava.errors import RecipeError
from stllava.files import sha256
from stllava.prompts import RUBRICS, Rubric, template_rubric
from stllava.prompts.rubric import Output

NEEDED = ("{question}", "{answer_1}", "{answer_2}")


class _File(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, Field(pattern=r"^[A-Za-z][\w-]{0,39}$")]
    version: int = Field(ge=1)
    template: str | list[str]
    output: Output = "scores"
    image_last: bool = False


def load_rubric(name_or_path: str) -> Rubric:
    """A rubric of ours by name, or one's own by path. Raises RecipeError, in one line."""
    if name_or_path in RUBRICS:
        return RUBRICS[name_or_path]
    path = Path(name_or_path)
    if path.suffix not in (".yaml", ".yml"):
        known = ", ".join(RUBRICS)
        raise RecipeError(f"judge.rubric: {name_or_path}: one of {known}, or a .yaml file")
    try:
        data: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        given = _File.model_validate(data)
    except OSError as error:
        raise RecipeError(f"{path}: cannot be read ({error.strerror}); see judge.rubric") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"{path}: not YAML: {' '.join(str(error).split())}") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "file"
        raise RecipeError(f"{path}: {where}: {first['msg']}") from error
    return _checked(given, path)


def rubric_hash(name_or_path: str) -> str | None:
    """sha256 of a rubric file, whose changed text is another judge; None for ours: see versions.

    Raises RecipeError, as load_rubric does.
    """
    if name_or_path in RUBRICS:
        return None
    load_rubric(name_or_path)
    return sha256(Path(name_or_path))


def _checked(given: _File, path: Path) -> Rubric:
    template = given.template if isinstance(given.template, str) else "\n\n".join(given.template)
    if given.name in RUBRICS:
        raise RecipeError(f"{path}: name: {given.name} is a rubric of ours; choose another name")
    missing = [place for place in NEEDED if place not in template]
    if missing:
        raise RecipeError(
            f"{path}: template: {missing[0]} is not in it; the judge would not see it"
        )
    return template_rubric(
        given.name, given.version, template, given.output, image_last=given.image_last
    )

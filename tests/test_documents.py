"""The documents name what there is: fields, records, verbs, links, packaged recipes."""

import re
from pathlib import Path

import click
import pytest
import typer
from pydantic import BaseModel

from stllava import cli, records
from stllava.config import Recipe
from stllava.recipe import packaged_recipes

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
LINK = re.compile(r"\]\(([^)#:]+)(?:#[^)]*)?\)")
RECORDS = [
    kind
    for kind in vars(records).values()
    if isinstance(kind, type) and issubclass(kind, records.Record) and kind is not records.Record
]


def recipe_fields(model: type[BaseModel], prefix: str = "") -> list[str]:
    found: list[str] = []
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found += recipe_fields(inner, f"{prefix}{name}.")
        else:
            found.append(prefix + name)
    return found


def test_every_recipe_field_stands_in_the_recipes_page():
    page = (ROOT / "docs/recipes.md").read_text(encoding="utf-8")
    assert [name for name in recipe_fields(Recipe) if f"`{name}`" not in page] == []


@pytest.mark.parametrize("kind", RECORDS, ids=lambda kind: kind.__name__)
def test_every_record_field_stands_in_the_records_page(kind):
    page = (ROOT / "docs/records.md").read_text(encoding="utf-8")
    assert f"### {kind.__name__}\n" in page
    section = page.split(f"### {kind.__name__}\n")[1].split("\n### ")[0]
    assert [name for name in kind.model_fields if f"`{name}`" not in section] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_between_the_pages_lead_somewhere(page):
    targets = LINK.findall(page.read_text(encoding="utf-8"))
    assert [target for target in targets if not (page.parent / target).exists()] == []


def verbs(command: click.Command, prefix: str = "stllava") -> list[str]:
    inner = getattr(command, "commands", None)
    if not inner:
        return [prefix]
    return [name for key, value in inner.items() for name in verbs(value, f"{prefix} {key}")]


def test_every_verb_stands_in_the_readme():
    page = (ROOT / "README.md").read_text(encoding="utf-8").replace("\\|", "|")
    every = [verb.removeprefix("stllava ") for verb in verbs(typer.main.get_command(cli.app))]
    known = [verb for verb in every if f"`stllava {verb}" in page or f"|{verb}" in page]
    assert [verb for verb in every if verb not in known] == []


def test_every_packaged_recipe_stands_in_readme_and_recipes_page():
    for page in ("README.md", "docs/recipes.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        assert [name for name in packaged_recipes() if f"`{name}`" not in text] == [], page

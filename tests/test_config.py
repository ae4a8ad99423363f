"""Recipes: every mistake is one line that names the field, the value and, if it can, the remedy."""

import pytest
import yaml

from stllava.config import Recipe
from stllava.errors import RecipeError
from stllava.recipe import load_recipe, override, packaged_recipes


def write(folder, name, **content):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(content))
    return str(file)


def refusal(*args):
    with pytest.raises(RecipeError) as error:
        load_recipe(*args)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_loads_and_survives_a_round_trip(name):
    recipe = load_recipe(name)
    assert Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.dump()))) == recipe
    for overrides in recipe.controls.values():
        assert override(recipe, overrides) != recipe


@pytest.mark.parametrize("name", packaged_recipes())
def test_every_packaged_recipe_says_in_its_first_line_what_it_is_for(name):
    first = packaged_recipes()[name].read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dpo": {"betta": 0.1}}, "dpo.betta: no such field (did you mean 'beta'?)"),
        ({"dppo": {}}, "dppo: no such field (did you mean 'dpo'?)"),
        ({"sft": {"lora": {"llm_rnak": 1}}}, "sft.lora.llm_rnak: no such field (did you mean "),
        ({"sft": {"zzzz": 1}}, "sft.zzzz: no such field"),
    ],
)
def test_an_unknown_field_is_named_with_what_was_meant(content, message, tmp_path):
    assert message in refusal(write(tmp_path, "r.yaml", **content))


def test_a_field_without_a_close_name_gets_no_suggestion(tmp_path):
    assert "did you mean" not in refusal(write(tmp_path, "r.yaml", sft={"zzzz": 1}))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dpo": {"beta": 0}}, "dpo.beta: Input should be greater than 0, got 0"),
        ({"sft": {"epochs": "many"}}, "sft.epochs: Input should be a valid integer"),
        ({"judge": {"orders": "three"}}, "judge.orders: Input should be 'one' or 'both'"),
        ({"sft": 3}, "sft: Input should be a valid dictionary"),
    ],
)
def test_a_value_out_of_range_is_named_with_its_field(content, message, tmp_path):
    assert message in refusal(write(tmp_path, "r.yaml", **content))


def test_an_unknown_recipe_is_answered_with_the_nearest_name():
    message = refusal("demmo")
    assert message.startswith("demmo: no such recipe or file (did you mean 'demo'?)")
    assert "`stllava recipes`" in message


@pytest.mark.parametrize("text", ["- a\n- b\n", "just words\n"])
def test_yaml_that_is_no_mapping_is_refused(text, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text(text)
    assert "a recipe is a mapping of sections" in refusal(str(file))


@pytest.mark.parametrize("data", [b"a: [1,\nb: 2", b"\xff\xfe\x00", b"a: b: c"])
def test_what_is_not_yaml_is_refused_in_one_line(data, tmp_path):
    file = tmp_path / "r.yaml"
    file.write_bytes(data)
    assert "not YAML" in refusal(str(file))


def test_an_empty_recipe_is_all_defaults(tmp_path):
    file = tmp_path / "r.yaml"
    file.write_text("")
    assert load_recipe(str(file)) == Recipe()


# --set


def test_overrides_set_nested_fields_and_read_yaml_values():
    recipe = load_recipe(
        "demo",
        ["dpo.beta=0.3", "sft.lora.vit_rank=0", "answer.top_k=null", "model.path=a=b",
         "sft.lr_llm=1e-4", "data.root=../x"],
    )  # fmt: skip
    assert recipe.dpo.beta == 0.3
    assert recipe.sft.lora.vit_rank == 0
    assert recipe.answer.top_k is None
    assert recipe.model.path == "a=b"
    assert recipe.sft.lr_llm == 1e-4
    assert recipe.data.root == "../x"
    assert recipe.sft.lora.llm_rank == load_recipe("demo").sft.lora.llm_rank


def test_a_later_override_wins():
    assert load_recipe("demo", ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("dpo.beta", "--set dpo.beta: write section.field=value"),
        ("dpo.betta=1", "dpo.betta: no such field (did you mean 'beta'?)"),
        ("dpo.beta=[1", "--set dpo.beta=[1: '[1' is not a YAML value"),
        ("name.x=1", "--set name.x=1: name has no fields"),
        ("dpo.beta=-1", "dpo.beta: Input should be greater than 0"),
        ("=3", "no such field"),
    ],
)
def test_a_bad_override_is_one_line(text, message):
    assert message in refusal("demo", [text])


def test_overriding_a_recipe_leaves_it_as_it_was():
    recipe = load_recipe("demo")
    before = recipe.dump()
    assert override(recipe, ["dpo.beta=0.9"]).dpo.beta == 0.9
    assert recipe.dump() == before


# extends


def test_extends_starts_from_a_packaged_recipe_and_changes_single_fields(tmp_path):
    recipe = load_recipe(write(tmp_path, "r.yaml", extends="demo", sft={"lora": {"vit_rank": 7}}))
    demo = load_recipe("demo")
    assert recipe.sft.lora.vit_rank == 7
    assert recipe.sft.lora.llm_rank == demo.sft.lora.llm_rank
    assert recipe.dpo == demo.dpo


def test_extends_finds_a_file_beside_the_recipe_before_a_packaged_one(tmp_path):
    write(tmp_path, "sub/parent.yaml", seed=9)
    write(tmp_path, "sub/demo", seed=8)
    assert load_recipe(write(tmp_path, "sub/r.yaml", extends="parent.yaml")).seed == 9
    assert load_recipe(write(tmp_path, "sub/s.yaml", extends="demo")).seed == 8


@pytest.mark.parametrize(
    "chain", [{"a.yaml": "a.yaml"}, {"a.yaml": "b.yaml", "b.yaml": "a.yaml"},
              {"a.yaml": "../sub/a.yaml"}],
)  # fmt: skip
def test_a_recipe_that_extends_itself_is_refused(chain, tmp_path):
    for name, parent in chain.items():
        write(tmp_path, f"sub/{name}", extends=parent)
    assert "extends itself" in refusal(str(tmp_path / "sub/a.yaml"))


def test_a_missing_parent_is_refused(tmp_path):
    assert "nowhere: no such recipe" in refusal(write(tmp_path, "r.yaml", extends="nowhere"))

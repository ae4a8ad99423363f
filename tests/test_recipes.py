"""The packaged recipes for policies at their own size."""

from pathlib import Path

import pytest

from stllava.recipe import load_recipe

DOCS = Path(__file__).parent.parent / "docs"
SIZED = ["paper-7b", "released-7b", "llava-1.5-7b", "medgemma-4b", "single-24gb"]
TOLD_APART = {"name", "model"}  # what a sized recipe may change of the preset it names


@pytest.mark.parametrize("preset", ["paper", "released"])
def test_a_preset_at_7b_changes_the_policy_and_nothing_that_is_learned(preset):
    sized = load_recipe(f"{preset}-7b").dump()
    plain = load_recipe(preset).dump()
    assert {key for key in sized if sized[key] != plain[key]} == TOLD_APART
    assert sized["model"] == plain["model"] | {"path": "base/sqllava-7b", "precision": "bf16"}


def test_paper_7b_has_the_numbers_of_the_paper():
    recipe = load_recipe("paper-7b")
    for stage in (recipe.sft, recipe.dpo):
        lora = stage.lora
        assert (lora.llm_rank, lora.llm_alpha, lora.vit_rank, lora.vit_alpha) == (128, 256, 32, 64)
        assert (stage.epochs, stage.batch_size) == (1, 128)
    assert (recipe.sft.lr_llm, recipe.sft.lr_vit, recipe.sft.lr_projector) == (2e-4, 2e-4, 5e-5)
    assert (recipe.dpo.lr_llm, recipe.dpo.lr_vit, recipe.dpo.lr_projector) == (5e-6, 5e-6, 2e-5)
    answer = recipe.answer
    assert (answer.draws, answer.temperature, answer.top_k, answer.top_p) == (2, 1.2, 100, 0.95)


def test_released_7b_has_the_numbers_of_the_scripts():
    recipe = load_recipe("released-7b")
    assert (recipe.sft.epochs, recipe.sft.question_ratio, recipe.dpo.batch_size) == (3, 0.5, 256)
    assert (recipe.sft.lr_vit, recipe.sft.lr_projector, recipe.dpo.lr_vit) == (5e-5, 2e-5, 2e-5)


@pytest.mark.parametrize("name", SIZED)
def test_recipes_at_their_own_size_train_in_bf16_and_recompute_layers(name):
    recipe = load_recipe(name)
    assert recipe.model.precision == "bf16"
    assert recipe.sft.gradient_checkpointing
    assert recipe.dpo.gradient_checkpointing
    assert "/" in recipe.model.path  # a hub id, or a folder that is written first


@pytest.mark.parametrize(
    ("name", "image_tokens"), [("llava-1.5-7b", 576), ("medgemma-4b", 256), ("single-24gb", 576)]
)
def test_the_longest_answer_fits_beside_the_image(name, image_tokens):
    recipe = load_recipe(name)
    prompt = 100  # system text and question
    assert image_tokens + prompt + recipe.answer.max_tokens <= recipe.dpo.max_tokens
    assert recipe.dpo.max_tokens <= recipe.dpo.micro_batch_tokens


def test_single_24gb_trains_what_llava_does_on_a_base_in_4_bits():
    small, large = load_recipe("single-24gb"), load_recipe("llava-1.5-7b")
    assert small.model.quantize == "nf4"
    same = {"micro_batch_tokens": large.dpo.micro_batch_tokens}
    assert small.dpo.model_copy(update=same) == large.dpo
    assert small.sft.model_copy(update=same) == large.sft


@pytest.mark.parametrize("name", SIZED)
def test_every_recipe_at_its_own_size_stands_in_the_documents(name):
    for page in ("recipes.md", "deviations.md"):
        assert f"`{name}`" in (DOCS / page).read_text(encoding="utf-8"), page

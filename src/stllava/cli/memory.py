"""The memory plan of a recipe's training stages, for `stllava inspect CHECKPOINT --recipe`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stllava.config import Recipe
from stllava.errors import MissingExtra, PolicyError
from stllava.recipe import load_recipe

if TYPE_CHECKING:
    from stllava.training.memory import MemoryPlan

CARDS = (8, 12, 16, 24, 32, 40, 48, 80, 96, 141)  # GB of today's GPUs


def memory_plans(
    checkpoint: Path, recipe_name: str, overrides: Sequence[str]
) -> dict[str, MemoryPlan]:
    """Per training stage of the recipe what it would need on a device, nothing being loaded.

    The recipe's `model.path` is not looked at; `model.device: cpu` plans for a CPU, else a GPU is
    meant, in bf16 unless `model.precision` is fp32. Raises PolicyError for a folder that is no
    checkpoint of transformers' form.
    """
    recipe = load_recipe(recipe_name, overrides)
    try:
        from transformers import AutoConfig, AutoImageProcessor

        from stllava.policy import sqllava  # noqa: F401  (known to AutoConfig)
        from stllava.training.memory import picture_of
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "train") from error
    try:
        config = AutoConfig.from_pretrained(checkpoint, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(
            checkpoint, backend="pil", local_files_only=True
        )
    except (OSError, ValueError, ImportError) as error:
        first = str(error).strip().splitlines()[0]
        raise PolicyError(
            f"{checkpoint}: no memory plan without config and image processor: {first}"
        ) from error
    picture = picture_of(config, processor, recipe.model.image_side)
    return {
        stage: _plan(recipe, stage, config, picture, (checkpoint / "stllava.json").is_file())
        for stage in ("sft", "dpo")
    }


def _plan(recipe: Recipe, stage: str, config: Any, picture: Any, ours: bool) -> MemoryPlan:
    from stllava.training.memory import Speaker, estimate, typical_micro_batch
    from stllava.tree import rules_of

    settings = recipe.sft if stage == "sft" else recipe.dpo
    gpu = recipe.model.device != "cpu"
    batch = typical_micro_batch(
        config, settings, num_image_tokens=picture.num_tokens, vision=picture.vision,
        share=rules_of(config).share, multiple_of=128 if gpu else 1,
    )  # fmt: skip
    return estimate(
        config,
        settings,
        batch,
        bf16=recipe.model.precision == "bf16" or (gpu and recipe.model.precision == "auto"),
        quantize=recipe.model.quantize,
        fused_attention=gpu,
        backend=recipe.model.attention,
        speaker=None if ours else Speaker.newcomer(),
    )


def described(plans: dict[str, MemoryPlan]) -> list[tuple[str, str]]:
    """Rows to print under what was found in the checkpoint."""
    if not plans:
        return []
    from stllava.training.memory.plan import RESERVE

    rows = []
    for stage, plan in plans.items():
        rows += [(stage if n == 0 else "", line.strip()) for n, line in enumerate(plan.lines())]
        card = next((c for c in CARDS if c * 10**9 >= plan.peak + RESERVE), None)
        fits = f"a GPU of {card} GB" if card else "no GPU of today"
        rows.append(("", f"with room for the GPU's own use: {fits}; on several each holds it all"))
    return rows

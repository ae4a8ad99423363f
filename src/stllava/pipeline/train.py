"""sft and dpo: records become an adapter and a merged checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from stllava.config import TrainSection
from stllava.errors import DataError
from stllava.files import write_json
from stllava.pipeline.checkpoint import export, load_to_train
from stllava.pipeline.job import Job
from stllava.pipeline.memory import MemoryWatch
from stllava.pipeline.reference import fix_reference
from stllava.records import Conversation, Preference
from stllava.stage import Stage

if TYPE_CHECKING:
    from stllava.policy.policy import Policy
    from stllava.policy.scorer import TokenScorer
    from stllava.training.dpo import DpoObjective
    from stllava.training.objective import Objective


def sft(job: Job) -> None:
    """Stage 1 (L_vq + L_qa): from the base policy to one that answers and asks."""
    if job.skips_sft:
        job.reporter.note(
            "no instruction data: stage 1 is left out, the base policy goes on as sft"
        )
        return
    from stllava.training.sft import SftObjective

    def objective(policy: Policy, settings: Any) -> SftObjective:
        conversations = job.stage("prepare").read("conversations.jsonl", Conversation)
        seed, group = job.recipe.seed, job.recipe.data.group
        return SftObjective(policy, conversations, job.open_image, settings, seed, group)

    _train(job, "sft", job.recipe.sft, ("prepare", "conversations.jsonl"), "base", objective)


def dpo(job: Job) -> None:
    """Stage 2 (equation 1): from the stage-1 policy, which is also the reference."""
    from stllava.training.dpo import DpoObjective

    def objective(policy: Policy, settings: Any) -> DpoObjective:
        preferences = job.stage("prefer").read("preferences.jsonl", Preference)
        return DpoObjective(policy, preferences, job.open_image, settings)

    _train(job, "dpo", job.recipe.dpo, ("prefer", "preferences.jsonl"), "sft", objective)


def _train(
    job: Job,
    name: str,
    settings: TrainSection,
    data: tuple[str, str],
    start: str,
    make_objective: Callable[[Policy, Any], Objective],
) -> None:
    stage = job.stage(name)
    plan = {**settings.model_dump(mode="json"), "seed": job.recipe.seed}
    if name == "sft":
        plan["group"] = job.recipe.data.group
    if job.recipe.model.quantize != "none":
        plan["quantize"] = job.recipe.model.quantize
    if not stage.begin(inputs=[job.file(*data), job.checkpoint(start)], settings=plan, by_id=True):
        return
    job.reporter.stage(name, 1)
    policy = load_to_train(job, start)
    from stllava.policy.scorer import TokenScorer
    from stllava.training.dpo import DpoObjective
    from stllava.training.trainer import train

    _adapt(job, policy, settings)
    scorer = TokenScorer.of(policy)
    objective = make_objective(policy, settings)
    if not objective.ids:
        raise DataError(f"{job.file(*data)}: nothing to train on")
    memory = MemoryWatch.begin(job, stage, objective, settings)
    if isinstance(objective, DpoObjective):
        fix_reference(job, stage, objective, scorer)
    _prove(job, stage, objective, scorer, settings)
    counts = train(
        scorer,
        objective,
        settings,
        output=stage.path / "trainer",
        seed=job.recipe.seed,
        precision=job.precision,
        device=job.device,
        progress=lambda done, total, figures: job.reporter.advance(done, total, **figures),
    )
    memory.end()
    figures = export(job, policy, start, stage.path, objective, settings)
    stage.finish(**counts, precision=job.precision, **figures)
    if not settings.keep_trainer_state:  # last: half-deleted, it could not be resumed from
        shutil.rmtree(stage.path / "trainer")


def _adapt(job: Job, policy: Policy, settings: TrainSection) -> None:
    """Put the adapters on, ready to train."""
    import torch

    from stllava.policy import adapters
    from stllava.training.recompute import recompute_layers
    from stllava.tree import use_tree_attention

    if job.device == "cpu" and job.precision == "bf16":  # SDPA's backward is slow there
        use_tree_attention(policy.core, vision="eager")
    torch.manual_seed(job.recipe.seed)  # the adapters' A matrices are drawn from it
    adapters.adapt(policy, settings)
    adapters.set_dropout(policy, settings.lora)
    if settings.gradient_checkpointing:
        recompute_layers(policy)


def _prove(
    job: Job, stage: Stage, objective: Objective, scorer: TokenScorer, settings: TrainSection
) -> None:
    """Show on one micro-batch which tensors receive gradient; PolicyError if a group has none."""
    from stllava.policy.quantise import quantised_base
    from stllava.training.plan import first_micro_batch
    from stllava.training.preflight import preflight

    rows = preflight(scorer, objective, first_micro_batch(objective, settings), settings)
    base = quantised_base(objective.policy.core)
    said = {"groups": rows, "base": base._asdict()} if base else {"groups": rows}
    write_json(stage.path / "preflight.json", said)
    for row in rows:
        job.reporter.note(
            f"{row['group']}: {row['tensors']} tensors, {row['parameters']:,} parameters, "
            f"lr {row['learning_rate']:g}, gradient in {row['with_gradient']} of {row['checked']}"
        )

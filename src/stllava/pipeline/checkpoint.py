"""Both ends of a training: the policy it starts from, and the adapter and checkpoint it leaves.

With `model.quantize: nf4` the training's own base is in 4 bits, and only there: adapters are merged
into the unquantised weights, read anew from where the training started.
"""

from __future__ import annotations

import shutil
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stllava.config import TrainSection
from stllava.errors import PolicyError
from stllava.files import write_json
from stllava.pipeline.job import Job

if TYPE_CHECKING:
    from stllava.policy.policy import Policy
    from stllava.training.objective import Objective
    from stllava.tree import TreeBatch

BASE = "base_while_training"  # in the cards of adapter and checkpoint: stage -> how it was held


def load_to_train(job: Job, start: str) -> Policy:
    """The policy that a training starts from, on the recipe's device, in 4 bits if it says so."""
    section = job.recipe.model
    if section.quantize == "none":
        return job.load(start)
    from stllava.policy.quantise import quantise

    policy = job.read_policy(start, "cpu")  # whole only here; quantised maps move one by one
    found = quantise(policy, job.device)
    policy.backend = section.attention
    job.reporter.note(f"{start}: {found}")
    job.note_sharing(start, policy)
    return policy


def export(
    job: Job, policy: Policy, start: str, folder: Path, objective: Objective, settings: TrainSection
) -> dict[str, Any]:
    """Write adapter/ and the merged checkpoint/. Returns figures for stage.json.

    `merge_difference`: nats by which merging changed a token's log-probability at most, on real
    records; PolicyError above the tolerances. After a training in 4 bits also `quantize` and
    `quantized_difference`, `quantized_difference_mean`: nats between the policy as it was trained
    and as it was merged.
    """
    from safetensors.torch import load_file

    from stllava.policy import adapters
    from stllava.policy.quantise import quantised_base
    from stllava.policy.scorer import TokenScorer
    from stllava.training.plan import first_micro_batch

    policy.model.save_pretrained(folder / "adapter")
    dead = adapters.zero_lora_b(load_file(str(folder / "adapter" / "adapter_model.safetensors")))
    if dead and settings.epochs:
        raise PolicyError(f"{folder}: {len(dead)} adapters never trained, first {dead[0]}")
    batch = first_micro_batch(objective, settings).batch
    card: dict[str, Any] = {"stage": folder.name}
    if quantised_base(policy.core) is None:
        scorer = TokenScorer.of(policy)  # the trained one may autocast
        figures = {"merge_difference": adapters.merge(policy, lambda: scorer(batch))}
    else:
        held = policy.provenance.get(BASE, {}) | {folder.name: "nf4"}
        card[BASE] = held
        write_json(folder / "adapter" / "stllava.json", card)
        policy, figures = _merge_unquantised(job, policy, start, folder / "adapter", batch)
    _write(policy, folder, card)
    return figures


def _merge_unquantised(
    job: Job, trained: Policy, start: str, adapter: Path, batch: TreeBatch
) -> tuple[Policy, dict[str, Any]]:
    """The adapter merged into the unquantised start, in main memory, and both differences."""
    import torch
    from peft import PeftModel

    from stllava.policy import adapters
    from stllava.policy.scorer import TokenScorer

    trained.model.eval()
    with torch.inference_mode():
        in_4_bits = TokenScorer.of(trained)(batch).cpu()
    policy = job.read_policy(start, "cpu")  # a device that needs 4 bits cannot hold it
    policy.rules = trained.rules  # the batch was packed by them
    with warnings.catch_warnings():  # as in adapters.adapt
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        policy.model = PeftModel.from_pretrained(policy.model, adapter)
    scorer, batch = TokenScorer.of(policy), batch.to("cpu")
    figures: dict[str, Any] = {"merge_difference": adapters.merge(policy, lambda: scorer(batch))}
    with torch.inference_mode():
        change = (in_4_bits - scorer(batch)).abs()
    mean, largest = change.mean().item(), change.max().item()
    figures |= {"quantize": "nf4"}
    figures |= {"quantized_difference": largest, "quantized_difference_mean": mean}
    job.reporter.note(
        f"merged into the unquantised base (off by {figures['merge_difference']:.2g} nats at most);"
        f" its tokens differ from those of the 4-bit policy that was trained by {mean:.2g} nats on "
        f"average, {largest:.2g} at most: the quantisation error of the base"
    )
    return policy, figures


def _write(policy: Policy, folder: Path, card: dict[str, Any]) -> None:
    temporary = folder / ".checkpoint"
    shutil.rmtree(temporary, ignore_errors=True)
    policy.save(temporary, **card)
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    temporary.rename(folder / "checkpoint")

"""dpo's reference log-probabilities: recorded, computed or online, and proven at step 0."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

from stllava.errors import PolicyError
from stllava.files import read_json, read_records, write_text
from stllava.pipeline.job import Job
from stllava.stage import Stage

if TYPE_CHECKING:
    from stllava.training.dpo import DpoObjective
    from stllava.training.reference import ReferenceLogProbs

FILE = "reference.jsonl"
CHECKED = 32  # pairs that step 0 looks at, from all over the data


def fix_reference(job: Job, stage: Stage, objective: DpoObjective, scorer: Any) -> None:
    """Give the objective its reference, then assert margin 0 and loss ln 2 at step 0.

    Recorded log-probabilities that miss it are replaced by computed ones, and that is said.
    Raises PolicyError if these miss it too, or if the recipe insists on recorded ones.
    """
    wanted = job.recipe.dpo.reference
    if wanted == "online":
        _check(job, objective, scorer, "online, with the adapters off in every step")
        return
    keys = _keys(job, stage, objective)
    if wanted in ("auto", "recorded") and _try_recorded(job, stage, objective, scorer, keys):
        _write(stage, objective)
        return
    _compute(job, stage, objective, scorer, keys)
    _write(stage, objective)
    _check(job, objective, scorer, f"computed in one pass, kept in {FILE}")


def _try_recorded(
    job: Job, stage: Stage, objective: DpoObjective, scorer: Any, keys: Mapping[str, str]
) -> bool:
    from stllava.policy.quantise import quantised_base
    from stllava.training.reference import recorded

    wanted = job.recipe.dpo.reference
    # What sampled was in full precision: a base in 4 bits is another reference, however near.
    in_4_bits = quantised_base(objective.policy.core) is not None
    same = not job.has_pairs and _checkpoint_of(job.stage("answer")) == _checkpoint_of(stage)
    found = recorded(objective, keys) if same and not in_4_bits else []
    if not found:
        if wanted == "recorded":
            raise PolicyError(
                "dpo.reference: recorded, but not every answer carries log-probabilities that this "
                "policy gave to its tokens; set it to auto or computed"
            )
        return False
    objective.reference = {record.id: record for record in found}
    try:
        _check(job, objective, scorer, "recorded while sampling")
    except PolicyError as error:
        if wanted == "recorded":
            raise
        objective.reference = {}
        found_off = str(error).partition(": the reference is not")[0].removeprefix("dpo: ")
        job.reporter.note(
            f"reference recorded while sampling is not used ({found_off}): computed anew"
        )
        return False
    return True


def _compute(
    job: Job, stage: Stage, objective: DpoObjective, scorer: Any, keys: Mapping[str, str]
) -> None:
    from stllava.training.reference import ReferenceLogProbs, computed

    file = stage.path / FILE
    known: dict[str, ReferenceLogProbs] = {}
    if file.is_file():
        every = read_records(file, ReferenceLogProbs)
        known = {r.id: r for r in every if keys.get(r.id) == r.key}
    budget = job.recipe.dpo.micro_batch_tokens
    with autocast(job):
        for record in computed(objective, scorer, tuple(known), keys, budget):
            stage.append(FILE, record)
            known[record.id] = record
            job.reporter.advance(len(known), len(objective.ids))
    objective.reference = {record_id: known[record_id] for record_id in objective.ids}


def _write(stage: Stage, objective: DpoObjective) -> None:
    records = (objective.reference[record_id] for record_id in objective.ids)
    lines = "".join(record.model_dump_json() + "\n" for record in records)
    stage.flush()
    write_text(stage.path / FILE, lines)


def _keys(job: Job, stage: Stage, objective: DpoObjective) -> dict[str, str]:
    from stllava.training.reference import reference_keys

    images = {image.id: image.sha256 for image in job.images.values()}
    return reference_keys(objective, _checkpoint_of(stage), images, job.precision)


def _checkpoint_of(stage: Stage) -> str:
    """sha256 of the checkpoint a stage was made from: its input that is no file of records.

    It is sft's, or, without instruction data, the base, whose folder may have any name.
    """
    inputs: dict[str, str] = read_json(stage.path / "plan.json")["inputs"]
    return next(digest for name, digest in inputs.items() if not name.endswith(".jsonl"))


def _check(job: Job, objective: DpoObjective, scorer: Any, source: str) -> None:
    from stllava.training.dpo import check_first_step
    from stllava.training.plan import plan_micro_batches

    every = sorted(objective.ids, key=objective.image_of)
    examples = [objective.example(i, 0) for i in every[:: -(-len(every) // CHECKED)]]
    micros = []
    budget, share = job.recipe.dpo.micro_batch_tokens, objective.policy.rules.share
    for members in plan_micro_batches(examples, budget=budget, share=share):
        micro = objective.micro_batch(members)
        micro.batch = micro.batch.to(objective.policy.device)
        micros.append(micro)
    with autocast(job):
        margin, loss = check_first_step(objective, scorer, micros, bf16=job.precision == "bf16")
    job.reporter.note(
        f"reference {source}; step 0: mean |beta margin| {margin:.2g}, loss {loss:.4f} "
        f"(ln 2 = {math.log(2):.4f})"
    )


def autocast(job: Job) -> AbstractContextManager[Any]:
    """The arithmetic of training, so that policy and reference start from equal numbers."""
    import torch

    if job.precision == "bf16":
        return torch.autocast(job.device, torch.bfloat16)
    return nullcontext()

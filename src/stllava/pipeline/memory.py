"""Memory of a training stage: estimated before it starts, measured when it is done."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from stllava.config import TrainSection
from stllava.files import write_json
from stllava.pipeline.job import Job
from stllava.stage import Stage

if TYPE_CHECKING:
    from stllava.training.memory import MemoryPlan, Meter
    from stllava.training.objective import Objective

FILE = "memory.json"
# Bytes of weights below which nothing is estimated on a CPU: it would take seconds, and there is
# nothing to fear.
SMALL = 64 * 2**20


@dataclass
class MemoryWatch:
    """What was estimated, and where measuring began."""

    job: Job
    stage: Stage
    plan: MemoryPlan | None
    meter: Meter

    @classmethod
    def begin(
        cls, job: Job, stage: Stage, objective: Objective, settings: TrainSection
    ) -> MemoryWatch:
        """Estimate, say it, write it down, and begin to measure.

        Raises DataError for a record that training could not use, PolicyError if a GPU cannot hold
        what is estimated (`model.memory_check: stop`).
        """
        from stllava.training.memory import Meter
        from stllava.training.plan import check_records, plan_of

        steps = plan_of(objective, settings, job.recipe.seed)
        check_records(objective, steps)
        plan = _estimate(job, objective, settings, steps) if steps else None
        watch = cls(job, stage, plan, Meter.begin(job.device))
        if plan is not None:
            for line in plan.lines():
                job.reporter.note(line)
            watch._write({})
            watch._check(plan)
        return watch

    def end(self) -> None:
        """Say what was taken and write it beside the estimate."""
        from stllava.training.memory import said

        found = self.meter.end(self.plan)
        self._write(found)
        self.job.reporter.note(said(found))

    def _check(self, plan: MemoryPlan) -> None:
        if self.job.device != "cuda":
            return
        import torch

        total = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
        mode = self.job.recipe.model.memory_check
        if warning := plan.check(total, self.stage.path.name, mode):
            self.job.reporter.note(warning)

    def _write(self, measured: dict[str, Any]) -> None:
        plan = self.plan.dump() if self.plan else None
        write_json(self.stage.path / FILE, {"plan": plan, **measured})


def _estimate(
    job: Job, objective: Objective, settings: TrainSection, steps: Any
) -> MemoryPlan | None:
    """None for a small policy on a CPU, and where the model's code cannot run without values."""
    from stllava.training.memory import Speaker, estimate, largest_micro_batch

    policy = objective.policy
    if job.device == "cpu" and sum(p.nbytes for p in policy.core.parameters()) < SMALL:
        return None
    devices = int(os.environ.get("WORLD_SIZE", "1"))
    try:
        return estimate(
            policy.core.config,
            settings,
            largest_micro_batch(objective, steps, settings, devices),
            bf16=job.precision == "bf16",
            quantize=job.recipe.model.quantize,
            fused_attention=job.device == "cuda",
            backend=policy.backend,
            rules=policy.rules,
            speaker=Speaker.of(policy),
            devices=devices,
        )
    except (
        RuntimeError,
        NotImplementedError,
        TypeError,
        ValueError,
        LookupError,
        AttributeError,
    ) as e:
        reason = (str(e).strip() or type(e).__name__).splitlines()[0]
        job.reporter.note(f"memory: cannot be estimated for this model: {reason}")
        return None

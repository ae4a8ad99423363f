"""The training loop: `transformers.Trainer`, subclassed once.

One dataset item is one planned optimiser step: a list of micro-batches with all its records. The
step divides by its global count (learned tokens or pairs), whatever the number of micro-batches
and devices, so accumulation never changes the objective.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, Sampler
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from stllava.config import TrainSection
from stllava.errors import RunError
from stllava.files import write_text
from stllava.policy.adapters import parameter_groups
from stllava.policy.scorer import TokenScorer
from stllava.training.objective import MicroBatch, Objective
from stllava.training.plan import PlannedStep, plan_micro_batches, plan_of

log = logging.getLogger(__name__)

TRAINABLE = "trainable.safetensors"
Progress = Callable[[int, int, dict[str, float]], None]


class PlannedDataset(Dataset[list[MicroBatch]]):
    """Item i holds this rank's micro-batches of optimiser step i."""

    def __init__(
        self, objective: Objective, plan: Sequence[PlannedStep], budget: int, rank: int, world: int
    ) -> None:
        self.objective, self.plan, self.budget = objective, plan, budget
        self.rank, self.world = rank, world

    def __len__(self) -> int:
        return len(self.plan)

    def __getitem__(self, index: int) -> list[MicroBatch]:
        examples = [self.objective.example(*record) for record in self.plan[index].records]
        mine = plan_micro_batches(
            examples,
            budget=self.budget,
            rank=self.rank,
            world=self.world,
            share=self.objective.policy.rules.share,
        )
        if mine:
            return [self.objective.micro_batch(members) for members in mine]
        idle = self.objective.micro_batch(examples[:1])  # ranks must take part in every step
        return [replace(idle, count=0.0, num_cut=0, idle=True)]


class _From(Sampler[int]):
    """Steps in order, from the one to resume at."""

    def __init__(self, first: int, total: int) -> None:
        self.first, self.total = first, total

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.first, self.total))

    def __len__(self) -> int:
        return self.total  # of the whole run: the trainer reckons epochs with it


class PlannedTrainer(Trainer):
    """Own parameter groups, planned steps, small checkpoints, one JSON line of metrics a step."""

    def __init__(
        self,
        scorer: TokenScorer,
        objective: Objective,
        settings: TrainSection,
        args: TrainingArguments,
        plan: Sequence[PlannedStep],
        *,
        first_step: int,
        num_cut: int = 0,
        progress: Progress | None = None,
    ) -> None:
        self.objective = objective
        self.settings = settings
        self.first_step = first_step
        self.progress = progress
        self.num_cut = num_cut  # texts that were shortened so far
        dataset = PlannedDataset(
            objective, plan, settings.micro_batch_tokens, args.process_index, args.world_size
        )
        super().__init__(model=scorer, args=args, train_dataset=dataset)
        self.remove_callback(PrinterCallback)
        self.add_callback(_Metrics(self))

    def get_train_dataloader(self) -> DataLoader[list[MicroBatch]]:
        dataset = self.train_dataset
        sampler = _From(self.first_step, len(dataset))
        # Its own generator: else it draws from the one of dropout, but not when it resumes.
        return DataLoader(dataset, batch_size=None, sampler=sampler, generator=torch.Generator())

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        self.optimizer: torch.optim.Optimizer | None
        if self.optimizer is None:
            groups = parameter_groups(self.model.core, self.settings)
            kept = [{k: v for k, v in g.items() if k != "names"} for g in groups]
            self.optimizer = torch.optim.AdamW(kept, fused=False)
        return self.optimizer

    def training_step(
        self,
        model: nn.Module,
        inputs: list[MicroBatch],
        num_items_in_batch: Tensor | int | None = None,
    ) -> Tensor:
        model.train()
        (total,) = self._over_ranks([sum(micro.count for micro in inputs)])
        sums = {"loss": 0.0, "cut": 0.0}
        for index, micro in enumerate(inputs):
            last = index + 1 == len(inputs)
            with nullcontext() if last else self.accelerator.no_sync(model):
                with self.compute_loss_context_manager():
                    micro.batch = micro.batch.to(self.args.device)
                    loss = self.objective.loss(cast(TokenScorer, model), micro)
                # DDP averages gradients over ranks; the step wants their sum over the count.
                weight = 0.0 if micro.idle else 1.0
                scale = weight * self.accelerator.num_processes / total
                self.accelerator.backward(loss.total * scale)
            own = {"loss": loss.total.item(), "cut": micro.num_cut}
            for name, (value, number) in loss.sums.items():
                own[name], own[f"{name}/n"] = value, number
            for name, value in own.items():
                sums[name] = sums.get(name, 0.0) + weight * value
        sums = dict(zip(sums, self._over_ranks([*sums.values()]), strict=True))
        self.num_cut += round(sums["cut"])
        named = [name for name in sums if sums.get(f"{name}/n")]
        self.step_metrics = {name: sums[name] / sums[f"{name}/n"] for name in named}
        self.step_metrics["loss"] = sums["loss"] / total
        return torch.tensor(self.step_metrics["loss"], device=self.args.device)

    def _over_ranks(self, numbers: Sequence[float]) -> list[float]:
        """Each number summed over all ranks."""
        own = torch.tensor(numbers, dtype=torch.float64, device=self.args.device)
        return cast(list[float], self.accelerator.reduce(own, reduction="sum").tolist())

    def _prepare_inputs(self, inputs: Any) -> Any:
        return inputs  # micro-batches move to the device one at a time

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """Only what is trained, as safetensors; no pickled arguments."""
        folder = Path(output_dir or self.args.output_dir)
        folder.mkdir(parents=True, exist_ok=True)
        named = self.accelerator.unwrap_model(self.model).named_parameters()
        trained = {n: p.detach().contiguous() for n, p in named if p.requires_grad}
        save_file(trained, str(folder / TRAINABLE))

    def _load_from_checkpoint(
        self, resume_from_checkpoint: str, model: nn.Module | None = None
    ) -> None:
        trained = load_file(str(Path(resume_from_checkpoint) / TRAINABLE))
        own = dict(self.model.named_parameters())
        wanted = {n for n, p in own.items() if p.requires_grad}
        if wanted != set(trained):
            name = sorted(wanted ^ set(trained))[0]
            raise RunError(f"{resume_from_checkpoint}: does not fit this recipe: {name}")
        with torch.no_grad():
            for name, value in trained.items():
                own[name].copy_(value)


class _Metrics(TrainerCallback):
    """metrics.jsonl: step, loss and its parts, learning rates."""

    def __init__(self, trainer: PlannedTrainer) -> None:
        self.trainer = trainer
        self.path = Path(trainer.args.output_dir).parent / "metrics.jsonl"

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if not state.is_world_process_zero:
            return
        trainer = self.trainer
        line = {"step": state.global_step, **trainer.step_metrics, "cut": trainer.num_cut}
        assert self.trainer.optimizer is not None
        for group in self.trainer.optimizer.param_groups:
            line[f"lr/{group['name']}"] = group["lr"]
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(line) + "\n")
        if self.trainer.progress:
            self.trainer.progress(state.global_step, state.max_steps, self.trainer.step_metrics)


def train(
    scorer: TokenScorer,
    objective: Objective,
    settings: TrainSection,
    *,
    output: Path,
    seed: int,
    precision: str,
    device: str,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train over the planned steps, resuming from the last checkpoint in `output`.

    Returns counts for stage.json. `precision` is "fp32" or "bf16" (autocast; weights stay fp32).
    """
    plan = plan_of(objective, settings, seed)
    last = _last_checkpoint(output)
    first_step = _step_of(last) if last else 0
    warmup = round(settings.warmup_ratio * len(plan))
    args = TrainingArguments(
        output_dir=str(output),
        max_steps=len(plan),
        per_device_train_batch_size=1,
        gradient_accumulation_steps=1,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.schedule,
        warmup_steps=warmup,
        bf16=precision == "bf16",
        use_cpu=device == "cpu",
        seed=seed,
        save_strategy="steps",
        save_steps=settings.save_steps,
        save_total_limit=2,
        ignore_data_skip=True,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        average_tokens_across_devices=False,
        ddp_find_unused_parameters=False,  # preflight has seen that there are none
    )
    metrics = output.parent / "metrics.jsonl"
    trainer = PlannedTrainer(
        scorer,
        objective,
        settings,
        args,
        plan,
        first_step=first_step,
        num_cut=_cut_metrics(metrics, first_step, write=args.process_index == 0),
        progress=progress,
    )
    trainer.train(resume_from_checkpoint=str(last) if last else None)
    return {"steps": len(plan), "records": len(objective.ids), "cut": trainer.num_cut}


def _last_checkpoint(output: Path) -> Path | None:
    """The latest complete one: what a kill left half-written lacks the state, written last."""
    states = output.glob("checkpoint-*/trainer_state.json")
    complete = [state.parent for state in states if state.stat().st_size]
    return max(complete, key=_step_of, default=None)


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.rsplit("-", 1)[1])


def _cut_metrics(path: Path, first_step: int, *, write: bool) -> int:
    """Forget metrics of steps that will be repeated. Returns how many texts were cut before."""
    if not path.is_file():
        return 0
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)[:first_step]
    if write:
        write_text(path, "".join(lines))
    return int(json.loads(lines[-1]).get("cut", 0)) if lines else 0

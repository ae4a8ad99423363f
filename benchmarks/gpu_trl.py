"""trl's trainers on the same ids and weights, for `gpu`; its own steps, prepared inputs."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks import model as toy
from benchmarks.families import adapter
from benchmarks.gpu_common import Bench, Row, measured, new_model, release
from benchmarks.pairs import Pair
from benchmarks.timing import count_flops
from stllava.tree.batch import stack_images
from stllava.tree.score import token_types


class Trl:
    """DPOTrainer and SFTTrainer on one model. "best" is without gradient checkpointing.

    On CUDA its fused head scores labelled positions only; on a CPU it scores all of them.
    """

    def __init__(self, bench: Bench, setting: str, *, micro: int = 4) -> None:
        self.bench, self.setting, self.micro = bench, setting, micro
        self.core = new_model(bench)
        self.dpo = self._trainer("DPO", peft=True)
        self.model = self.dpo.model.train()
        self.sft: Any = None
        if setting == "default":
            self.model.activation_checkpointing_enable()
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=5e-6)
        parts = [bench.pairs[i : i + micro] for i in range(0, len(bench.pairs), micro)]
        self.dpo_batches = [dpo_inputs(bench, self.core, part) for part in parts]
        self.sft_batches = [sft_inputs(bench, self.core, part) for part in parts]

    def _trainer(self, kind: str, *, peft: bool) -> Any:
        import trl
        from datasets import Dataset

        row = {"DPO": {"prompt": "", "chosen": "", "rejected": ""}, "SFT": {"text": ""}}[kind]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # names that its libraries are about to change
            args = getattr(trl, f"{kind}Config")(
                output_dir=tempfile.mkdtemp(),
                per_device_train_batch_size=self.micro,
                use_cpu=self.bench.device.type == "cpu",
                bf16=False,  # autocast is put around the step, as around the tree's
                report_to=[],
                disable_tqdm=True,
                gradient_checkpointing=self.setting == "default",
            )
            return getattr(trl, f"{kind}Trainer")(
                self.core if peft else self.model,
                args=args,
                train_dataset=Dataset.from_list([{"images": [], **row}]),
                processing_class=toy.make_processor(),  # asked for; the batches are ready already
                data_collator=lambda rows: rows,
                **({"peft_config": adapter(self.core, *self.bench.ranks)} if peft else {}),
            )

    def dpo_step(self) -> None:
        self._step(self.dpo, self.dpo_batches)

    def chosen(self) -> float:
        """Mean log-probability of the chosen answers before training, as trl logs it."""
        logged = self.dpo._metrics["train"]
        logged.clear()
        with torch.no_grad(), self.bench.autocast():
            for batch in self.dpo_batches:
                self.dpo.compute_loss(self.model, dict(batch))
        return sum(logged["logps/chosen"]) / len(self.dpo_batches)

    def sft_step(self) -> None:
        """From here on the model's head is SFTTrainer's; `dpo_step` comes before."""
        if self.sft is None:
            self.sft = self._trainer("SFT", peft=False)
        self._step(self.sft, self.sft_batches)

    def _step(self, trainer: Any, batches: Sequence[dict[str, Tensor]]) -> None:
        for batch in batches:
            with self.bench.autocast():
                loss = trainer.compute_loss(self.model, dict(batch)) / len(batches)
            loss.backward()
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def train(bench: Bench) -> list[Row]:
    """Rows of the table: pairs and tokens a second, under both settings."""
    rows = []
    tokens = sum(len(pair.texts[0].ids) for pair in bench.pairs)
    for setting in ("best", "default"):
        side = Trl(bench, setting)
        name = f"chosen answers' log-probability, trl, {setting} settings"
        rows.append(Row(name, side.chosen(), "nats", None, None))
        for kind, step, units, unit in (
            ("DPO", side.dpo_step, len(bench.pairs), "pairs/s"),
            ("SFT", side.sft_step, tokens, "tokens/s"),
        ):
            name = f"{kind}, trl, {setting} settings"
            rows.append(measured(bench, name, step, units, unit, count_flops(step)))
        del side, step
        release()
    return rows


def dpo_inputs(bench: Bench, core: Any, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    """What trl's collator makes: chosen rows, then rejected rows, each with its image."""
    rows = [(p.texts[side], p.image) for side in (0, 1) for p in pairs]
    made = _inputs(bench, core, rows)
    made["completion_mask"] = made.pop("labels") != -100
    return made


def sft_inputs(bench: Bench, core: Any, pairs: Sequence[Pair]) -> dict[str, Tensor]:
    return _inputs(bench, core, [(pair.texts[0], pair.image) for pair in pairs])


def _inputs(bench: Bench, core: Any, rows: Sequence[tuple[Any, str]]) -> dict[str, Tensor]:
    width = max(len(text.ids) for text, _ in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    labels = torch.full_like(ids, -100)
    mask = torch.zeros_like(ids)
    for r, (text, _) in enumerate(rows):
        here = torch.tensor(text.ids)
        learned = torch.tensor(text.learned).bool()
        ids[r, : len(here)] = here
        labels[r, : len(here)] = here.masked_fill(~learned, -100)
        mask[r, : len(here)] = 1
    made = {"input_ids": ids, "attention_mask": mask, "labels": labels, **token_types(core, ids)}
    moved = {name: value.to(bench.device) for name, value in made.items()}
    return {**moved, **vision_of(bench, [image for _, image in rows])}


def vision_of(bench: Bench, images: Sequence[str]) -> dict[str, Tensor]:
    """Each row with an image of its own."""
    vision = stack_images([bench.images[name] for name in images])
    vision["pixel_values"] = vision["pixel_values"].to(bench.dtype)
    return {name: value.to(bench.device) for name, value in vision.items()}


def padded_left(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
    width = max(map(len, prompts))
    return [[0] * (width - len(p)) + list(p) for p in prompts]

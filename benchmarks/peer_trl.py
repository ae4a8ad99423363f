"""trl's DPOTrainer on the same pairs and weights, in a process of its own.

`python -m benchmarks.peer_trl FOLDER` under any interpreter that has trl and peft; it imports
nothing of this project but `timing`. It answers JSON lines: {"do": "step", "setting": "best",
"pairs": [...]} is followed by {"seconds": ...}. FOLDER holds the base model, the adapter, pairs
and images that `dpo` wrote.

Settings: "default" is trl as it comes, with gradient checkpointing; "best" is without it, and
with the fused head told that this CPU is a CUDA device, where it scores labelled positions only.
"""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from benchmarks.timing import cpu_seconds, measure


class Side:
    """One trainer; `micro` pairs go through the model at a time."""

    def __init__(self, folder: Path, setting: str, micro: int) -> None:
        from datasets import Dataset
        from peft import LoraConfig, set_peft_model_state_dict
        from safetensors.torch import load_file
        from transformers import AutoModelForImageTextToText
        from trl import DPOConfig, DPOTrainer

        self.setting, self.micro, self.folder = setting, micro, folder
        base = AutoModelForImageTextToText.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        )
        args = DPOConfig(
            output_dir=str(folder / setting),
            per_device_train_batch_size=micro,
            use_cpu=True,
            bf16=False,
            learning_rate=5e-6,
            report_to=[],
            disable_tqdm=True,
            **({"gradient_checkpointing": False} if setting == "best" else {}),
        )
        self.pairs = json.loads((folder / "pairs.json").read_text())
        rows = [{"images": [], **{k: p[k] for k in ("prompt", "chosen", "rejected")}}
                for p in self.pairs.values()]  # fmt: skip
        adapter = LoraConfig.from_pretrained(str(folder / "adapter"))
        adapter.inference_mode = False  # saved adapters come frozen
        self.trainer = DPOTrainer(
            base,
            args=args,
            train_dataset=Dataset.from_list(rows[:1]),
            processing_class=_processor(folder),
            peft_config=adapter,
        )
        self.model = self.trainer.model.train()
        if args.activation_checkpointing:  # `train` would do it; steps are made one by one here
            self.model.activation_checkpointing_enable()
        weights = load_file(folder / "adapter" / "adapter_model.safetensors")
        set_peft_model_state_dict(self.model, weights)
        self.trainer.create_optimizer()
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        assert sum(len(g["params"]) for g in self.trainer.optimizer.param_groups) == len(
            self.trained
        )

    def examples(self, ids: list[str]) -> list[dict[str, Any]]:
        texts = ("prompt", "chosen", "rejected")
        return [
            {
                "images": [self._image(self.pairs[i]["file"])],
                **{name: self.pairs[i][name] for name in texts},
            }
            for i in ids
        ]

    def _image(self, name: str) -> Image.Image:
        if name not in _IMAGES:
            _IMAGES[name] = Image.open(self.folder / "images" / name).convert("RGB")
        return _IMAGES[name]

    def batches(self, ids: list[str]) -> list[dict[str, Any]]:
        parts = [ids[at : at + self.micro] for at in range(0, len(ids), self.micro)]
        return [self.trainer.data_collator(self.examples(part)) for part in parts]

    def step(self, ids: list[str]) -> None:
        """One optimiser step over all pairs, collation included."""
        _fused_head_as_on_cuda(self.setting == "best")
        batches = self.batches(ids)
        self.trainer.current_gradient_accumulation_steps = len(batches)
        for batch in batches:
            self.trainer.training_step(self.model, dict(batch))
        torch.nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.trainer.optimizer.step()
        self.trainer.optimizer.zero_grad()

    def facts(self, ids: list[str]) -> dict[str, float]:
        """What trl itself logs for these pairs."""
        self.trainer._metrics["train"].clear()
        _fused_head_as_on_cuda(self.setting == "best")
        with torch.no_grad():
            losses = [
                self.trainer.compute_loss(self.model, self.trainer._prepare_inputs(dict(b))).item()
                for b in self.batches(ids)
            ]
        logged = self.trainer._metrics["train"]
        names = ("logps/chosen", "logps/rejected", "rewards/margins")
        return {
            "trained parameters": sum(p.numel() for p in self.trained),
            "loss": sum(losses) / len(losses),
            **{name: sum(logged[name]) / len(logged[name]) for name in names},
        }


_IMAGES: dict[str, Image.Image] = {}


def _fused_head_as_on_cuda(wanted: bool) -> None:
    """trl scores only labelled positions where `utils._use_triton` says so; kernels are others'."""
    from trl.kernels import chunked_logprob
    from trl.trainer import utils

    utils._use_triton = (lambda device: True) if wanted else chunked_logprob._use_triton


def _processor(folder: Path) -> Any:
    from transformers import AutoImageProcessor, AutoTokenizer, LlavaProcessor

    config = json.loads((folder / "config.json").read_text())
    return LlavaProcessor(
        image_processor=AutoImageProcessor.from_pretrained(folder, backend="pil"),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        patch_size=config["vision_config"]["patch_size"],
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,  # the class token, which "default" drops again
    )


def _answer(side: Side, asked: dict[str, Any]) -> dict[str, Any]:
    ids = asked["pairs"]
    if asked["do"] == "step":
        return {"seconds": cpu_seconds(lambda: side.step(ids))}
    if asked["do"] == "measure":
        return measure(lambda: side.step(ids), side.model.parameters())._asdict()
    assert asked["do"] == "facts", asked
    return side.facts(ids)


def main() -> None:
    """Serve until standard input closes. What libraries print goes to standard error."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    warnings.simplefilter("ignore")
    options = json.loads(sys.argv[1])
    torch.set_num_threads(options["threads"])
    sides: dict[str, Side] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        setting = asked["setting"]
        if setting not in sides:
            sides[setting] = Side(Path(options["folder"]), setting, options["micro"])
        print(json.dumps(_answer(sides[setting], asked)), file=replies, flush=True)


if __name__ == "__main__":
    main()

"""What a training stage needs on each device, part by part, before it starts.

Data parallel: every device holds all of it, nothing is divided between them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from torch import nn

from stllava.config import TrainSection
from stllava.errors import PolicyError
from stllava.policy.policy import Policy
from stllava.training.memory.sketch import SCALES, Speaker, sketch
from stllava.training.memory.trace import trace_layers
from stllava.tree import Rules, TreeBatch

GIB = 2**30
ADAMW = 8  # bytes a trained parameter: two moments in fp32; there is no master copy
# Of the GPU's context, workspaces and fragmentation; never measured here, a guess.
RESERVE = GIB
REMEDIES = (
    "{stage}.micro_batch_tokens", "{stage}.gradient_checkpointing=true", "model.quantize=nf4",
    "model.image_side",
)  # fmt: skip


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes on each device at the worst moment of a step."""

    weights: dict[str, int]  # frozen ones by dtype; "nf4" with its scales
    trained: int  # adapters, projector and a new asker token's row, fp32
    gradients: int  # with several devices a second time, in the buckets they are sent by
    optimizer: int
    inputs: int  # ids and pixels of a micro-batch
    vision: int  # kept for the backward pass by vision encoder and projector
    language: int  # by language model and head
    passing: (
        int  # for a moment on top: recomputed layers, logits of a chunk, gradients on their way
    )
    update: int  # what the optimizer makes for a moment, when nothing is kept
    rows: int  # of the micro-batch
    tokens: int  # in a row, padding included
    images: int
    devices: int = 1

    @property
    def state(self) -> int:
        """What stays from step to step."""
        return sum(self.weights.values()) + self.trained + self.gradients + self.optimizer

    @property
    def step(self) -> int:
        """The most that comes and goes in a step."""
        return max(self.inputs + self.vision + self.language + self.passing, self.update)

    @property
    def peak(self) -> int:
        """As `torch.cuda.max_memory_allocated` would say."""
        return self.state + self.step

    @property
    def loaded(self) -> int:
        """What is there before training starts."""
        return sum(self.weights.values()) + self.trained

    def lines(self) -> list[str]:
        """A small table."""
        weights = ", ".join(f"{gib(size)} {kind}" for kind, size in self.weights.items())
        every = f" on each of {self.devices} devices" if self.devices > 1 else ""
        return [
            f"memory: about {gib(self.peak)} GiB{every} at the worst moment of a step",
            f"  weights {weights}; trained {gib(self.trained)}, gradients {gib(self.gradients)}, "
            f"optimizer {gib(self.optimizer)}",
            f"  micro-batch of {self.rows} x {self.tokens} tokens, {self.images} images: kept by "
            f"vision {gib(self.vision)}, by language model {gib(self.language)}, "
            f"passing {gib(self.passing)}",
        ]

    def dump(self) -> dict[str, Any]:
        """Plain data, in bytes."""
        return {**asdict(self), "state": self.state, "step": self.step, "peak": self.peak}

    def check(self, total: int, stage: str, mode: str = "stop") -> str | None:
        """None if it fits into a device of `total` bytes; else PolicyError, or a line to show."""
        needed = self.peak + RESERVE
        if needed <= total:
            return None
        names = ", ".join(name.format(stage=stage) for name in REMEDIES)
        text = (
            f"{stage}: needs about {gib(needed)} GiB (with {gib(RESERVE)} for the GPU's own use), "
            f"the device has {gib(total)}; lower or set, in this order: {names}"
        )
        if mode == "stop":
            raise PolicyError(f"{text}; model.memory_check=warn goes on all the same")
        return f"WARNING: {text}"


def gib(size: float) -> str:
    """Bytes in GiB, to what is worth reading."""
    value = size / GIB
    return f"{value:.1f}" if value >= 9.95 else f"{value:.2f}" if value >= 0.1 else f"{value:.3f}"


def estimate(
    config: Any,
    settings: TrainSection,
    batch: TreeBatch,
    *,
    bf16: bool,
    quantize: str = "none",
    fused_attention: bool = True,
    backend: str = "auto",
    rules: Rules | None = None,
    speaker: Speaker | None = None,
    devices: int = 1,
) -> MemoryPlan:
    """The plan for a policy of this config (a transformers config), trained on such micro-batches.

    Nothing of the model is allocated. `batch` lies on the CPU: see `load`. `fused_attention`: as on
    a GPU; else as this package computes on a CPU, by `backend`. fp32 weights, as `Policy.load`
    makes them; `bf16` is autocast over them.
    """
    vision = "eager" if bf16 and not fused_attention else "sdpa"
    policy = sketch(
        config, settings, quantize=quantize, fused_attention=fused_attention, vision=vision,
        speaker=speaker,
    )  # fmt: skip
    policy.rules = rules or policy.rules
    weights, trained = _weights(policy)
    number = sum(trained)
    traced = trace_layers(
        policy, batch, bf16=bf16, backend=backend, fused_attention=fused_attention
    )
    return MemoryPlan(
        weights=weights,
        trained=4 * number,
        gradients=4 * number * (2 if devices > 1 else 1),
        optimizer=ADAMW * number,
        # On a GPU AdamW works on all tensors at once, else on one after another.
        update=4 * number if fused_attention else 8 * max(trained),
        rows=batch.ids.shape[0],
        tokens=batch.ids.shape[1],
        images=len(batch.images),
        devices=devices,
        **traced._asdict(),
    )


def _weights(policy: Policy) -> tuple[dict[str, int], Sequence[int]]:
    """Bytes of frozen tensors by dtype, and the sizes of trained ones."""
    frozen: dict[str, int] = {}
    trained = [0]
    for parameter in policy.core.parameters():
        if parameter.requires_grad:
            trained.append(parameter.numel())
            continue
        kind, size = _held(parameter)
        frozen[kind] = frozen.get(kind, 0) + size
    return frozen, trained


def _held(parameter: nn.Parameter) -> tuple[str, int]:
    kind = str(parameter.dtype).removeprefix("torch.")
    if kind == "uint8":
        return "nf4", round(parameter.nbytes * (1 + 2 * SCALES))
    return {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(
        kind, kind
    ), parameter.nbytes

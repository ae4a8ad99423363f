"""What a training stage optimises: records to micro-batches, micro-batch to loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from PIL import Image as PILImage
from torch import Tensor

from stllava.policy.scorer import Batch, TokenScorer

OpenImage = Callable[[str], PILImage.Image]


@dataclass
class MicroBatch:
    """One forward pass: its tensors, and how many units of the loss (tokens, pairs) it holds."""

    batch: Batch
    ids: tuple[str, ...]
    count: float
    extra: dict[str, Tensor]  # per pair: reference log-probabilities, weights
    num_cut: int = 0  # sequences that were shortened


class Loss(NamedTuple):
    """`total` is summed over the micro-batch's units; the step divides by its global count.

    `sums` are further sums for the log, each with the number of things it is a sum over.
    """

    total: Tensor
    sums: dict[str, tuple[float, float]]


class Objective(Protocol):
    """`collate` + `loss`; everything else about training is the trainer's business."""

    @property
    def ids(self) -> Sequence[str]:
        """Record ids, in file order."""

    def collate(self, records: Sequence[tuple[str, int]]) -> MicroBatch:
        """Tensors for some (record id, epoch)."""

    def loss(self, scorer: TokenScorer, micro: MicroBatch) -> Loss:
        """Loss summed over the micro-batch."""

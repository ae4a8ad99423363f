"""What a training stage optimises: records to micro-batches, micro-batch to loss."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from PIL import Image as PILImage
from torch import Tensor

from stllava.chat import Tokens
from stllava.config import TrainSection
from stllava.errors import DataError
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer
from stllava.tree import TreeBatch

OpenImage = Callable[[str], PILImage.Image]


class Example(NamedTuple):
    """A record as the texts it hangs on its image."""

    id: str
    image: str
    texts: tuple[Tokens, ...]
    num_cut: int  # texts that were shortened


@dataclass
class MicroBatch:
    """One forward pass: its tensors, and how many units of the loss (tokens, pairs) it holds."""

    batch: TreeBatch
    ids: tuple[str, ...]
    count: float
    extra: dict[str, Tensor] = field(default_factory=dict)  # per pair: reference, weights
    num_cut: int = 0
    idle: bool = False  # on a rank without a record of its own: runs along, weighs nothing


class Loss(NamedTuple):
    """`total` is summed over the micro-batch's units; the step divides by its global count.

    `sums` are further sums for the log, each with the number of things it is a sum over.
    """

    total: Tensor
    sums: dict[str, tuple[float, float]]


class Objective(ABC):
    """Texts of a record, and the loss of a micro-batch; all else is the trainer's business."""

    def __init__(
        self, policy: Policy, ids: Sequence[str], open_image: OpenImage, settings: TrainSection
    ) -> None:
        self.policy = policy
        self.ids = list(ids)  # in file order
        self.open_image = open_image
        self.max_tokens = settings.max_tokens

    @abstractmethod
    def image_of(self, record_id: str) -> str:
        """Records of one image are kept together."""

    @abstractmethod
    def texts(self, record_id: str, epoch: int) -> list[Tokens]:
        """The token sequences of a record."""

    @abstractmethod
    def loss(self, scorer: TokenScorer, micro: MicroBatch) -> Loss:
        """Loss summed over the micro-batch."""

    def count(self, examples: Sequence[Example]) -> float:
        """Units of the loss: learned tokens."""
        return float(sum(sum(map(bool, t.learned[1:])) for e in examples for t in e.texts))

    def extra(self, ids: Sequence[str]) -> dict[str, Tensor]:
        """Further tensors that the loss needs."""
        return {}

    def example(self, record_id: str, epoch: int) -> Example:
        """Texts cut to max_tokens; DataError if one would lose the image or all it learns."""
        given = self.texts(record_id, epoch)
        texts = tuple(Tokens(t.ids[: self.max_tokens], t.learned[: self.max_tokens]) for t in given)
        image_id = self.policy.image_token_id
        for before, after in zip(given, texts, strict=True):
            if before.ids.count(image_id) != after.ids.count(image_id):
                tokens = before.ids.count(image_id)
                raise DataError(
                    f"{record_id}: {self.max_tokens} tokens cannot hold the image, which takes "
                    f"{tokens}; raise max_tokens to {_round_up(tokens)}, or lower model.image_side "
                    "if the family takes any size"
                )
            if any(before.learned) and not any(after.learned):
                raise DataError(
                    f"{record_id}: no learned token within {self.max_tokens} tokens; "
                    "raise max_tokens"
                )
        num_cut = sum(len(t.ids) > self.max_tokens for t in given)
        return Example(record_id, self.image_of(record_id), texts, num_cut)

    def micro_batch(self, examples: Sequence[Example]) -> MicroBatch:
        """One forward pass over the trees of some examples."""
        texts = [text for example in examples for text in example.texts]
        images = [example.image for example in examples for _ in example.texts]
        ids = tuple(example.id for example in examples)
        return MicroBatch(
            self.policy.pack(texts, images, self.open_image),
            ids,
            self.count(examples),
            self.extra(ids),
            sum(example.num_cut for example in examples),
        )

    def collate(self, records: Sequence[tuple[str, int]]) -> MicroBatch:
        """Some (record id, epoch) as one micro-batch."""
        return self.micro_batch([self.example(*record) for record in records])


def _round_up(tokens: int) -> int:
    """Room for texts beside an image's tokens: at least 512, in whole 512."""
    return -(-tokens // 512) * 512 + 512

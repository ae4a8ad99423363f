"""The policy: a vision-language model with its tokenizer, image processor and chat format.

One concrete class over `AutoModelForImageTextToText`. Image processor (PIL backend) and tokenizer
are loaded separately, so that no path needs torchvision.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import asdict, dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image as PILImage
from torch import Tensor

from stllava.chat import ANSWER, Chat, Tokens
from stllava.errors import PolicyError
from stllava.formats import FORMATS, IMAGE, ChatFormat
from stllava.images import pad_to_square
from stllava.policy import sqllava  # noqa: F401  (registers SQ-LLaVA with the Auto classes)
from stllava.policy.families import family_of, num_vision_layers, vision_layers
from stllava.records import Turn
from stllava.tree import CAUSAL, Rules, TreeBatch, use_tree_attention
from stllava.tree.batch import Learnable, pack, stack_images
from stllava.tree.mask import BLOCKS_FROM
from stllava.tree.positions import rope_positions
from stllava.tree.probe import probe_sharing

log = logging.getLogger(__name__)

CARD = "stllava.json"  # beside the weights: chat format and where the checkpoint comes from


@dataclass
class Policy:
    """A loaded checkpoint. `model` is the plain Hugging Face model, or a PeftModel while training.

    Model families are data, not subclasses: what differs between them is read from the config.
    """

    model: Any
    tokenizer: Any
    image_processor: Any
    format: ChatFormat
    provenance: dict[str, Any] = field(default_factory=dict)
    rules: Rules = CAUSAL  # how its texts may share an image
    backend: str = "auto"  # attention over the tree: auto, dense, blocks or flex
    image_side: int | None = None  # pixels every image is brought to; None: the processor's
    image_text: str = IMAGE  # what stands for an image in a text (see `chat.Chat`)
    num_image_tokens: int = 0  # of them, expanded; 0: as the config says

    def __post_init__(self) -> None:
        if not self.num_image_tokens:
            self.num_image_tokens = int(getattr(self.core.config, "image_seq_length", 0))
        use_tree_attention(self.core)
        skip_unused_layers(self.core)

    @classmethod
    def load(cls, path: str | Path, **options: Any) -> Policy:
        """Load a checkpoint folder; see `loading.load_policy` for options and errors."""
        from stllava.policy.loading import load_policy

        return load_policy(path, **options)

    def save(self, path: str | Path, **provenance: Any) -> None:
        """Write weights (safetensors), tokenizer, image processor and card into `path`.

        Raises PolicyError for weights in 4 bits: a checkpoint holds what others can load.
        """
        path = Path(path)
        if getattr(self.core, "is_loaded_in_4bit", False):
            raise PolicyError(f"{path}: a base in 4 bits is not saved, only the adapter over it")
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        self.image_processor.save_pretrained(path)
        card = {**self.provenance, **provenance, "chat_format": self.format.name}
        if self.format.name not in FORMATS:  # read off a template: the card holds it whole
            card["chat"] = asdict(self.format)
        if self.image_side is not None:
            card["image_side"] = self.image_side
        (path / CARD).write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")

    @property
    def core(self) -> Any:
        """The Hugging Face model itself, adapters injected or not."""
        return self.model.get_base_model() if hasattr(self.model, "peft_config") else self.model

    @property
    def device(self) -> torch.device:
        return next(self.core.parameters()).device

    @property
    def end_token_id(self) -> int:
        return int(self.tokenizer.convert_tokens_to_ids(self.format.end))

    @property
    def image_token_id(self) -> int:
        return int(self.core.config.image_token_id)

    @property
    def chat(self) -> Chat:
        return Chat(
            self.format,
            self.encode,
            self.image_token_id,
            self.num_image_tokens,
            self.image_text,
        )

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and character offsets; special tokens only where the text spells them."""
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoding["input_ids"], encoding["offset_mapping"]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, without control tokens and outer blanks."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def pixel_values(self, images: Sequence[PILImage.Image]) -> Tensor:
        """What the processor makes of images, (I, 3, H, W) in LLaVA's family."""
        pixels: Tensor = self.processed(images)["pixel_values"]
        return pixels

    def processed(self, images: Sequence[PILImage.Image]) -> dict[str, Any]:
        """All that the processor says about images, padded to squares of its mean color first.

        The same in training and generation; the released code padded in one, cropped in the other.
        """
        mean = self.image_processor.image_mean
        color = tuple(round(255 * channel) for channel in mean)
        squares = [pad_to_square(image, color) for image in images]
        if self.image_side:  # one size, so that all images take equally many tokens
            squares = [square.resize((self.image_side, self.image_side)) for square in squares]
        crops = {"return_row_col_info": True} if family_of(self.core).crops else {}
        return dict(self.image_processor(squares, return_tensors="pt", **crops))

    def asked_for(self, processed: dict[str, Any]) -> dict[str, Tensor]:
        """Of what the processor says, what the model's forward takes, image by image.

        Not how many images a text has (LLaVA-OneVision): it has one.
        """
        asked = set(signature(self.core.model.forward).parameters) - {"batch_num_images"}
        return {name: value for name, value in processed.items() if name in asked}

    def pack(
        self,
        sequences: Sequence[Learnable],
        images: Sequence[str],
        open_image: Callable[[str], PILImage.Image],
    ) -> TreeBatch:
        """Sequences about the named images as trees; each image is opened and there once."""
        vision = {
            image: self.asked_for(self.processed([open_image(image)]))
            for image in dict.fromkeys(images)
        }
        keys = [self._key(text, image) for text, image in zip(sequences, images, strict=True)]
        positions_of = None
        if self.rules.positions == "mrope":
            grids: dict[Hashable, Tensor]
            grids = {key: vision[key[0]]["image_grid_thw"][0] for key in keys}
            positions_of = rope_positions(self.core, grids)
        batch = pack(
            sequences,
            keys,
            share=self.rules.share,
            positions_of=positions_of,
            multiple_of=128 if self.device.type == "cuda" else 1,  # FlexAttention's block size
        )
        names = [image for image, _ in cast(tuple[tuple[str, Any], ...], batch.images)]
        batch.images = tuple(names)
        batch.vision = stack_images([vision[name] for name in names])
        return batch

    def _key(self, text: Learnable, image: str) -> tuple[str, tuple[int, ...]]:
        """Texts share an image only from the same beginning: it lies in a tree exactly once."""
        return image, tuple(text.ids[: list(text.ids).index(self.image_token_id)])

    @property
    def attention(self) -> str:
        """How attention over the tree is computed here; one phrase for the reader."""
        if not self.rules.share:
            return "plain rows"
        if self.backend != "auto":
            return self.backend
        if self.device.type == "cuda":
            return "flex"
        return f"dense, blocks from {BLOCKS_FROM} tokens on"

    def probe(self) -> str:
        """Let the model itself say whether texts may share an image; one line for the reader.

        Where sharing is not exact, or cannot be told to be, rows stay separate from here on.
        """
        if not self.rules.share:
            return "texts of an image are read separately: not known to be exact for this family"
        found = probe_sharing(self.core, self.rules, *self._probe_batches(), self.backend)
        if not found.exact:
            self.rules = replace(self.rules, share=False)
            return f"texts of an image are read separately, since sharing is not exact: {found}"
        return f"texts of an image share it ({found})"

    def _probe_batches(self) -> tuple[TreeBatch, list[TreeBatch]]:
        size = 64
        ramp = PILImage.linear_gradient("L").resize((size, size)).convert("RGB")
        talks = [
            (q, a) for q in ("What is shown?", "Is it normal?") for a in ("Yes.", "No lesion.")
        ]
        texts = [
            Tokens(t.ids, [0] + [ANSWER] * (len(t.ids) - 1))
            for t in (self.chat.training([Turn(question=q, answer=a)], [False]) for q, a in talks)
        ]
        after = max(i for i, token in enumerate(texts[0].ids) if token == self.image_token_id)
        for text in texts:
            text.learned[: after + 1] = [0] * (after + 1)
        tree = self.pack(texts, ["probe"] * len(texts), lambda _: ramp)
        alone = [self.pack([text], ["probe"], lambda _: ramp) for text in texts]
        return tree.to(self.device), [batch.to(self.device) for batch in alone]


def skip_unused_layers(core: Any) -> None:
    """Vision layers after the feature layer hand on what they get; their weights stay."""
    for layer in vision_layers(core)[num_vision_layers(core) :]:
        layer.forward = _hand_on


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states

"""The policy: a vision-language model with its tokenizer, image processor and chat format.

One concrete class over `AutoModelForImageTextToText`. Image processor (PIL backend) and tokenizer
are loaded separately, so that no path needs torchvision.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from inspect import signature
from pathlib import Path
from typing import Any, cast

import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from stllava.chat import ANSWER, FORMATS, IMAGE, Chat, ChatFormat, Tokens
from stllava.errors import PolicyError
from stllava.images import pad_to_square
from stllava.policy import sqllava  # noqa: F401  (registers SQ-LLaVA with the Auto classes)
from stllava.policy.published.layout import recognise
from stllava.records import Turn
from stllava.tree import CAUSAL, Rules, TreeBatch, rules_of, use_tree_attention
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

    def __post_init__(self) -> None:
        use_tree_attention(self.core)
        skip_unused_layers(self.core)

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Policy:
        """Load a checkpoint folder written by `save`.

        Raises PolicyError if the folder is missing, not a checkpoint or of an unknown chat format.
        """
        path = Path(path)
        if foreign := recognise(path):
            raise PolicyError(foreign.remedy)
        if not (path / "config.json").is_file():
            raise PolicyError(f"{path}: no config.json; give the folder of a saved checkpoint")
        card = _read_card(path)
        try:
            model = AutoModelForImageTextToText.from_pretrained(
                path, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
            )
            tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
            processor = AutoImageProcessor.from_pretrained(
                path, backend="pil", local_files_only=True
            )
        except (OSError, ValueError) as error:
            first_line = str(error).splitlines()[0]
            raise PolicyError(f"{path}: cannot be loaded as a policy: {first_line}") from error
        model.to(device).eval()
        chat_format = FORMATS[card["chat_format"]]
        return cls(model, tokenizer, processor, chat_format, card, rules_of(model.config))

    def save(self, path: str | Path, **provenance: Any) -> None:
        """Write weights (safetensors), tokenizer, image processor and card into `path`."""
        path = Path(path)
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)
        self.image_processor.save_pretrained(path)
        card = {**self.provenance, **provenance, "chat_format": self.format.name}
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
        return int(self.tokenizer.convert_tokens_to_ids(IMAGE))

    @property
    def num_image_tokens(self) -> int:
        return int(self.core.config.image_seq_length)

    @property
    def chat(self) -> Chat:
        return Chat(self.format, self.encode, self.image_token_id, self.num_image_tokens)

    def encode(self, text: str) -> tuple[list[int], list[tuple[int, int]]]:
        """Token ids and character offsets; special tokens only where the text spells them."""
        encoding = self.tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        return encoding["input_ids"], encoding["offset_mapping"]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of sampled ids, without control tokens and outer blanks."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def pixel_values(self, images: Sequence[PILImage.Image]) -> Tensor:
        """(I, 3, H, W), each image padded to a square with the processor's mean colour first.

        The same in training and generation; the released code padded in one, cropped in the other.
        """
        return self._vision(images)["pixel_values"]

    def _vision(self, images: Sequence[PILImage.Image]) -> dict[str, Tensor]:
        """All that the processor says about images and the model asks for."""
        mean = self.image_processor.image_mean
        color = tuple(round(255 * channel) for channel in mean)
        squares = [pad_to_square(image, color) for image in images]
        found = self.image_processor(squares, return_tensors="pt")
        asked = signature(self.core.model.forward).parameters
        return {name: value for name, value in found.items() if name in asked}

    def pack(
        self,
        sequences: Sequence[Learnable],
        images: Sequence[str],
        open_image: Callable[[str], PILImage.Image],
    ) -> TreeBatch:
        """Sequences about the named images as trees; each image is opened and there once."""
        vision = {image: self._vision([open_image(image)]) for image in dict.fromkeys(images)}
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
        places = cast(tuple[tuple[str, Any], ...], batch.images)
        batch.vision = stack_images([vision[image] for image, _ in places])
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


def num_vision_layers(core: Any) -> int:
    """Vision layers whose output reaches the language model; later ones would train nothing."""
    config = core.config
    depth = int(config.vision_config.num_hidden_layers)
    layer = getattr(config, "vision_feature_layer", -1)
    last = max(layer) if isinstance(layer, list) else layer
    return last if last >= 0 else depth + 1 + last


def skip_unused_layers(core: Any) -> None:
    """Vision layers after the feature layer hand on what they get; their weights stay."""
    tower = getattr(core.model, "vision_tower", None)
    encoder = getattr(tower, "encoder", None)
    if encoder is None or not hasattr(core.config, "vision_feature_layer"):
        return
    for layer in encoder.layers[num_vision_layers(core) :]:
        layer.forward = _hand_on


def _hand_on(hidden_states: Tensor, *_: Any, **__: Any) -> Tensor:
    return hidden_states


def _read_card(path: Path) -> dict[str, Any]:
    file = path / CARD
    if not file.is_file():
        raise PolicyError(f"{path}: no {CARD}; this checkpoint's chat format is not known")
    card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if card.get("chat_format") not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise PolicyError(f"{file}: chat_format {card.get('chat_format')!r} is not one of {known}")
    return card

"""The policy: a vision-language model with its tokenizer, image processor and chat format.

One concrete class over `AutoModelForImageTextToText`. Image processor (PIL backend) and tokenizer
are loaded separately, so that no path needs torchvision.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from stllava.chat import FORMATS, IMAGE, Chat, ChatFormat
from stllava.errors import PolicyError
from stllava.images import pad_to_square
from stllava.policy import sqllava  # noqa: F401  (registers SQ-LLaVA with the Auto classes)

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

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu", dtype: str = "float32") -> Policy:
        """Load a checkpoint folder written by `save`.

        Raises PolicyError if the folder is missing, not a checkpoint or of an unknown chat format.
        """
        path = Path(path)
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
        return cls(model, tokenizer, processor, FORMATS[card["chat_format"]], card)

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
        mean = self.image_processor.image_mean
        color = tuple(round(255 * channel) for channel in mean)
        squares = [pad_to_square(image, color) for image in images]
        pixels: Tensor = self.image_processor(squares, return_tensors="pt")["pixel_values"]
        return pixels

    def image_features(self, pixels: Tensor) -> Tensor:
        """(I, L, text width): what the language model sees of each image."""
        features = self.core.get_image_features(pixel_values=pixels).pooler_output
        return torch.stack(list(features))


def _read_card(path: Path) -> dict[str, Any]:
    file = path / CARD
    if not file.is_file():
        raise PolicyError(f"{path}: no {CARD}; this checkpoint's chat format is not known")
    card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if card.get("chat_format") not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        raise PolicyError(f"{file}: chat_format {card.get('chat_format')!r} is not one of {known}")
    return card

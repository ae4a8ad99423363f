"""Tokenizer and image processor of a published checkpoint, from the folder that has them."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from transformers import AutoTokenizer, CLIPImageProcessorPil, PreTrainedTokenizerFast

from stllava.errors import PolicyError
from stllava.formats import IMAGE, VUSR, ChatFormat
from stllava.policy.published.layout import read_config

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
)
PROCESSOR_FIELDS = (
    "crop_size",
    "do_center_crop",
    "do_convert_rgb",
    "do_normalize",
    "do_rescale",
    "do_resize",
    "image_mean",
    "image_std",
    "resample",
    "rescale_factor",
    "size",
)


class Words(NamedTuple):
    """A tokenizer that knows the format's tokens, and which of them are new."""

    tokenizer: Any
    added: tuple[str, ...]
    added_ids: tuple[int, ...]


def read_tokenizer(folders: Sequence[Path], form: ChatFormat) -> Words:
    """The first folder's tokenizer with `<image>`, and `<vusr>` if the format needs it, added.

    Raises PolicyError if there is none or if a token that the format writes is not in it.
    """
    tokenizer = _as_it_is(_load(folders))
    vocabulary = tokenizer.get_vocab()
    unknown = [token for token in form.control if token not in vocabulary and token != VUSR]
    if unknown:
        raise PolicyError(f"{folders[0]}: tokenizer without {unknown[0]}; {form.name} writes it")
    wanted = (IMAGE, VUSR) if form.asked_by == "token" else (IMAGE,)
    added = tuple(token for token in wanted if token not in vocabulary)
    tokenizer.add_special_tokens(
        {"additional_special_tokens": list(wanted)}, replace_extra_special_tokens=False
    )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or form.end
    ids = tuple(int(tokenizer.convert_tokens_to_ids(token)) for token in added)
    return Words(tokenizer, added, ids)


def _as_it_is(tokenizer: Any) -> Any:
    """The same tokenizer under the class that keeps it: tokenizer.json says all there is.

    LlamaTokenizer builds itself anew when loaded and forgets `legacy`, which decides whether text
    after a special token begins with a blank, as Vicuna and LLaVA were trained.
    """
    names = ("bos_token", "eos_token", "unk_token", "pad_token")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer.backend_tokenizer,
        model_max_length=tokenizer.model_max_length,
        **{name: token for name in names if (token := getattr(tokenizer, name)) is not None},
    )


def _load(folders: Sequence[Path]) -> Any:
    names = ("tokenizer.json", "tokenizer.model")
    found = next((f for f in folders for name in names if (f / name).is_file()), None)
    if found is None:
        raise PolicyError(f"{folders[0]}: no tokenizer.json or tokenizer.model in it")
    with TemporaryDirectory() as folder:  # without config.json, whose model_type may be unknown
        for name in TOKENIZER_FILES:
            if (found / name).is_file():
                shutil.copy(found / name, folder)
        try:
            return AutoTokenizer.from_pretrained(folder, local_files_only=True)
        except (ImportError, OSError, ValueError) as error:
            if (found / "tokenizer.json").is_file():
                line = str(error).strip().splitlines()[0]
                raise PolicyError(f"{found}: tokenizer cannot be read: {line}") from error
            raise PolicyError(
                f"{found}: its tokenizer is a SentencePiece file; "
                "pip install sentencepiece protobuf, or put the model's tokenizer.json beside it"
            ) from error


def read_processor(folders: Sequence[Path], image_size: int) -> Any:
    """CLIP's image processor as the first folder that has one says; else CLIP's own numbers."""
    said = next((s for f in folders if (s := read_config(f, "preprocessor_config.json"))), {})
    square = {"height": image_size, "width": image_size}
    defaults = {"size": {"shortest_edge": image_size}, "crop_size": square}
    processor = CLIPImageProcessorPil(
        **{**defaults, **{k: v for k, v in said.items() if k in PROCESSOR_FIELDS}}
    )
    crop = processor.crop_size
    if (crop["height"], crop["width"]) != (image_size, image_size):
        raise PolicyError(
            f"preprocessor_config.json: crops to {crop['height']} x {crop['width']}, "
            f"but the vision encoder reads {image_size} x {image_size}"
        )
    return processor

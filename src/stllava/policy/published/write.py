"""Writing: shard after shard, then config, tokenizer, image processor and card."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

from stllava.errors import PolicyError
from stllava.files import sha256
from stllava.formats import IMAGE, VUSR
from stllava.policy.published.asker import UNTRAINED
from stllava.policy.published.keys import PARTS, VOCABULARY, Offer, Plan
from stllava.policy.published.lora import Adapters
from stllava.policy.published.model import Blueprint
from stllava.policy.published.report import Report
from stllava.policy.published.source import Kept, Source
from stllava.policy.published.text import Words, read_processor

SHARD_BYTES = 2 << 30


class Part(NamedTuple):
    """A source and which of its parts are taken from it."""

    source: Source
    parts: tuple[str, ...] = PARTS
    bare_projector: bool = False

    @property
    def offer(self) -> Offer:
        shapes = {key: kept.shape for key, kept in self.source.tensors.items()}
        return Offer(self.source.name, shapes, self.parts, self.bare_projector)


class Work(NamedTuple):
    """All that is known before the first tensor is read."""

    blueprint: Blueprint
    plan: Plan
    parts: list[Part]
    adapters: Adapters | None
    words: Words

    def kept(self, name: str) -> Kept:
        origin = self.plan.origins[name]
        return self.parts[origin.offer].source.tensors[origin.key]

    @property
    def num_rows(self) -> int:
        """Rows of the vocabulary tensors: those that were there and those of new tokens."""
        old = int(self.blueprint.config.text_config.vocab_size)
        return max([old, *(token + 1 for token in self.words.added_ids)])

    def shards(self) -> list[list[str]]:
        """Names in the model's order, cut before a shard grows over SHARD_BYTES."""
        shards: list[list[str]] = [[]]
        size = 0
        for name in self.blueprint.tensors:
            bytes_ = self.kept(name).dtype.itemsize * _numel(self.kept(name).shape)
            if shards[-1] and size + bytes_ > SHARD_BYTES:
                shards.append([])
                size = 0
            shards[-1].append(name)
            size += bytes_
        return shards

    def tensor(self, name: str) -> Tensor:
        """The tensor as it is written: read, merged with its adapter, rows added."""
        origin = self.plan.origins[name]
        tensor = self.parts[origin.offer].source.read(origin.key)
        if self.adapters is not None and name in self.adapters.pairs:
            tensor = self.adapters.pairs[name].merge(tensor)
        if name in VOCABULARY and self.words.added_ids:
            tensor = self._with_new_rows(tensor)
        return tensor.contiguous().clone()  # a mapped pickle's tensor may share its storage

    def _with_new_rows(self, tensor: Tensor) -> Tensor:
        known = min(tensor.shape[0], *self.words.added_ids)
        mean = tensor[:known].float().mean(0).to(tensor.dtype)
        extra = mean.expand(self.num_rows - tensor.shape[0], -1)
        tensor = torch.cat([tensor, extra])
        tensor[list(self.words.added_ids)] = mean
        return tensor

    def write(self, folder: Path) -> None:
        """Shards and their index, as transformers reads them."""
        shards = self.shards()
        index: dict[str, str] = {}
        for number, names in enumerate(shards, start=1):
            file = f"model-{number:05}-of-{len(shards):05}.safetensors"
            own = {self.blueprint.tensors[name][0]: self.tensor(name) for name in names}
            try:
                save_file(own, folder / file, metadata={"format": "pt"})
            except SafetensorError as error:  # also where the disk is full
                raise PolicyError(f"{folder / file}: cannot be written: {error}") from error
            index |= dict.fromkeys(own, file)
        total = sum((folder / file).stat().st_size for file in set(index.values()))
        _write_json(
            folder / "model.safetensors.index.json",
            {"metadata": {"total_size": total}, "weight_map": index},
        )


def _numel(shape: tuple[int, ...]) -> int:
    return torch.Size(shape).numel()


def write_config(folder: Path, folders: Sequence[Path], work: Work) -> None:
    """Config, tokenizer and image processor; `folders` are searched for a processor's file."""
    config, tokenizer = work.blueprint.config, work.words.tokenizer
    config.text_config.vocab_size = work.num_rows
    config.image_token_index = int(tokenizer.convert_tokens_to_ids(IMAGE))
    config.architectures = [work.blueprint.model_class.__name__]
    dtypes = dtypes_of(work)
    config.dtype = max(dtypes, key=lambda dtype: dtypes[dtype])
    config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    size = int(config.vision_config.image_size)
    read_processor(folders, size).save_pretrained(folder)


def write_card(folder: Path, name: str, work: Work, report: Report) -> None:
    """The card: how it writes a conversation, and which files it was made of."""
    files = [file for part in work.parts for file in part.source.files]
    files += work.adapters.files if work.adapters else ()
    card: dict[str, Any] = {
        "chat_format": report.chat_format,
        "asker": report.asker,
        "made_by": "stllava convert",
        "converted_from": {
            "name": name,
            "layout": report.title,
            "files": {f"{file.parent.name}/{file.name}": sha256(file.resolve()) for file in files},
        },
        "added_tokens": list(report.added_tokens),
    }
    if VUSR in report.added_tokens:
        card[UNTRAINED] = True  # the next training learns its row
    if report.lora is not None:
        card["lora"] = {**report.lora._asdict(), "vit_untrained": report.lora.vit_untrained}
    _write_json(folder / "stllava.json", card)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")


def dtypes_of(work: Work) -> dict[str, int]:
    """Number of tensors by dtype, as `float16`."""
    counts: dict[str, int] = {}
    for name in work.blueprint.tensors:
        dtype = str(work.kept(name).dtype).removeprefix("torch.")
        counts[dtype] = counts.get(dtype, 0) + 1
    return counts

"""Model, tokenizer and image processor of a folder, or one line that says what is wrong with it.

The library makes up weights that are missing or of another shape, and only warns; here that is an
error.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from stllava.errors import PolicyError

HARMLESS = ("position_ids", "inv_freq")  # buffers that older releases wrote down


def load_parts(path: Path, dtype: str) -> tuple[Any, Any, Any]:
    """Model, tokenizer and image processor, by the library's Auto classes."""

    def model() -> Any:
        model, found = AutoModelForImageTextToText.from_pretrained(
            path,
            dtype=getattr(torch, dtype),
            use_safetensors=True,
            local_files_only=True,
            ignore_mismatched_sizes=True,  # `_check_weights` says which
            output_loading_info=True,
        )
        _check_weights(path, found)
        return model

    def tokenizer() -> Any:
        return AutoTokenizer.from_pretrained(path, local_files_only=True)

    def image_processor() -> Any:
        return AutoImageProcessor.from_pretrained(path, backend="pil", local_files_only=True)

    with _without_load_report():
        return _part(path, model), _part(path, tokenizer), _part(path, image_processor)


def _part(path: Path, load: Callable[[], Any]) -> Any:
    try:
        return load()
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        part, reason = load.__name__.replace("_", " "), str(error).strip().splitlines()[0]
        reason = reason.partition(" If you were trying to load it from")[0]  # advice for hub ids
        raise PolicyError(f"{path}: cannot be loaded as a policy: {part}: {reason}") from error


@contextmanager
def _without_load_report() -> Iterator[None]:
    """The library's table of weights that do not fit; `_check_weights` says it in one line."""

    def other(record: logging.LogRecord) -> bool:
        return "LOAD REPORT" not in record.getMessage()

    logger = logging.getLogger("transformers.modeling_utils")
    logger.addFilter(other)
    try:
        yield
    finally:
        logger.removeFilter(other)


def _check_weights(path: Path, found: dict[str, Any]) -> None:
    """Raise PolicyError for weights that the library would make up or leave out."""
    mismatched = [name for name, *_ in found["mismatched_keys"]]
    unexpected = [n for n in found["unexpected_keys"] if not n.endswith(HARMLESS)]
    for what, names in (
        ("of another shape than config.json says", mismatched),
        ("missing", found["missing_keys"]),
        ("without a place in the model of config.json", unexpected),
    ):
        if names:
            first = ", ".join(sorted(names)[:3])
            raise PolicyError(
                f"{path}: weights {what}: {len(names)}, first {first}; the files do not belong "
                "together, fetch the whole folder again"
            )

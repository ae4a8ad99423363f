"""What else a local policy could have said, told as servers tell it: by the tokens' texts."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

Likely = list[tuple[int, float]]  # token ids with natural logs, the likeliest first
WORD_START = "▁"  # SentencePiece's mark of a blank


def by_text(tokenizer: Any, likely: Likely) -> dict[str, float]:
    """Log-probabilities by text; of tokens that are written alike, that of either."""
    found: dict[str, float] = {}
    for token, log in likely:
        text = token_text(tokenizer, token)
        found[text] = float(np.logaddexp(found.get(text, -math.inf), log))
    return found


def token_text(tokenizer: Any, token: int) -> str:
    """How a token is written by itself: its leading blank kept, control tokens spelled out."""
    piece = tokenizer.convert_ids_to_tokens(token)
    if piece is not None and piece.startswith(WORD_START):
        return str(piece.replace(WORD_START, " "))  # decoded alone it would lose the blank
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))

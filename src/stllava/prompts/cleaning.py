"""A text that a policy wrote, made harmless to stand inside a judge's prompt."""

from __future__ import annotations

import re
import unicodedata

MAX_CANDIDATE_CHARS = 8000  # about 2,000 tokens, several times the longest answer we sample

_MARKER = re.compile(r"\[(\s*(?:End\s+)?(?:Question|Answer\s*[12]|System)\s*)\]", re.IGNORECASE)


def clean(candidate: str) -> str:
    """The text without what could hide words from a reader or end its block early.

    Control, bidirectional and zero-width characters go; the paper's block markers become round
    brackets. A text over `MAX_CANDIDATE_CHARS` is cut and says so.
    """
    visible = "".join(
        c for c in candidate if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"}
    )
    if len(visible) > MAX_CANDIDATE_CHARS:
        visible = visible[:MAX_CANDIDATE_CHARS] + " (cut here)"
    return _MARKER.sub(r"(\1)", visible)

"""What a question asks for, read off its wording."""

from __future__ import annotations

import re
from typing import Literal

_YES_NO = re.compile(
    r"\W*(?:is|are|was|were|do|does|did|has|have|had|can|could|will|would|should|may|might)\b",
    re.IGNORECASE,
)
_CHINESE_YES_NO = re.compile(r"吗|是否|是不是|有没有|能不能")
_OR = re.compile(r"\bor\b", re.IGNORECASE)
_ASKS = re.compile(
    r"\W*(how\s+many|what|which|where|when|who|whose|why|how|describe|list|name)\b", re.IGNORECASE
)


def question_kind(question: str) -> Literal["yes/no", "choice", "open"]:
    """By its wording: opens with a verb form, and then without or with an "or" in it.

    Chinese ones by their particle; with 还是 they give a choice.
    """
    if "还是" in question:
        return "choice"
    if not _YES_NO.match(question) and not _CHINESE_YES_NO.search(question):
        return "open"
    return "choice" if _OR.search(question) else "yes/no"


def question_type(question: str) -> str:
    """By its opening words: "yes/no", "how many", "what", "where", ..., or "other"."""
    if _YES_NO.match(question):
        return "yes/no"
    opening = _ASKS.match(question)
    return " ".join(opening.group(1).lower().split()) if opening else "other"

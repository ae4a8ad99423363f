"""Every prompt of the software, and nothing else that is said to a model.

A rubric's text is part of what a verdict means: change a word, raise its version.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from typing import NamedTuple

# Said by the user, and answered, before the asker speaks (released code; not in the paper).
DESCRIBE = "Can you describe the image in detail?"

MAX_CANDIDATE_CHARS = 8000  # about 2,000 tokens, several times the longest answer we sample

# Figure 3 of the paper, word for word and blank for blank.
_PAPER_INSTRUCTION = (
    "[System]\n We would like to request your feedback on the quality of two answers in response"
    " to the user question displayed above. The user asks the question on observing an image. For"
    " your reference, you will see an image. \nPlease rate the helpfulness, relevance, accuracy,"
    " level of details of the answers. Each answer receives an overall score on a scale of 1 to"
    " 10, where a higher score indicates better overall performance.\nPlease first output a single"
    " line containing only two values indicating the scores for Answer 1 and 2, respectively. The"
    " two scores are separated by a space."
)
_MARKER = re.compile(r"\[(\s*(?:End\s+)?(?:Question|Answer\s*[12]|System)\s*)\]", re.IGNORECASE)


class Rubric(NamedTuple):
    """How a judge is asked; `build(question, answer shown first, answer shown second)`."""

    name: str
    version: int
    build: Callable[[str, str, str], str]


def paper_prompt(question: str, answer_1: str, answer_2: str) -> str:
    """Figure 3. Concatenated, not formatted: braces in an answer are just braces."""
    question, answer_1, answer_2 = clean(question), clean(answer_1), clean(answer_2)
    return (
        "[Question]\n" + question + "\n\n"
        "[Answer 1]\n" + answer_1 + "\n\n[End Answer 1]\n\n"
        "[Answer 2]\n" + answer_2 + "\n\n[End Answer 2]\n\n" + _PAPER_INSTRUCTION
    )


def clean(candidate: str) -> str:
    """A text that a policy wrote, made harmless to stand inside a judge's prompt.

    Control, bidirectional and zero-width characters can hide words from a human reader, and the
    prompt's own block markers could end a block early: the former go, the latter become round
    brackets. A text over `MAX_CANDIDATE_CHARS` is cut and says so.
    """
    visible = "".join(
        c for c in candidate if c in "\n\t" or unicodedata.category(c) not in {"Cc", "Cf", "Cs"}
    )
    if len(visible) > MAX_CANDIDATE_CHARS:
        visible = visible[:MAX_CANDIDATE_CHARS] + " (cut here)"
    return _MARKER.sub(r"(\1)", visible)


PAPER_RUBRIC = Rubric("paper", 1, paper_prompt)
RUBRICS = {rubric.name: rubric for rubric in (PAPER_RUBRIC,)}

"""What is said to a policy: before it asks, so that it asks, and a benchmark's question."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

# Said by the user, and answered, before the asker speaks (released code; not in the paper).
DESCRIBE = "Can you describe the image in detail?"

# Said by the user to a policy that never learned to ask (not in the paper).
ASK = (
    "Write one question that a clinician might ask about this image and that can be answered from "
    "the image alone. Write the question only."
)

# The wording of the LLaVA-1.5 evaluations, which lmms-eval uses for SLAKE too.
SHORT = "\nAnswer the question using a single word or phrase."


def benchmark_question(
    template: Literal["plain", "options", "short"], question: str, options: Sequence[str]
) -> str:
    """A benchmark question as it is put to a model; the template's name stands beside the score.

    options: LLaVA-Med's answer files append "[yes, no]" to every closed question, here the
    question's own options; one without options stays plain.
    """
    if template == "short":
        return question + SHORT
    if template == "plain" or not options:
        return question
    number = "two " if len(options) == 2 else ""
    return f"{question} Please choose from the following {number}options: [{', '.join(options)}]"

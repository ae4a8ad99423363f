"""What a rubric is: how a judge is asked, and in which form it has to reply."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Literal, NamedTuple

from stllava.prompts.cleaning import clean

Output = Literal["scores", "json", "choice"]

# How each kind of output is asked for once more; the judge's own reply stands before it.
REPAIR: dict[Output, str] = {
    "scores": (
        "Your reply could not be read. Write one line with nothing but two numbers from 1 to 10, "
        "separated by a space: the score of Answer 1, then the score of Answer 2."
    ),
    "json": (
        "Your reply could not be read. Write the same verdict again as one JSON object and nothing "
        'else: {"reason": text, "answer_1": {"faults": [...], "helpfulness": 1-10, "relevance": '
        '1-10, "accuracy": 1-10, "detail": 1-10, "score": 1-10}, "answer_2": {the same fields}, '
        '"verdict": "1", "2" or "tie"}.'
    ),
    "choice": "Your reply could not be read. Write one letter and nothing else: A, B or C.",
}
PLACES = ("question", "answer_1", "answer_2", "nonce")
_PLACE = re.compile(r"\{(" + "|".join(PLACES) + r")\}")


class Rubric(NamedTuple):
    """`build(question, answer shown first, answer shown second, nonce)` is the prompt.

    The nonce is another one in every call and delimits the answers where the prompt has delimiters.
    """

    name: str
    version: int
    build: Callable[[str, str, str, str], str]
    output: Output = "scores"
    image_last: bool = False  # the image after the text

    @property
    def label(self) -> str:
        """Name and version, as calls are kept under."""
        return f"{self.name}-{self.version}"

    @property
    def response(self) -> str | None:
        """Name of the form that is asked of an endpoint which has forms."""
        return "verdict" if self.output == "json" else None

    @property
    def repair(self) -> str:
        return REPAIR[self.output]


def block(label: str, text: str, nonce: str) -> str:
    """A text that cannot end its own block: whoever wrote it does not know the nonce."""
    return f"<<<{label} {nonce}>>>\n{clean(text)}\n<<<END {label} {nonce}>>>"


def template_rubric(
    name: str, version: int, template: str, output: Output, *, image_last: bool = False
) -> Rubric:
    """A rubric from a text with {question}, {answer_1}, {answer_2} and, if wanted, {nonce}.

    All four are put in place in one pass, the answers as delimited blocks, so that braces in an
    answer, or anywhere else, stay braces.
    """

    def build(question: str, first: str, second: str, nonce: str) -> str:
        values = {
            "question": clean(question),
            "answer_1": block("ANSWER 1", first, nonce),
            "answer_2": block("ANSWER 2", second, nonce),
            "nonce": nonce,
        }
        return _PLACE.sub(lambda place: values[place.group(1)], template)

    return Rubric(name, version, build, output, image_last)

"""The rubric `paper`: Figure 3 of the paper, word for word and blank for blank."""

from __future__ import annotations

from stllava.prompts.cleaning import clean
from stllava.prompts.rubric import Rubric

_INSTRUCTION = (
    "[System]\n We would like to request your feedback on the quality of two answers in response"
    " to the user question displayed above. The user asks the question on observing an image. For"
    " your reference, you will see an image. \nPlease rate the helpfulness, relevance, accuracy,"
    " level of details of the answers. Each answer receives an overall score on a scale of 1 to"
    " 10, where a higher score indicates better overall performance.\nPlease first output a single"
    " line containing only two values indicating the scores for Answer 1 and 2, respectively. The"
    " two scores are separated by a space."
)


def paper_prompt(question: str, answer_1: str, answer_2: str, nonce: str = "") -> str:
    """Figure 3. Concatenated, not formatted: braces in an answer are just braces.

    The figure has no place for a nonce; what could end a block early is taken out of the answers.
    """
    question, answer_1, answer_2 = clean(question), clean(answer_1), clean(answer_2)
    return (
        "[Question]\n" + question + "\n\n"
        "[Answer 1]\n" + answer_1 + "\n\n[End Answer 1]\n\n"
        "[Answer 2]\n" + answer_2 + "\n\n[End Answer 2]\n\n" + _INSTRUCTION
    )


PAPER_RUBRIC = Rubric("paper", 1, paper_prompt, image_last=True)

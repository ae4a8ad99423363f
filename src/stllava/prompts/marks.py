"""What the judged column of an evaluation is asked."""

from __future__ import annotations

from stllava.prompts.cleaning import clean

MARK_VERSION = "mark-1"


def mark_prompt(question: str, reference: str, answer: str) -> str:
    """For the judged column of an evaluation: does an answer mean what the reference says?"""
    return (
        "[Question]\n" + clean(question) + "\n\n"
        "[Answer 1]\n" + clean(reference) + "\n\n[End Answer 1]\n\n"
        "[Answer 2]\n" + clean(answer) + "\n\n[End Answer 2]\n\n"
        "[System]\nAnswer 1 is the reference and right. Mark Answer 2 by it alone. Other wording "
        "of the same content is right; so is more detail that does not contradict the reference. "
        "Reply with one number and nothing else: 2 if Answer 2 says what the reference says, 1 if "
        "it says a part of it, 0 if it does not or says the opposite too."
    )

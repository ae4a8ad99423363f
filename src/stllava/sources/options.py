"""The choices that a closed question offers, read from its own words."""

from __future__ import annotations

import re
from collections.abc import Sequence


def options_in(question: str, answer: str) -> tuple[str, ...]:
    """The choices a closed question names: yes and no, or the words around its "or".

    () where the reference answer is none of those found, so that no option list is made up.
    """
    if answer.strip(" .").lower() in ("yes", "no"):
        return ("yes", "no")
    parts = re.split(r",?\s+(?:or|vs\.?)\s+", question, maxsplit=1)
    if len(parts) < 2:
        return ()
    before, after = parts
    listed = _after_the_stem(before, after)
    return listed if _names_one(answer, listed) else _around(before, after, answer)


def _after_the_stem(before: str, after: str) -> tuple[str, ...]:
    """ "Which is bigger in this image, left lung or heart?": what follows the first comma."""
    stem, comma, listed = before.partition(",")
    if not (comma and re.match(r"(?:which|where|what)\b", stem, re.IGNORECASE)):
        return ()
    return tuple(part.strip(" ,.;:?") for part in [*listed.split(","), after])


def _around(before: str, after: str, answer: str) -> tuple[str, ...]:
    """ "Is it T1, T2, or FLAIR?": as many words before each comma as before the last one."""
    pieces = [piece.split() for piece in before.split(",")]
    width = len(pieces[-1]) if len(pieces) > 1 else 1  # "T1 weighted, T2 weighted, or ..."
    words = [word for word in after.split() if word.lower() not in ("a", "an", "the", "just")]
    if len(pieces) == 1 and len(pieces[0]) > 1 and pieces[0][-1] in words[1:2]:
        pieces = [pieces[0][:-1]]  # "T1 weighted or T2 weighted"
    options = [*(" ".join(piece[-width:]) for piece in pieces), *words[:1]]
    options = [option.strip(" ,.;:?") for option in options]
    return tuple(options) if _names_one(answer, options) else ()


def _names_one(answer: str, options: Sequence[str]) -> bool:
    """True when the answer is exactly one option, at most one word longer ("Right side")."""
    found = [
        option
        for option in options
        if re.fullmatch(rf"{re.escape(option)}(?: [\w-]+)?", answer, re.IGNORECASE)
    ]
    return len(found) == 1 and len({option.lower() for option in options}) == len(options)

"""Two scores on lines: "8 7", one number a line, a numbered list, labels, a row of a table.

Every reading gives all that it finds; whoever calls decides what two findings that differ mean.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import product

from stllava.judging.replies.objects import NUMBER, Scores

_LABEL = (
    r"(?:(?:(?:the|my|final|corrected|revised|overall)\s+)*"
    r"(?:scores?|ratings?|verdict|correction)(?:\s+are)?\s*[:=]?\s*)?"
)
_SEPARATOR = r"(?:\s*[,;|]\s*|\s+(?:and|vs\.?|versus)\s+|\s+)"
_PAIR = re.compile(rf"{_LABEL}[\[(]?\s*({NUMBER}){_SEPARATOR}({NUMBER})\s*[\])]?\.?", re.I)
_ONE_NUMBER = re.compile(NUMBER, re.I)
_ITEM = re.compile(rf"\(?([0-9]{{1,2}})(?:\.\s|\)\s*:?|[:=])\s*({NUMBER})\.?", re.I)
_LABELLED = re.compile(
    rf"\b(?:answer|assistant|score)[ \t]*([12])(?:[ \t]+score)?[ \t]*[:=|][ \t]*({NUMBER})"
    r"(?=\.?[ \t]*$|[,;.]?\s+(?:and\s+)?(?:answer|assistant|score)\b|\.[ \t]|[ \t]*\()",
    re.IGNORECASE | re.MULTILINE,
)
_WORD = r"(?:answer|assistant|response|candidate|option|score)"
_NAME = (
    rf"(?:scores?\W+(?:(?:of|for)\W+)?)?(?:{_WORD}\s*(?P<{{0}}>[12AB])|(?P<{{0}}_>[AB]))"
    r"(?:\s*\(?score\)?)?"
)
_HEAD = re.compile(rf"\W*{_NAME.format('x')}\W+(?:and\W+)?{_NAME.format('y')}\W*", re.I)
_BACKWARD = re.compile(rf"\b{_WORD}\s*[2B]\b.*\b{_WORD}\s*[1A]\b.*:\W*\Z", re.I)
MAX_HEAD_CHARS = 200
_RULE = re.compile(r"[-=|:+\s]*")


def starts_with_scores(text: str) -> bool:
    """Whether two scores are the first line, where Figure 3 asks for them."""
    return any(_PAIR.fullmatch(row) for row in rows(text)[:1])


def score_lines(text: str) -> list[Scores]:
    """Pairs that are a line each; both ways round where the line above leaves the order open."""
    lines = rows(text)
    found: list[Scores] = []
    for above, line in zip(["", *lines], lines, strict=False):
        if (pair := _PAIR.fullmatch(line)) is not None:
            first, second = float(pair.group(1)), float(pair.group(2))
            forward = _is_forward(above, line)
            found += [(first, second)] if forward is not False else []
            found += [(second, first)] if forward is not True else []
    return found


def two_lines(text: str) -> list[Scores]:
    """One number on the first line, one on the second, and no third."""
    lines = rows(text)
    numbers = [bool(_ONE_NUMBER.fullmatch(line)) for line in lines]
    if numbers[:2] != [True, True] or sum(numbers) != 2:
        return []
    if lines[0].startswith("1.") and lines[1].startswith("2."):
        return []  # "1.9" may be nine points for the first answer
    return [(float(lines[0]), float(lines[1]))]


def numbered(text: str) -> list[Scores]:
    """ "1. 8" and "2. 7", in a list that ends there."""
    items = [item.groups() for line in rows(text) if (item := _ITEM.fullmatch(line))]
    return _both(items) if {label for label, _ in items} == {"1", "2"} else []


def labelled(text: str) -> list[Scores]:
    """ "Answer 1: 8" and "Answer 2: 7" in either order."""
    return _both(_LABELLED.findall("\n".join(rows(text))))


def rows(text: str) -> list[str]:
    """Lines that say something, of tables without their frame."""
    return [line.strip().strip("|").strip() for line in text.splitlines() if not _is_rule(line)]


def _both(said: Iterable[tuple[str, ...]]) -> list[Scores]:
    """Every score of the first answer with every one of the second: [] unless both have one."""
    of: dict[str, dict[float, None]] = {"1": {}, "2": {}}
    for label, number in said:
        of[label][float(number)] = None
    return list(product(of["1"], of["2"]))


def _is_forward(above: str, line: str) -> bool | None:
    """Whether the first number is of the first answer, by the line above; None: it leaves it open.

    A line that names nothing stands in the order that was asked for.
    """
    if (head := _HEAD.fullmatch(above)) is not None:
        names = [(head[name] or head[f"{name}_"]).upper() for name in "xy"]
        order = ["12".find(name) if name.isdigit() else "AB".find(name) for name in names]
        return None if order[0] == order[1] else order[0] < order[1]
    in_table = "|" in line and "|" in above and not _PAIR.fullmatch(above)
    return None if in_table or _BACKWARD.search(above[-MAX_HEAD_CHARS:]) else True


def _is_rule(line: str) -> bool:
    return _RULE.fullmatch(line) is not None

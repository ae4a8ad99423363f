"""Word overlap of an answer with its reference, by the corrected definitions.

Against LLaVA-Med's scorer (microsoft/LLaVA-Med@b9a98a7): counts are clipped, so repeating a word
earns nothing, and exact match is equality instead of a share of words. All results are percent.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

ARTICLES = frozenset({"a", "an", "the"})
DIGITS = {
    word: str(value)
    for value, word in enumerate(
        ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
    )
}
UNITS = "mm|cm|m|ml|cc|mg|kg|g|hu|kv|kvp|mas|hz|mhz"

_THOUSANDS = re.compile(r"(?<![\d.,])\d{1,3}(?:,\d{3})+(?![\d,])")
_ABBREVIATION = re.compile(r"(?<![^\W_])(?:[^\W\d_]\.){2,}")  # p.a. is pa
_NO_LEADING_ZERO = re.compile(r"(?<![\w.])\.(?=\d)")
_NUMBER_AND_UNIT = re.compile(
    rf"(?<![^\W_]|\.)(\d+(?:\.\d+)*)({UNITS})(?![^\W_])"
)  # not t2, l4, 3d
_TOKEN = re.compile(r"(?:(?<!\S)-(?=\d))?(?:\d+(?:\.\d+)+|[^\W_]+)|[%°]")


class Overlap(NamedTuple):
    """Percent, 0..100."""

    recall: float  # reference words found, each as often as it is there
    precision: float  # answer words that are in the reference
    f1: float
    exact: float  # 100 when the normalised texts are equal, else 0


def words(text: str) -> list[str]:
    """Split into lower-case NFKC words for comparison.

    Kept: digits, decimals (5.5), a minus before a number, % and °. "5cm" is two words, "T2" one.
    A hyphen or slash inside a word separates ("x-ray" is "x ray", "5-10" is "5 10"), because
    references use both spellings. Possessive 's, other apostrophes and articles go; zero..ten
    become digits; dots inside abbreviations go (P.A. is pa).
    """
    return list(_words(text))


@lru_cache(maxsize=2**15)  # references and constant answers come again and again
def _words(text: str) -> tuple[str, ...]:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).lower())
    text = text.replace("\N{RIGHT SINGLE QUOTATION MARK}", "'").replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"(?<=\w)'s(?!\w)", "", text).replace("'", "")
    text = _THOUSANDS.sub(lambda match: match[0].replace(",", ""), text)
    text = _ABBREVIATION.sub(lambda match: match[0].replace(".", "") + " ", text)
    text = _NO_LEADING_ZERO.sub("0.", text)
    text = _NUMBER_AND_UNIT.sub(r"\1 \2", text)
    tokens = [DIGITS.get(token, token) for token in _TOKEN.findall(text)]
    return tuple(token for token in tokens if token not in ARTICLES) or tuple(tokens)


def normalise(text: str) -> str:
    """The words of `text` with single blanks between them."""
    return " ".join(words(text))


def repeats_itself(text: str) -> bool:
    """Whether a generation got stuck: a word four times in a row, or most 3-word runs twice."""
    said = text.lower().split()
    if any(said[at : at + 4] == [said[at]] * 4 for at in range(len(said) - 3)):
        return True
    runs = list(zip(said, said[1:], said[2:], strict=False))
    return len(runs) >= 6 and 2 * len(set(runs)) <= len(runs)


def overlap(answer: str, reference: str) -> Overlap:
    """Compare two texts as multisets of words; without words on either side overlap is 0."""
    return overlap_of(words(answer), words(reference))


def recall_at_k(answer: str, reference: str, k: int) -> float:
    """Recall, in percent, of the first `k` words of the answer: long answers gain nothing."""
    return overlap_of(words(answer)[:k], words(reference)).recall


def overlap_of(answer: list[str], reference: list[str]) -> Overlap:
    """As `overlap`, of words."""
    exact = 100.0 * (answer == reference)
    num_shared = (Counter(answer) & Counter(reference)).total()
    if num_shared == 0:
        return Overlap(0.0, 0.0, 0.0, exact)
    recall = 100 * num_shared / len(reference)
    precision = 100 * num_shared / len(answer)
    f1 = 200 * num_shared / (len(reference) + len(answer))
    return Overlap(recall, precision, f1, exact)

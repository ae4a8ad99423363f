"""The scorer behind the published numbers of the LLaVA-Med lineage, reproduced with its bugs.

Source of the rules: microsoft/LLaVA-Med at b9a98a7, llava/eval/run_eval.py, run_eval_batch.py and
eval_metrics/. Written anew from a description of what they compute, and equal to them on any
string. Never decide by these numbers: "Yes, there is no" is right for 92 % of VQA-RAD's closed
questions, and repeating a word raises recall.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import Literal, NamedTuple

Rule = Literal["llavamed", "llavamed-batch", "llavamed-prefix"]

SIGNS = ';/[]"{}()=+\\_-><@`,?!'  # colon, apostrophe and % are not among them
ARTICLES = frozenset({"a", "an", "the"})
NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(value)
    for value, word in enumerate(
        ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten"), start=1
    )
}
# A word that lacks exactly one of these apostrophes gets it back: the table of the VQA evaluation
# (github.com/GT-Vision-Lab/VQA), without entries that no lower-case word can meet.
APOSTROPHES = (
    "ain't aren't can't could've couldn't couldn't've didn't doesn't don't hadn't hadn't've hasn't "
    "haven't he'd he'd've he's how'd how'll how's isn't it'd it'd've it'll ma'am mightn't "
    "mightn't've might've mustn't must've needn't not've o'clock oughtn't 'ow's'at shan't she'd've "
    "should've shouldn't shouldn't've somebody'd've somebody'll somebody's someone'd someone'd've "
    "someone'll someone's something'd something'd've something'll that's there'd there'd've "
    "there're there's they'd they'd've they'll they're they've 'twas wasn't we'd've we've weren't "
    "what'll what're what's what've when's where'd where's where've who'd who'd've who'll who's "
    "who've why'll why're why's won't would've wouldn't wouldn't've y'all y'all'll y'all'd've "
    "you'd you'd've you'll you're you've"
)
CONTRACTIONS = {
    full[:at] + full[at + 1 :]: full
    for full in APOSTROPHES.split()
    for at, sign in enumerate(full)
    if sign == "'"
} | {"somebody'd": "somebodyd"}  # the table's one entry that runs backwards

NUM_STOPS = 32  # a flag was passed as the count, and re.UNICODE is 32
_GROUPED = re.compile(r"\d,\d")
_STOP = re.compile(r"\.(?!\d)")


class Shares(NamedTuple):
    """Fractions, 0..1."""

    recall: float
    f1: float
    precision: float
    exact: float  # called exact match; in fact distinct reference words found / answer words


def normalise(text: str) -> str:
    """The text as the lineage compares it: its signs, stops, numbers, articles, contractions.

    A sign is deleted everywhere if a blank stands beside it anywhere, or if a digit,comma,digit
    is in the text; otherwise it becomes a blank. Not idempotent: a second pass drops further
    stops.
    """
    grouped = _GROUPED.search(text) is not None
    table = {
        ord(sign): "" if grouped or f"{sign} " in text or f" {sign}" in text else " "
        for sign in SIGNS
    }
    text = _STOP.sub("", text.translate(table), count=NUM_STOPS)
    found = (NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(CONTRACTIONS.get(word, word) for word in found if word not in ARTICLES)


def words(text: str) -> list[str]:
    """The words that overlap is counted in: normalised twice, as there."""
    return list(_words(text))


@lru_cache(maxsize=2**15)  # references and constant answers come again and again
def _words(text: str) -> tuple[str, ...]:
    return tuple(normalise(_folded(text)).lower().split())


def overlap(answer: str, reference: str) -> Shares:
    """Word overlap of an open question; a shared word counts as often as the answer says it."""
    return overlap_of(words(answer), words(reference))


def overlap_of(answer: list[str], reference: list[str]) -> Shares:
    """As `overlap`, of words."""
    said, wanted = Counter(answer), Counter(reference)
    shared = said.keys() & wanted.keys()
    hits = sum(said[word] for word in shared)
    if not hits:
        return Shares(0.0, 0.0, 0.0, 0.0)
    precision = hits / len(answer)
    recall = hits / (hits + sum(wanted[word] for word in wanted.keys() - shared))
    f1 = 2 * precision * recall / (precision + recall)
    return Shares(recall, f1, precision, len(shared) / len(answer))


def contains(answer: str, reference: str) -> bool:
    """The batch script's rule for both kinds: the reference is somewhere in the answer."""
    return _folded(reference) in _folded(answer)


@lru_cache(maxsize=2**15)
def _folded(text: str) -> str:
    return normalise(text.lower())


def closed_hit(answer: str, reference: str, rule: Rule) -> bool | None:
    """Whether a closed answer counts as right; None: it is left out of the mean.

    llavamed wants "yes" or "no" in the answer as well, so that "left" for "left" is wrong.
    llavamed-prefix is the rule before that script was repaired: an answer that says yes or no and
    misses the reference is counted nowhere.
    """
    found = contains(answer, reference)
    if rule == "llavamed-batch":
        return found
    said = _folded(answer)
    if "yes" not in said and "no" not in said:
        return False
    return None if rule == "llavamed-prefix" and not found else found

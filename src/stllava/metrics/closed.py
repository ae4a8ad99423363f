"""What a free-text answer to a closed question says: yes, no, an option, both, or nothing.

LLaVA-Med's rule looks for the reference anywhere in the answer, so that "no" is found in
"abnormal" and the constant "Yes, there is no" scores 92 % on VQA-RAD. Here words have borders, the
leading verdict counts, and an answer that commits to nothing abstains: wrong, reported apart.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal, NamedTuple

from stllava.metrics.text import normalise, words

YES_NO = ("yes", "no")

Kind = Literal["yes", "no", "option", "abstain", "both"]


class ClosedVerdict(NamedTuple):
    """`choice` is the option meant, as it was given; None unless kind is yes, no or option."""

    kind: Kind
    choice: str | None = None


_FILLER = re.compile(
    r"(?:\W|answer\b|assistant\b|well\b|sure\b|i (?:think|believe)\b|"
    r"(?:the|my) (?:\w+ )?answer(?: to \w+ question)? is\b|"
    r"(?:based on|according to|looking at|given|from|in|on) [^,.;]*,)+"
)
_BOTH = re.compile(r"(yes|no)\W+(?:and |or )?(?!\1)(?:yes|no)\b(?=\W*$|\W*[.,;)\]])")
_LEADING = re.compile(
    r"(?:(?P<yes>yes|yeah|yep|yup)\b|(?P<yes_alone>(?:true|correct|affirmative)(?=\W*(?:$|[.,;])))|"
    r"(?P<no>(?:no|nope)\b)|(?P<no_alone>(?:false|incorrect|negative)(?=\W*(?:$|[.,;]))))"
)
_NOT = r"(?:not|\w+n't)"  # "is not clear", "isn't clear"
_UNSURE = re.compile(
    r"\b(?:unclear|uncertain|unsure|inconclusive|indeterminate|equivocal|maybe|perhaps|possibl[ey]|"
    r"may|might|could be|depends|(?:do not|don't) know|"
    rf"{_NOT} (?:\w+ly |really )?(?:sure|certain|clear|possible|able|enough|known|determinable|"
    r"applicable|decidable)|"
    rf"{_NOT} (?:\w+ )?enough (?:information|detail|context|evidence|data)|"
    r"no (?:idea|way (?:to|of)|clear answer|definit\w+ answer|information)|"
    r"insufficient|unable|difficult to|hard to|impossible|"
    r"(?:not|neither) (?:be )?(?:\w+ly )?(?:excluded|ruled out|confirmed nor)|"
    r"(?:can ?not|can't|could not|couldn't) (?:be )?(?:\w+ly )?(?:exclude|rule|determin|tell|told|"
    r"say|said|assess|answer|confirm|conclu|know|provide|judge|evaluat|decide|"
    r"(?:see|view|access)\w* (?:the|this|any) (?:image|picture|scan)))"
)
_NEGATION = re.compile(
    r"\b(?:no|not|never|none|nothing|neither|without|absent|absence|cannot|negative|lacks?|"
    r"free of|\w+n't)\b"
)
_CLAUSE_END = re.compile(
    r"[.;!?](?:\s|$)|[\n,]|\b(?:but|however|although|though|while|whereas|with|and|which|because)\b"
)
_SENTENCE_END = re.compile(r"[.;!?](?:\s|$)|\n")
_EXISTS = re.compile(
    r"there(?:'s| is| are| was| were| appears? to be| seems? to be)\b|present\W*$|"
    r"(?:it|they|this|that) (?:is|are|does|do|has|have|can)\W*$|"
    r".*\b(?:is|are) (?:\w+ly )?(?:present|seen|visible|noted|identified|observed|evident)\b"
)


def is_yes_no(text: str) -> bool:
    """True when the text is yes or no and nothing else."""
    return normalise(text) in YES_NO


def closed_correct(answer: str, gold: str, options: Sequence[str] = ()) -> bool:
    """True when the answer's verdict is the gold one. Abstaining and naming both are wrong."""
    options = gold_options(gold, options)
    return is_correct(verdict(answer, options), gold, options)


def is_correct(found: ClosedVerdict, gold: str, options: Sequence[str]) -> bool:
    """True when the verdict chose the option that the gold answer names."""
    named = _named_option(gold, options)
    return found.choice is not None and named is not None and found.choice == named


def gold_options(gold: str, options: Sequence[str]) -> tuple[str, ...]:
    """Return the options to look for: yes and no, else those given, else the gold phrase alone."""
    if is_yes_no(gold):
        return YES_NO
    return tuple(options) if _named_option(gold, options) is not None else (gold,)


def _named_option(gold: str, options: Sequence[str]) -> str | None:
    """The longest option whose whole phrase is in the gold answer: "right" for "Right side"."""
    gold_words = words(gold)
    named = [option for option in options if _contains(gold_words, words(option))]
    return max(named, key=lambda option: len(words(option)), default=None)


def verdict(answer: str, options: Sequence[str] = YES_NO) -> ClosedVerdict:
    """Return what the answer commits to. With options other than yes/no, those are sought first."""
    if {normalise(option) for option in options} - set(YES_NO):
        found = _option(answer, options)
        if found is not None:
            return found
    kind = _yes_no(answer)
    return ClosedVerdict(kind, kind if kind in YES_NO else None)


def _option(answer: str, options: Sequence[str]) -> ClosedVerdict | None:
    """Find whole-phrase mentions, the longest option first; one that follows "not" is no mention.

    An answer that begins with an option means it, whatever follows ("Left, not the right side"),
    unless the next word joins another ("left and right").
    """
    remaining: list[str | None] = list(words(answer))
    mentions: dict[int, tuple[str, int]] = {}  # position -> option, number of words
    for option in sorted(options, key=lambda option: -len(words(option))):
        phrase = words(option)
        for start in range(len(remaining) - len(phrase) + 1 if phrase else 0):
            if remaining[start : start + len(phrase)] == phrase:
                before = remaining[start - 1] if start else None
                remaining[start : start + len(phrase)] = [None] * len(phrase)
                if before not in ("not", "than"):
                    mentions[start] = (option, len(phrase))
    if not mentions:
        return None
    first = min(mentions)
    option, length = mentions[first]
    after = remaining[first + length] if first + length < len(remaining) else None
    if first == 0 and after not in ("or", "and"):
        return ClosedVerdict("option", option)
    if len({normalise(option) for option, _ in mentions.values()}) > 1:
        return ClosedVerdict("both")
    return ClosedVerdict("option", option)


@lru_cache(maxsize=2**15)  # "Yes." comes again and again
def _yes_no(answer: str) -> Kind:
    text = _plain(answer)
    filler = _FILLER.match(text)
    text = text[filler.end() :] if filler else text
    if _BOTH.match(text):
        return "both"
    sentence = _SENTENCE_END.split(text, maxsplit=1)[0]
    leading = _LEADING.match(text)
    if leading and not re.match(r"no (?:idea|way|clear|definit|information)", text):
        return "yes" if leading["yes"] or leading["yes_alone"] else "no"
    if _UNSURE.search(sentence):
        return "abstain"
    clause = _CLAUSE_END.split(text, maxsplit=1)[0]
    num_negations = len(_NEGATION.findall(clause))
    if num_negations:  # "not absent" is neither yes nor no to a rule
        return "no" if num_negations == 1 else "abstain"
    if _EXISTS.match(clause):
        return "yes"
    said = set(re.findall(r"\b(?:yes|no)\b", text))
    if "yes" in said:
        return "both" if "no" in said else "yes"
    return "abstain"


def _plain(text: str) -> str:
    text = (
        unicodedata.normalize("NFKC", text).lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'")
    )
    return re.sub(r"[*_`#\"]", "", text).strip()


def _contains(long: list[str], short: list[str]) -> bool:
    starts = range(len(long) - len(short) + 1 if short else 0)
    return any(long[start : start + len(short)] == short for start in starts)

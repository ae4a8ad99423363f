"""Labels in words: phrases, questions and answers of one finding or of all in an image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from stllava.labels import phrases
from stllava.labels.mapping import ARTICLES, Finding
from stllava.labels.values import Value

TERSE = 0.3  # share of one-word answers, as in the demo's conversations
MAX_DENIED = 3  # findings that an answer says are not there, besides those that are


def pick(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]


def listing(items: Sequence[str], last: str = "and") -> str:
    """Return "a", "a and b", "a, b and c"."""
    return f" {last} ".join([", ".join(items[:-1]), items[-1]] if len(items) > 1 else items)


def bare(wording: str) -> str:
    """The wording without its article."""
    return next((wording[len(a) :] for a in ARTICLES if wording.startswith(a)), wording)


def fill(
    template: str, finding: Finding, wording: str, value: Value | None = None, **more: str
) -> str:
    """A template of `phrases` with one finding's words in it."""
    noun = bare(wording)
    words = {
        "a": wording,
        "bare": noun,
        "the": f"the {noun}",
        "be": _be(finding, value, template),
        "phrase": phrase(finding, wording, value) if value else "",
        **more,
    }
    words |= {key.capitalize(): capital(text) for key, text in words.items()}
    return template.format_map(words)


def capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _be(finding: Finding, value: Value | None, template: str) -> str:
    """Both of a structure are two; both sides of a finding are still one."""
    two = value is not None and value.side == "both" and finding.of == "structure"
    return "are" if finding.plural or (two and "hrase}" in template) else "is"


def phrase(finding: Finding, wording: str, value: Value) -> str:
    """All that is known: "a small nodule on the left", "the left kidney"."""
    noun = bare(wording)
    if finding.of == "structure":
        both = f"the left and the right {noun}"
        return (
            both if value.side == "both" else " ".join(["the", *filter(None, [value.side]), noun])
        )
    text = wording
    if value.grade:
        an = "an" if value.grade[:1] in "aeiou" else "a"
        article = f"{an} " if wording.startswith(("a ", "an ")) else ""
        text = f"{article}{value.grade} {noun}"
    return f"{text} {phrases.ON_SIDE[value.side]}" if value.side else text


def presence_answer(finding: Finding, wording: str, value: Value, rng: np.random.Generator) -> str:
    if rng.random() < TERSE:
        return "Yes." if value.present else "No."
    templates = phrases.PRESENT if value.present else phrases.ABSENT
    return fill(pick(rng, templates[finding.of]), finding, wording, value)


def side_answer(finding: Finding, wording: str, value: Value, rng: np.random.Generator) -> str:
    on_side = phrases.ON_SIDE[value.side]
    if rng.random() < TERSE:
        return f"{capital(value.side if finding.of == 'structure' else on_side)}."
    template = pick(rng, phrases.SIDE_ANSWER[finding.of])
    return fill(template, finding, wording, value, on_side=on_side)


def grade_question(template: str, finding: Finding, wording: str) -> str:
    return fill(template, finding, wording, options=listing(finding.grades, "or"))


def grade_answer(finding: Finding, wording: str, value: Value, rng: np.random.Generator) -> str:
    if rng.random() < TERSE:
        return f"{capital(value.grade)}."
    template = pick(rng, phrases.GRADE_ANSWER)
    return fill(template, finding, wording, value, grade=value.grade)


def seen_answer(
    findings: dict[str, Finding], values: dict[str, Value], rng: np.random.Generator
) -> str:
    """What is labelled as there, and some of what is labelled as not there; nothing else.

    Structures are never denied: that an organ is out of the picture is no observation about it.
    """
    known = [(findings[name], value) for name, value in values.items() if not value.text]
    there = [phrase(f, f.wording, value) for f, value in known if value.present]
    denied = [bare(f.wording) for f, value in known if not value.present and f.of == "finding"]
    rng.shuffle(denied)
    sentences = []
    if there:
        plural = next(f.plural for f, value in known if value.present)  # "is a, b and c"
        organs = any(f.of == "structure" for f, value in known if value.present)
        template = pick(rng, phrases.SEEN_ANSWER["structure" if organs else "finding"])
        sentences.append(template.format(list=listing(there), be="are" if plural else "is"))
    if denied and (not there or rng.random() < 0.5):
        template = pick(rng, phrases.NOTHING_SEEN)
        sentences.append(template.format(list=listing(denied[:MAX_DENIED], "or")))
    return " ".join(sentences)

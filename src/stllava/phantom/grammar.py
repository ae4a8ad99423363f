"""The small grammar of both worlds: noun phrases, the wordings of questions, and true answers.

An `Ask` is a question before it has words. `questions` lists every wording of it, and
`all_questions` of a world is the grammar that `claims` accepts: generator and reader cannot
drift apart, because they are one table.
"""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from stllava.phantom.vocab import NUMBERS, SIDES, WORLDS, Kind, World
from stllava.phantom.world import Finding, Picture
from stllava.prompts import DESCRIBE

WHOLE_TOPICS = ("describe", "modality", "findings", "normal", "odd")
YES_NO_TOPICS = ("presence", "normal", "odd")

# {a}: "a nodule"; {the}: "nodule" or "nodules"; {is_}: "is" or "are"; {at}: "in the left lung"
TEMPLATES: dict[str, tuple[str, ...]] = {
    "describe": (
        "Describe the image.",
        "What do you see in the image?",
        "What does the image show?",
        DESCRIBE,
    ),
    "modality": (
        "What {type_noun} is this?",
        "Which {type_noun} is shown?",
        "What kind of image is this?",
    ),
    "findings": ("What is {odd} in the image?", "What is {odd} here?", "Which findings are seen?"),
    "normal": (
        "Is the image {normal}?",
        "Is this a {normal} image?",
        "Does the image look {normal}?",
    ),
    "odd": (
        "Is anything {odd} here?",
        "Do you see anything {odd}?",
        "Does the image show anything {odd}?",
    ),
    "presence": ("{Is_} there {a}{at}?", "Do you see {a}{at}?", "Does the image show {a}{at}?"),
    "where": (
        "Where {is_} the {the}?",
        "Where do you see the {the}?",
        "In which place {is_} the {the}?",
    ),
    "side": (
        "Which side {is_} the {the} on?",
        "On which side {is_} the {the}?",
        "{Is_} the {the} left or right?",
    ),
    "size": (
        "How large {is_} the {the}?",
        "What size {is_} the {the}?",
        "{Is_} the {the} small or large?",
    ),
    "count": (
        "How many {many} are there?",
        "How many {many} do you see?",
        "What is the number of {many}?",
    ),
}
STATE_TEMPLATE = "{Is_} the {noun} {state}?"  # presence of a kind that is a state


@dataclass(frozen=True)
class Ask:
    """What a question asks for. `kind` is a Kind.name, "" for questions about the whole image."""

    topic: str
    kind: str = ""
    side: str = ""  # presence only: "Is there a nodule in the left lung?"
    plural: bool = False


def noun_phrase(kind: Kind, *, count: int = 1, size: str = "", numeral: bool = False) -> str:
    """Return "a small nodule", "two nodules", "an enlarged heart" or "enlarged ventricles"."""
    if kind.only_plural:
        return kind.name
    name = f"{size} {kind.plural if count > 1 else kind.name}".strip()
    if count > 1 or numeral:
        return f"{NUMBERS[count]} {name}"
    return with_article(name)


def with_article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def place(kind: Kind, side: str) -> str:
    """Return "left lung" or "liver"; "" when the kind has no place."""
    return f"{side} {kind.place}".strip() if kind.place else ""


def place_phrase(kind: Kind, side: str) -> str:
    return f"{kind.prep} the {place(kind, side)}" if kind.place else ""


def finding_phrase(finding: Finding, kind: Kind, *, detail: bool = True) -> str:
    """Return "two small nodules in the left lung", or "two nodules" without detail."""
    if not detail:
        return noun_phrase(kind, count=finding.count)
    words = noun_phrase(kind, count=finding.count, size=finding.size)
    return f"{words} {place_phrase(kind, finding.side)}".strip()


def is_plural(finding: Finding, kind: Kind) -> bool:
    return finding.count > 1 or kind.only_plural


def sentence(words: str) -> str:
    """Start with a capital letter and end with a full stop."""
    return f"{words[0].upper()}{words[1:]}."


def questions(ask: Ask, world: World) -> tuple[str, ...]:
    """Return every wording of `ask`."""
    kind = world.kinds.get(ask.kind)
    slots = {"type_noun": world.type_noun, "normal": world.normal, "odd": world.odd}
    templates = TEMPLATES[ask.topic]
    if kind is not None:
        be = "are" if ask.plural or kind.only_plural else "is"
        slots |= {
            "is_": be,
            "Is_": be.capitalize(),
            "a": noun_phrase(kind),
            "noun": kind.head,
            "the": kind.plural if ask.plural else kind.name,
            "state": kind.state,
            "many": kind.plural,
            "at": f" {place_phrase(kind, ask.side)}" if ask.side else "",
        }
        if kind.state and ask.topic == "presence":
            templates += (STATE_TEMPLATE,)
    return tuple(template.format(**slots) for template in templates)


def kind_asks(kind: Kind, *, plural: bool = False) -> list[Ask]:
    """Return the attribute questions that a finding of `kind` allows."""
    asks = []
    if kind.place:
        asks.append(Ask("where", kind.name, plural=plural))
    if kind.sided:
        asks.append(Ask("side", kind.name, plural=plural))
    if kind.sized:
        asks.append(Ask("size", kind.name, plural=plural))
    if kind.max_count > 1:
        asks.append(Ask("count", kind.name, plural=True))
    return asks


@cache
def all_questions(world_name: str) -> dict[str, Ask]:
    """Map every question of the grammar, normalised by `normalise`, to its Ask."""
    world = WORLDS[world_name]
    asks = [Ask(topic) for topic in WHOLE_TOPICS]
    for kind in world.all_kinds:
        asks += [Ask("presence", kind.name, side) for side in ("", *(SIDES if kind.sided else ()))]
        for plural in (False, True)[: kind.max_count]:
            asks += kind_asks(kind, plural=plural)
    return {normalise(text): ask for ask in asks for text in questions(ask, world)}


def normalise(text: str) -> str:
    """Lower-case words joined by single spaces, without punctuation."""
    return " ".join(words_of(text))


def words_of(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:-[a-z0-9]+)*", text.lower())


def find(picture: Picture, kind_name: str) -> Finding | None:
    """Return the picture's finding of this kind; a picture has at most one of each."""
    return next((f for f in picture.findings if f.kind == kind_name), None)


def truth(ask: Ask, picture: Picture) -> bool:
    """Return the true answer of a yes/no question."""
    if ask.topic == "normal":
        return not picture.findings
    if ask.topic == "odd":
        return bool(picture.findings)
    found = find(picture, ask.kind)
    return found is not None and ask.side in ("", found.side)


def pick(rng: random.Random, options: Sequence[str]) -> str:
    return options[rng.randrange(len(options))]

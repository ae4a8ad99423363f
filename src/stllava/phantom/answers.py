"""True answers in words, from one word to a sentence with every attribute.

The share of terse answers is a parameter because the preference stage lives on it: answers
must vary in detail, or an oracle that likes detail has nothing to prefer.
"""

from __future__ import annotations

import random

from stllava.phantom.grammar import (
    Ask,
    find,
    finding_phrase,
    is_plural,
    noun_phrase,
    pick,
    place,
    place_phrase,
    sentence,
    truth,
    with_article,
)
from stllava.phantom.vocab import NUMBERS, World
from stllava.phantom.world import Finding, Picture

DETAIL_SHARE = 0.65  # of sentences, how many name every attribute


def answer(ask: Ask, picture: Picture, rng: random.Random, *, terse: float, world: World) -> str:
    """Return a true answer to `ask`; with probability `terse` the shortest kind of answer."""
    short = rng.random() < terse
    if ask.topic in ("presence", "normal", "odd"):
        return _yes_no(ask, picture, rng, short, world)
    if ask.topic == "describe":
        return _description(picture, rng, short, world)
    if ask.topic == "modality":
        return _modality(picture, rng, short)
    if ask.topic == "findings":
        return _findings(picture, rng, short, world)
    return _attribute(ask, picture, rng, short, world)


def statement(phrases: list[str], plural: bool, rng: random.Random) -> str:
    """Return a clause that asserts the phrases: "there is a nodule and an enlarged heart"."""
    listed = " and ".join(phrases)
    be = "are" if plural else "is"
    return pick(rng, (f"there {be} {listed}", f"I see {listed}", f"the image shows {listed}"))


def _clause(finding: Finding, rng: random.Random, world: World, detail: bool) -> str:
    kind = world.kinds[finding.kind]
    phrase = finding_phrase(finding, kind, detail=detail)
    return statement([phrase], is_plural(finding, kind), rng)


def _all_findings(picture: Picture, rng: random.Random, world: World, detail: bool) -> str:
    kinds = [world.kinds[f.kind] for f in picture.findings]
    pairs = list(zip(picture.findings, kinds, strict=True))
    phrases = [finding_phrase(f, kind, detail=detail) for f, kind in pairs]
    return statement(phrases, is_plural(*pairs[0]), rng)


def _yes_no(ask: Ask, picture: Picture, rng: random.Random, short: bool, world: World) -> str:
    yes = truth(ask, picture)
    word = "Yes" if yes else "No"
    if short:
        return f"{word}."
    detail = rng.random() < DETAIL_SHARE
    if ask.topic == "presence":
        return f"{word}, {_presence_reason(ask, picture, rng, world, detail)}."
    if picture.findings:
        return f"{word}, {_all_findings(picture, rng, world, detail)}."
    normal = (f"the image is {world.normal}", f"it is {world.normal}", f"nothing is {world.odd}")
    return f"{word}, {pick(rng, normal)}."


def _presence_reason(
    ask: Ask, picture: Picture, rng: random.Random, world: World, detail: bool
) -> str:
    kind, found = world.kinds[ask.kind], find(picture, ask.kind)
    if found is None:
        be = "are" if kind.only_plural else "is"
        return pick(
            rng,
            (
                f"there {be} no {kind.name}",
                f"I see no {kind.name}",
                f"the image shows no {kind.name}",
            ),
        )
    if ask.side and ask.side != found.side:  # "No, ..." to a question about the wrong side
        name, be = (kind.plural, "are") if found.count > 1 else (kind.name, "is")
        return f"the {name} {be} {place_phrase(kind, found.side)}"
    return _clause(found, rng, world, detail or bool(ask.side))


def _modality(picture: Picture, rng: random.Random, short: bool) -> str:
    if short:
        return sentence(picture.picture_type)
    name = with_article(picture.picture_type)
    return pick(rng, (f"This is {name}.", f"The image is {name}.", f"It is {name}."))


def _findings(picture: Picture, rng: random.Random, short: bool, world: World) -> str:
    if not picture.findings:
        return (
            "Nothing."
            if short
            else pick(rng, (f"Nothing is {world.odd}.", f"There is nothing {world.odd}."))
        )
    if short:
        kinds = world.kinds
        phrases = [finding_phrase(f, kinds[f.kind], detail=False) for f in picture.findings]
        return sentence(" and ".join(phrases))
    return sentence(_all_findings(picture, rng, world, rng.random() < DETAIL_SHARE))


def _description(picture: Picture, rng: random.Random, short: bool, world: World) -> str:
    name = picture.picture_type
    if not picture.findings:
        if short:
            return sentence(with_article(f"{world.normal} {name}"))
        end = pick(rng, (f"It is {world.normal}.", f"Nothing is {world.odd}."))
        return f"{_modality(picture, rng, short=False)} {end}"
    if short:
        kinds = world.kinds
        phrases = [finding_phrase(f, kinds[f.kind], detail=False) for f in picture.findings]
        return sentence(f"{with_article(name)} with {' and '.join(phrases)}")
    return f"{_modality(picture, rng, short=False)} " + sentence(
        _all_findings(picture, rng, world, detail=True)
    )


def _attribute(ask: Ask, picture: Picture, rng: random.Random, short: bool, world: World) -> str:
    found, kind = find(picture, ask.kind), world.kinds[ask.kind]
    assert found is not None, f"{picture.id}: {ask} asks about a finding that is not there"
    many = found.count > 1
    it, be, the = ("they", "are", kind.plural) if many else ("it", "is", kind.name)
    at = place_phrase(kind, found.side)
    if ask.topic == "count":
        counted = noun_phrase(kind, count=found.count, numeral=True)
        terse = (f"{NUMBERS[found.count]}", counted)
        plain = (f"there {be} {counted}", f"I see {counted}", f"there {be} {counted} {at}")
    else:
        value = {
            "where": (place(kind, found.side), at),
            "side": (found.side, f"on the {found.side} side"),
            "size": (found.size, found.size),
        }[ask.topic]
        terse = (value[0], value[0])
        plain = (
            f"{it} {be} {value[1]}",
            f"the {the} {be} {value[1]}",
            f"there {be} {finding_phrase(found, kind)}",
        )
    return sentence(pick(rng, terse if short else plain))

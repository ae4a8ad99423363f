"""Conversations, benchmark questions and text-only exercises about a picture of either world."""

from __future__ import annotations

import random
from dataclasses import dataclass

from stllava.phantom.answers import answer, statement
from stllava.phantom.grammar import (
    Ask,
    find,
    finding_phrase,
    is_plural,
    kind_asks,
    pick,
    place,
    questions,
    sentence,
    truth,
    with_article,
)
from stllava.phantom.vocab import NUMBERS, SIDES, SIZES, World
from stllava.phantom.world import NORMAL_SHARE, Finding, Picture, sample_findings
from stllava.prompts import DESCRIBE
from stllava.records import VQASample

# A normal picture can only be asked for findings it lacks, and a question drawn twice is asked
# once, so pictures with findings are mostly asked for one they have. Measured over 3000 pictures:
# 49 % of the presence questions of conversations are then answered yes (51 % in the general world).
PRESENT_SHARE = 0.9
# The benchmark's normal pictures answer "no" in half of the questions only, so its share is lower:
# 0.5 + 0.14 / (2 * 0.72 * 0.6), where 0.6 of the pictures with findings are asked about presence.
CLOSED_PRESENT_SHARE = 0.66
SIDE_IN_QUESTION = 0.15  # presence questions that name a side


@dataclass(frozen=True)
class Told:
    """A picture that exists only in words, for `text_only`."""

    id: str
    picture_type: str
    findings: tuple[Finding, ...]


def conversation(
    picture: Picture, rng: random.Random, *, terse: float, world: World
) -> list[tuple[str, str]]:
    """Return three to five (question, answer) turns, each true of `picture`.

    `terse` is the probability that an answer is as short as can be. Six of ten conversations
    begin with a description, as instruction data do.
    """
    number = rng.randint(3, 5)
    asks = [Ask("describe")] if rng.random() < 0.6 else []
    pool = _pool(picture, rng, world)
    rng.shuffle(pool)
    asks += pool[: number - len(asks)]
    return [_turn(ask, picture, rng, terse, world) for ask in asks]


def _turn(
    ask: Ask, picture: Picture, rng: random.Random, terse: float, world: World
) -> tuple[str, str]:
    question = pick(rng, questions(ask, world))
    if question == DESCRIBE:  # it says "in detail"
        terse = 0.0
    return question, answer(ask, picture, rng, terse=terse, world=world)


def _pool(picture: Picture, rng: random.Random, world: World) -> list[Ask]:
    """Return at least four different questions about the picture, presence among them."""
    presence = [presence_ask(picture, rng, world) for _ in range(2)]
    whole = [Ask("modality"), Ask("findings"), Ask(rng.choice(("normal", "odd")))]
    asks = [*dict.fromkeys(presence), *whole]
    for finding in picture.findings:
        asks += kind_asks(world.kinds[finding.kind], plural=finding.count > 1)
    return asks


def presence_ask(
    picture: Picture,
    rng: random.Random,
    world: World,
    *,
    present_share: float = PRESENT_SHARE,
    sides: bool = True,
) -> Ask:
    """Return a yes/no question about one kind of finding of this picture type."""
    kinds = world.by_type[picture.picture_type].kinds
    present = [kind for kind in kinds if find(picture, kind.name)]
    absent = [kind for kind in kinds if not find(picture, kind.name)]
    ask_present = bool(present) and (not absent or rng.random() < present_share)
    kind = rng.choice(present if ask_present else absent)
    if not (sides and kind.sided and rng.random() < SIDE_IN_QUESTION):
        return Ask("presence", kind.name)
    return Ask("presence", kind.name, side=rng.choice(SIDES))


def text_only(rng: random.Random, world: World) -> list[tuple[str, str]]:
    """Return one to three turns whose picture is told in the question instead of shown.

    A base model learns the world's words and grammar from these without seeing its pictures.
    """
    picture_type = rng.choice(world.types)
    told = Told("told", picture_type.name, sample_findings(rng, picture_type.kinds))
    pool = _pool(told, rng, world)
    rng.shuffle(pool)
    turns = [_turn(ask, told, rng, 0.5, world) for ask in pool[: rng.randint(1, 3)]]
    (question, reply), *rest = turns
    return [(f"The {world.report} says: {_report(told, rng, world)} {question}", reply), *rest]


def _report(told: Told, rng: random.Random, world: World) -> str:
    start = f"this is {with_article(told.picture_type)}."
    if not told.findings:
        return f"{start} It is {world.normal}."
    parts = []
    for finding in told.findings:
        kind = world.kinds[finding.kind]
        phrase = finding_phrase(finding, kind)
        parts.append(sentence(statement([phrase], is_plural(finding, kind), rng)))
    return " ".join([start, *parts])


def benchmark(picture: Picture, rng: random.Random, world: World) -> list[VQASample]:
    """Return one closed question and one or two open ones with short reference phrases."""
    asks = [_closed_ask(picture, rng, world)]
    opens = _open_asks(picture, world)
    rng.shuffle(opens)
    asks += [ask for ask in opens if ask != asks[0]][: rng.randint(1, 2)]
    return [_sample(ask, k, picture, rng, world) for k, ask in enumerate(asks)]


def _closed_ask(picture: Picture, rng: random.Random, world: World) -> Ask:
    """Balance yes against no: half the normal pictures are asked whether they are normal.

    As many pictures with findings are asked the same, and the rest about presence, where "yes"
    makes up for the "no" of normal pictures, or about side or size.
    """
    half_normal = NORMAL_SHARE / 2
    abnormal = 1 - NORMAL_SHARE
    point = rng.random()
    if not picture.findings:
        return Ask("normal") if point < 0.5 else presence_ask(picture, rng, world, sides=False)
    if point < half_normal / abnormal:
        return Ask("normal")
    choices = [
        ask
        for f in picture.findings
        for ask in kind_asks(world.kinds[f.kind])
        if ask.topic in ("side", "size")
    ]
    if choices and point > 0.7:
        ask = rng.choice(choices)
        found = find(picture, ask.kind)
        return Ask(ask.topic, ask.kind, plural=found is not None and found.count > 1)
    return presence_ask(picture, rng, world, present_share=CLOSED_PRESENT_SHARE, sides=False)


def _open_asks(picture: Picture, world: World) -> list[Ask]:
    asks = [Ask("modality")]
    if len(picture.findings) < 2:  # one short reference phrase must do
        asks.append(Ask("findings"))
    for finding in picture.findings:
        plural = finding.count > 1
        asks += [
            a for a in kind_asks(world.kinds[finding.kind], plural=plural) if a.topic != "side"
        ]  # "where" asks for the side too
    return asks


CATEGORY = {"normal": "abnormality", "findings": "abnormality"}
OPTIONS = {"presence": ("yes", "no"), "normal": ("yes", "no"), "side": SIDES, "size": SIZES}


def _sample(ask: Ask, k: int, picture: Picture, rng: random.Random, world: World) -> VQASample:
    closed = k == 0
    options = OPTIONS.get(ask.topic, ()) if closed else ()
    texts = questions(ask, world)
    if ask.topic in ("side", "size"):  # only the last wording names the options
        texts = texts[-1:] if closed else texts[:-1]
    return VQASample(
        id=f"{picture.id}/b{k}",
        image=picture.id,
        question=pick(rng, texts),
        answer=reference(ask, picture, world),
        kind="closed" if closed else "open",
        options=options,
        categories={"type": CATEGORY.get(ask.topic, ask.topic), "modality": picture.picture_type},
    )


def reference(ask: Ask, picture: Picture, world: World) -> str:
    """Return the shortest full answer, in lower case: "left lung", "two", "enlarged heart"."""
    if ask.topic in ("presence", "normal", "odd"):
        return "yes" if truth(ask, picture) else "no"
    if ask.topic == "modality":
        return picture.picture_type
    if ask.topic == "findings":
        names = [world.kinds[f.kind].plural if f.count > 1 else f.kind for f in picture.findings]
        return " and ".join(names) or "nothing"
    found = find(picture, ask.kind)
    assert found is not None, f"{picture.id}: {ask} asks about a finding that is not there"
    values = {
        "where": place(world.kinds[found.kind], found.side),
        "side": found.side,
        "size": found.size,
        "count": NUMBERS[found.count],
    }
    return values[ask.topic]

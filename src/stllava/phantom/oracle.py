"""A judge that knows the truth: reads the paper's prompt (Figure 3), replies as GPT-4o would.

With `accuracy` below 1 it reports the two scores swapped in that share of the pairs; at 0.5 its
preference is a coin, the random control of a preference experiment. The coin comes from the
pair itself, so both orders of a pair get the same verdict.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple, Protocol

from stllava.errors import JudgeError
from stllava.phantom.claims import Claim, extract, is_true, read_question
from stllava.phantom.grammar import Ask, find
from stllava.phantom.vocab import WORLDS, World
from stllava.phantom.world import Phantom, Picture, stable_seed
from stllava.records import Draw, Request

CORE_RIGHT, CORE_NOT_RIGHT = 5, 2
EXTRA, MAX_EXTRAS = 2, 2  # a true detail weighs as much as a false claim: the rubric wants both
WRONG, MALFORMED = 2, 3

_PROMPT = re.compile(
    r"\[Question\]\n(?P<question>.*?)\n\n\[Answer 1\]\n(?P<first>.*?)\n\n\[End Answer 1\]"
    r".*?\[Answer 2\]\n(?P<second>.*?)\n\n\[End Answer 2\]",
    re.DOTALL,
)


class Scored(NamedTuple):
    """An answer's score with what it rests on."""

    score: int  # 1..10
    correct: int  # true claims
    wrong: int  # false claims


class HasSeed(Protocol):
    """The part of `generation.protocol.Sampling` that matters to an oracle."""

    @property
    def seed(self) -> int: ...


def score_answer(question: str, answer: str, picture: Picture) -> int:
    """Score an answer 1 to 10.

    Five for the core of the question, two each for up to two further true details, minus two for
    every false claim and three for words outside the grammar. An answer that misses the core
    starts at two.
    """
    return _score(question, answer, picture).score


def oracle_reply(
    prompt_text: str, picture: Picture, *, accuracy: float = 1.0, seed: int = 0
) -> str:
    """Reply to the paper's judge prompt: a line "8 6", then one sentence."""
    match = _PROMPT.search(prompt_text)
    if match is None:
        raise JudgeError("phantom-oracle: the prompt is not Figure 3's; use the rubric 'paper'")
    question, first, second = match.group("question", "first", "second")
    one, two = _score(question, first, picture), _score(question, second, picture)
    pair = sorted((first, second))
    coin = stable_seed(seed, picture.id, question, *pair) / 2**32
    if coin >= accuracy:
        one, two = two, one
    return (
        f"{one.score} {two.score}\n"
        f"Answer 1 makes {one.correct} correct and {one.wrong} wrong claims about the image, "
        f"Answer 2 makes {two.correct} correct and {two.wrong} wrong ones."
    )


class OracleGenerator:
    """A `Generator` that judges by the truth of its phantoms.

    The last question of a request is the judge's prompt; `request.image` names the phantom.
    """

    def __init__(
        self, truth: Mapping[str, Phantom], *, accuracy: float = 1.0, name: str = "phantom-oracle"
    ) -> None:
        self.name = name
        self._truth = truth
        self._accuracy = accuracy

    def generate(self, requests: Iterable[Request], sampling: HasSeed) -> Iterator[Draw]:
        """Draws in request order; all draws of a request are equal."""
        for request in requests:
            if request.image not in self._truth:
                raise JudgeError(f"phantom-oracle: {request.image} is no phantom of this run")
            text = oracle_reply(
                request.turns[-1].question,
                self._truth[request.image],
                accuracy=self._accuracy,
                seed=sampling.seed,
            )
            for index in range(request.num_draws):
                yield Draw(request_id=request.id, index=index, text=text, model=self.name)


def _world_of(picture: Picture) -> World:
    return next(world for world in WORLDS.values() if picture.picture_type in world.by_type)


def _score(question: str, answer: str, picture: Picture) -> Scored:
    world = _world_of(picture)
    ask = read_question(question, world)
    reading = extract(question, answer, world)
    right = {claim for claim in reading.claims if is_true(claim, picture, world)}
    core = {c for c in reading.claims if ask and _is_core(c, ask, picture, world)}
    base = CORE_RIGHT if core and core <= right else CORE_NOT_RIGHT
    extras = sum(not _is_restated(claim, ask) for claim in right - core)
    if ask and ask.topic in ("describe", "findings"):
        extras += max(0, len(core & right) - 1)  # every further finding named is a detail
    wrong = len(reading.claims) - len(right)
    score = base + EXTRA * min(MAX_EXTRAS, extras) - WRONG * wrong
    score -= 0 if reading.well_formed else MALFORMED
    return Scored(max(1, min(10, score)), len(right), wrong)


def _is_core(claim: Claim, ask: Ask, picture: Picture, world: World) -> bool:
    """Whether the claim answers what was asked."""
    if ask.topic == "presence":
        return claim[:2] == ("exists", f"{ask.kind}@{ask.side}" if ask.side else ask.kind)
    if ask.topic == "modality":
        return claim.about == "modality"
    if not ask.kind:  # describe, findings, normal, odd
        return claim.about == "normal" or claim[::2] == ("exists", "yes")
    if find(picture, ask.kind) is None:  # a wrong premise: the right answer denies it
        return claim[:2] == ("exists", ask.kind)
    sided = world.kinds[ask.kind].sided
    about = {"where": "side" if sided else "place"}.get(ask.topic, ask.topic)
    return claim[:2] == (about, ask.kind)


def _is_restated(claim: Claim, ask: Ask | None) -> bool:
    """A place follows from the kind, and the asked kind's existence from the question."""
    return claim.about == "place" or (
        ask is not None and claim.about == "exists" and claim.kind == ask.kind
    )

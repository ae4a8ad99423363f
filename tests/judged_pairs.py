"""Judges whose habits are known, for tests of what is said about judges."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Iterable, Iterator
from contextlib import nullcontext

from stllava.judging.jury.turns import Member, Views
from stllava.judging.pairing import Pair
from stllava.records import Answers, Draw, Image, Verdict

Rule = Callable[[Answers, Pair], int | None]  # index of the winner; None: a tie
WORDS = ("lung", "left", "mass", "heart", "large", "effusion", "clear", "node")


class RuleJudge:
    """Follows `rule(answers, order)`."""

    def __init__(self, rule: Rule, name: str = "rule", orders: str = "both") -> None:
        self.name, self._rule, self._orders = name, rule, orders

    def judge(self, items: Iterable[tuple[Answers, Pair]], *, done=()) -> Iterator[Verdict]:
        for answers, pair in items:
            for order in (pair, pair[::-1]) if self._orders == "both" else (pair,):
                said = verdict(
                    answers, order, self._rule(answers, order), judge=self.name, pair=pair
                )
                if said.id not in done:
                    yield said


def seated(*judges: RuleJudge) -> list[Member]:
    """As members of a jury who need nothing for their turn and never look."""
    return [Member(judge.name, lambda own=judge: nullcontext(Views(own))) for judge in judges]


def verdict(
    answers: Answers, order: Pair, winner: int | None, *, judge="rule", pair=(0, 1), **other
) -> Verdict:
    state = other.pop("state", "tie" if winner is None else "ok")
    view = other.get("view", "image")
    identity = repr((answers.id, order, judge, view))
    scores = {None: (6.0, 6.0), pair[0]: (8.0, 5.0), pair[1]: (5.0, 8.0)}[winner]
    other.setdefault("scores", scores if state in ("ok", "tie") else None)
    return Verdict(
        id=hashlib.sha256(identity.encode()).hexdigest()[:16],
        answers_id=answers.id,
        pair=pair,
        order=order,
        judge=judge,
        winner=winner,
        state=state,
        **other,
    )


def first(answers: Answers, order: Pair) -> int:
    return order[0]


def longer(answers: Answers, order: Pair) -> int | None:
    sizes = [len(answers.draws[index].text.split()) for index in order]
    return None if sizes[0] == sizes[1] else order[sizes.index(max(sizes))]


def coin(answers: Answers, order: Pair) -> int:
    return random.Random(repr((answers.id, sorted(order)))).choice(sorted(order))


def careless_coin(answers: Answers, order: Pair) -> int:
    """A new throw in each order."""
    return random.Random(f"{answers.id}{order}").choice(order)


def makes_answers(number: int, *, seed=0, per_image=2) -> list[Answers]:
    rng = random.Random(seed)
    made = []
    for n in range(number):
        image, id_ = f"i{n // per_image}", f"i{n // per_image}/q{n % per_image}"
        texts = [" ".join(rng.choices(WORDS, k=rng.randint(1, 12))) for _ in range(2)]
        draws = tuple(Draw(request_id=id_, index=k, text=f"{t} {k}") for k, t in enumerate(texts))
        question = ("Is there a mass?", "Where is the mass?")[n % 2]
        made.append(Answers(id=id_, image=image, question=question, draws=draws))
    return made


def images_of(answers: Iterable[Answers]) -> list[Image]:
    return [
        Image(
            id=name, path=f"{name}.png", sha256="", width=8, height=8, group=f"g{name}",
            source="ct" if int(name[1:]) % 2 else "xray",
        )
        for name in dict.fromkeys(item.image for item in answers)
    ]  # fmt: skip


def items(answers: Iterable[Answers]) -> list[tuple[Answers, Pair]]:
    return [(item, (0, 1)) for item in answers]

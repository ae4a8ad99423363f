"""Is the judge any good? Pairs of a known true and a plausible wrong answer.

Every wrong answer is the true one of another patient's pair, and the true answer is the first draw
in half of the pairs, so that a judge that does not look comes out at 50 %; `bench.text` measures
what is left to be guessed.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from stllava.judging.bench.couples import chosen_couples
from stllava.judging.bench.words import num_words
from stllava.judging.bench.wrong import Known, in_lucky_order
from stllava.judging.pairing import Pair
from stllava.records import Answers, Draw, Record

# Known answers gone through: so many per wanted pair, and not fewer than that; there may be 60,000.
LOOKED_AT, FEWEST_LOOKED_AT = 20, 10_000
PAIR: Pair = (0, 1)


class BenchPair(Record):
    """Two answers to a question about an image, and which of them is right."""

    id: str
    image: str
    group: str
    question: str
    true: str
    wrong: str
    category: str  # what is wrong with the wrong one
    true_first: bool  # the true one is draw 0

    @property
    def answers(self) -> Answers:
        """As a judge is given it: draws 0 and 1."""
        texts = (self.true, self.wrong) if self.true_first else (self.wrong, self.true)
        draws = tuple(Draw(request_id=self.id, index=i, text=t) for i, t in enumerate(texts))
        return Answers(id=self.id, image=self.image, question=self.question, draws=draws)

    @property
    def truth(self) -> int:
        """Index of the true draw."""
        return 0 if self.true_first else 1

    @property
    def gap(self) -> int:
        """Words of the true answer minus words of the wrong one; of Chinese its characters."""
        return num_words(self.true) - num_words(self.wrong)

    @property
    def length(self) -> str:
        return "equal" if self.gap == 0 else "true longer" if self.gap > 0 else "true shorter"


def bench_pairs(known: Sequence[Known], number: int, *, seed: int = 0) -> list[BenchPair]:
    """Up to `number` pairs, two of each couple; categories in turn, at most two about an image.

    A pure function of ids, texts and seed; the first ones stay with more. Fewer where the data hold
    fewer, and an even number of them.
    """
    lucky = in_lucky_order(known, seed)[: max(FEWEST_LOOKED_AT, LOOKED_AT * number)]
    couples = chosen_couples(lucky, number)
    sides = (side for one, other in couples for side in ((one, other), (other, one)))
    return balanced_in_position(
        BenchPair(
            id=f"bench/{one.item.id}",
            image=one.item.image,
            group=one.item.group,
            question=one.item.question,
            true=one.item.answer,
            wrong=one.wrong(other),
            category=one.category,
            true_first=True,
        )
        for one, other in sides
    )


def balanced_in_position(pairs: Iterable[BenchPair]) -> list[BenchPair]:
    """The true answer first in every second pair of each category and length."""
    turn: dict[tuple[str, str], int] = {}
    found = []
    for pair in pairs:
        key = (pair.category, pair.length)
        turn.setdefault(key, len(turn))  # so that the odd ones out are not all first
        found.append(pair.model_copy(update={"true_first": turn[key] % 2 == 0}))
        turn[key] += 1
    return found

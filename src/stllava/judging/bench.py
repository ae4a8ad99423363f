"""Is the judge any good? Pairs of a known true and a plausible wrong answer, and how it does.

Balanced: the true answer is the first draw in half of the pairs, the longer one as often as the
shorter one, and yes as often as no, so that a judge that does not look comes out at 50 %.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from itertools import zip_longest

from stllava.judging.audit_length import length_model
from stllava.judging.audit_pairs import JUDGED, Decision, by_pair, decide, pair_name
from stllava.judging.audit_share import Share, share
from stllava.judging.bench_wrong import Known, Others, in_lucky_order, wrong_answer
from stllava.judging.pairing import Pair, normalise
from stllava.metrics.closed import verdict
from stllava.records import Answers, Draw, JSONObject, Record, Verdict

PER_IMAGE = 2  # pairs about one image at most: more patients say more than more questions
LOOKED_AT = 20  # known answers per wanted pair; 60,000 of them need not all be gone through
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
        """Words of the true answer minus words of the wrong one."""
        return len(self.true.split()) - len(self.wrong.split())

    @property
    def length(self) -> str:
        return "equal" if self.gap == 0 else "true longer" if self.gap > 0 else "true shorter"


def bench_pairs(known: Sequence[Known], number: int, *, seed: int = 0) -> list[BenchPair]:
    """Up to `number` pairs: categories in turn, at most two an image, balanced as the module says.

    A pure function of ids, texts and seed. Fewer where the data hold fewer, or where a category's
    true answers are mostly the longer ones: the surplus is left out.
    """
    lucky = in_lucky_order(known, seed)
    others, used = Others(lucky), Counter[str]()
    found: dict[str, list[BenchPair]] = defaultdict(list)
    for item in lucky[: max(2000, LOOKED_AT * number)]:
        wrong = wrong_answer(item, others) if used[item.image] < PER_IMAGE else None
        if wrong is None or normalise(wrong.answer) == normalise(item.answer):
            continue
        used[item.image] += 1
        pair = BenchPair(
            id=f"bench/{item.id}",
            image=item.image,
            group=item.group,
            question=item.question,
            true=item.answer,
            wrong=wrong.answer,
            category=wrong.category,
            true_first=True,
        )
        found[wrong.category].append(pair)
    balanced = [_units(pairs) for _, pairs in sorted(found.items())]
    in_turn = [unit for turn in zip_longest(*balanced) for unit in turn if unit]
    kept: list[BenchPair] = []
    for unit in in_turn:
        if len(kept) + len(unit) <= number:
            kept += unit
    return balanced_in_position(kept)


def _units(pairs: Sequence[BenchPair]) -> list[list[BenchPair]]:
    """What is taken together so that any number of units is in balance.

    Of presence a true yes with a true no, the one longer than its wrong answer where the other is
    shorter; of other categories see `_balanced_in_length`.
    """
    if pairs[0].category != "presence":
        return _balanced_in_length(pairs)
    classes: dict[tuple[str, str], list[BenchPair]] = defaultdict(list)
    for pair in pairs:
        classes[verdict(pair.true).kind, pair.length].append(pair)
    opposite = {"equal": "equal", "true longer": "true shorter", "true shorter": "true longer"}
    coupled = [
        zip(classes["yes", yes], classes["no", no], strict=False) for yes, no in opposite.items()
    ]
    return [list(couple) for turn in zip_longest(*coupled) for couple in turn if couple]


def _balanced_in_length(pairs: Sequence[BenchPair]) -> list[list[BenchPair]]:
    """Twos: equally long ones, or a longer and a shorter one; the last equal one may be alone."""
    by_length: dict[str, list[BenchPair]] = defaultdict(list)
    for pair in pairs:
        by_length[pair.length].append(pair)
    equal = by_length["equal"]
    twos = [equal[start : start + 2] for start in range(0, len(equal), 2)]
    couples = map(list, zip(by_length["true longer"], by_length["true shorter"], strict=False))
    return [unit for turn in zip_longest(twos, couples) for unit in turn if unit]


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


def bench_score(pairs: Sequence[BenchPair], verdicts: Iterable[Verdict]) -> JSONObject:
    """Accuracy by category, position and length, with intervals.

    A pair counts 1 if every order names the true answer, 1/2 for a tie or inconsistent orders (what
    a coin gets), 0 if the wrong one wins. Refusals and failed calls are counted apart: a judge that
    answers nothing has no accuracy. `right_of_all` is the strict share of all pairs.
    """
    by_name = {pair_name(pair.id, PAIR): pair for pair in pairs}
    said = [group for group in by_pair(verdicts) if group[0].view == "image"]
    judged = [(by_name[d.name], d, group) for group in said if (d := decide(group)).name in by_name]
    counted = [(pair, d) for pair, d, _ in judged if d.state in JUDGED]
    wins = [(pair, v) for pair, _, group in judged for v in group if v.state in ("ok", "tie")]
    clear = [(pair, v) for pair, v in wins if v.winner is not None]
    model = length_model(
        [v.winner == pair.truth for pair, v in clear],
        [pair.gap for pair, _ in clear],
        [pair.group for pair, _ in clear],
    )
    return {
        "pairs": len(pairs),
        "groups": len({pair.group for pair in pairs}),
        "judged": len(counted),
        "states": dict(Counter(d.state for _, d, _ in judged).most_common()),
        "accuracy": _accuracy(counted).json(),
        "lower_bound": _low(_accuracy(counted)),
        "right_of_all": share(
            (float(d.winner == pair.truth), pair.group) for pair, d, _ in judged
        ).json(),
        "by_category": {
            name: _accuracy([c for c in counted if c[0].category == name]).json()
            for name in sorted({pair.category for pair in pairs})
        },
        "by_length": {
            name: _accuracy([c for c in counted if c[0].length == name]).json()
            for name in sorted({pair.length for pair in pairs})
        },
        "by_position": _by_position(wins),
        "at_equal_length": model._asdict() if model else None,
    }


def _credit(winner: int | None, pair: BenchPair) -> float:
    return 0.5 if winner is None else float(winner == pair.truth)


def _by_position(wins: Sequence[tuple[BenchPair, Verdict]]) -> JSONObject:
    """Of single verdicts, by where the true answer was shown."""
    found = {}
    for name, is_first in (("true shown first", True), ("true shown second", False)):
        rows = [(pair, v) for pair, v in wins if (v.order[0] == pair.truth) == is_first]
        found[name] = share((_credit(v.winner, pair), pair.group) for pair, v in rows).json()
    return found


def _accuracy(counted: Iterable[tuple[BenchPair, Decision]]) -> Share:
    return share((_credit(d.winner, pair), pair.group) for pair, d in counted)


def _low(accuracy: Share) -> float | None:
    return accuracy.clustered.low if accuracy.clustered else None

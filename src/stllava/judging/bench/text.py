"""What rules that never see an image get right on known pairs: the figure a judge has to beat."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from stllava.judging.audit.share import share
from stllava.judging.bench.pairs import BenchPair
from stllava.judging.bench.words import yes_or_no
from stllava.judging.bench.wrong import Known
from stllava.judging.pairing import normalise
from stllava.metrics.closed import verdict
from stllava.metrics.text import words
from stllava.records import JSONObject

Rule = Callable[[BenchPair, str], float]  # the answer with more of it is preferred


def text_only(pairs: Sequence[BenchPair], known: Iterable[Known] = ()) -> JSONObject:
    """The best of a few fixed rules on these pairs, its share with n and intervals, and all rules.

    A rule that cannot tell two answers apart has half a point. `known`: where common answers are
    counted, those of the pair's own patient left out; without it, the true answers of the pairs.
    """
    shares = {
        name: share((_credit(rule(p, p.true), rule(p, p.wrong)), p.group) for p in pairs)
        for name, rule in _rules(pairs, list(known)).items()
    }
    best = max(shares, key=lambda name: shares[name].percent or 0.0)
    rules = {name: found.json() for name, found in shares.items()}
    return {"rule": best, **rules[best], "rules": rules}


def _credit(true: float, wrong: float) -> float:
    return 0.5 if true == wrong else float(true > wrong)


def _rules(pairs: Sequence[BenchPair], known: Sequence[Known]) -> dict[str, Rule]:
    said = [(k.group, k.question, k.answer) for k in known]
    said = said or [(p.group, p.question, p.true) for p in pairs]
    rows = [(group, normalise(question), normalise(answer)) for group, question, answer in said]
    of_all, of_question = Counter(a for _, _, a in rows), Counter((q, a) for _, q, a in rows)
    own, own_question = Counter((g, a) for g, _, a in rows), Counter(rows)

    def common(pair: BenchPair, text: str) -> float:
        answer = normalise(text)
        return of_all[answer] - own[pair.group, answer]

    def common_here(pair: BenchPair, text: str) -> float:
        question, answer = normalise(pair.question), normalise(text)
        here = of_question[question, answer] - own_question[pair.group, question, answer]
        return here + common(pair, text) / (1 + len(rows))  # decides where these are equal

    return {
        "the commonest answer to the same question": common_here,
        "the commonest answer": common,
        "the longer answer": lambda _, text: len(text),
        "the shorter answer": lambda _, text: -len(text),
        "the larger number": lambda _, text: _number(text),
        "the smaller number": lambda _, text: -_number(text),
        "yes": lambda _, text: _says(text, "yes"),
        "no": lambda _, text: _says(text, "no"),
    }


def _number(text: str) -> float:
    found = [word for word in words(text) if re.fullmatch(r"\d+(?:\.\d+)?", word)]
    return float(found[0]) if found else 0.0


def _says(text: str, wanted: str) -> bool:
    return (yes_or_no(text) or verdict(text).kind) == wanted

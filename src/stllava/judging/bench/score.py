"""How a judge does on known pairs, with intervals, beside rules that read the words alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from stllava.judging.audit.length import length_model
from stllava.judging.audit.pairs import JUDGED, Decision, by_pair, decide, pair_name
from stllava.judging.audit.share import Share, share
from stllava.judging.bench.pairs import PAIR, BenchPair
from stllava.judging.bench.text import text_only
from stllava.judging.bench.wrong import Known
from stllava.records import JSONObject, Verdict


def bench_score(
    pairs: Sequence[BenchPair], verdicts: Iterable[Verdict], *, known: Iterable[Known] = ()
) -> JSONObject:
    """Accuracy by category, position and length, with intervals, and `text_only` beside it.

    A pair counts 1 if every order names the true answer, 1/2 for a tie or inconsistent orders (what
    a coin gets), 0 if the wrong one wins. Refusals and failed calls are counted apart: a judge that
    answers nothing has no accuracy. `right_of_all` is the strict share of all pairs. `text_only` is
    the best rule without an image on the pairs that the judge judged; `known`: see there.
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
        "text_only": text_only([pair for pair, _ in counted], known),
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


def shortfall(found: JSONObject, wanted: float) -> str | None:
    """Why a measured judge is not let in; None if it is. `wanted`: share, 0..1."""
    low, blind = found["lower_bound"], found["text_only"]
    shown = "no accuracy" if low is None else f"the interval's lower end, {low:.1f} %,"
    if low is None or low < 100 * wanted:
        return f"{shown} does not reach judge.min_accuracy, {100 * wanted:g} %"
    if low <= blind["percent"]:
        rule = f"{blind['percent']:.1f} % that a rule has without the image ({blind['rule']})"
        return f"{shown} is not above the {rule}"
    return None


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

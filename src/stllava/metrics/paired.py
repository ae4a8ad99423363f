"""Two models on the same questions: differences, their intervals, and what chance alone would do.

Differences are B minus A, in points; positive means that B is better.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from scipy.stats import binomtest, norm

from stllava.errors import DataError
from stllava.metrics.interval import NUM_RESAMPLES, Interval, paired_difference
from stllava.records import Item

METRICS = ("accuracy", "recall", "f1")  # of closed questions; of open ones
POWER = 0.8


class Change(NamedTuple):
    """One metric on one benchmark. `p` knows groups; `p_mcnemar` takes questions as independent."""

    benchmark: str
    metric: str
    num_items: int
    num_groups: int
    num_unpaired: int  # answered, or counted, on one side only; left out
    a: float  # percent, over the questions that both answered
    b: float
    difference: float  # points
    interval: Interval | None  # 95 %, groups resampled; None below two groups
    p: float  # two-sided permutation: whole groups exchanged between A and B
    p_holm: float  # p, corrected for all rows of the comparison
    p_mcnemar: float | None  # exact; None for metrics that are not right or wrong
    detectable: float | None  # points that such a set finds in 4 of 5 cases at 5 %
    won: tuple[str, ...]  # ids of the questions on which B is better
    lost: tuple[str, ...]


def compare_all(
    pairs: Mapping[str, tuple[Sequence[Item], Sequence[Item]]],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> list[Change]:
    """Compare A's and B's items of every benchmark; p_holm is over all rows that come out.

    A metric that no question has on both sides yields no row. Raises DataError without any row.
    """
    changes = [
        _change(benchmark, metric, a, b, seed, num_resamples)
        for benchmark, (a, b) in pairs.items()
        for metric in METRICS
        if _both_have(metric, a, b)
    ]
    if not changes:
        raise DataError("no question was answered in both; nothing can be compared")
    corrected = holm([change.p for change in changes])
    return [c._replace(p_holm=p) for c, p in zip(changes, corrected, strict=True)]


def _both_have(metric: str, a: Sequence[Item], b: Sequence[Item]) -> bool:
    return bool({i.id for i in a if metric in i.metrics} & {i.id for i in b if metric in i.metrics})


def _change(
    benchmark: str, metric: str, a: Sequence[Item], b: Sequence[Item], seed: int, num_resamples: int
) -> Change:
    found = paired_difference(a, b, metric, seed=seed, num_resamples=num_resamples)
    values_b = {item.id: item.metrics[metric] for item in b if metric in item.metrics}
    both = [
        (item.id, item.metrics[metric], values_b[item.id])
        for item in a
        if metric in item.metrics and item.id in values_b
    ]
    return Change(
        benchmark=benchmark,
        metric=metric,
        num_items=found.num_items,
        num_groups=found.num_groups,
        num_unpaired=found.num_unpaired,
        a=sum(x for _, x, _ in both) / len(both),
        b=sum(y for _, _, y in both) / len(both),
        difference=found.difference,
        interval=found.interval,
        p=found.p,
        p_holm=found.p,
        p_mcnemar=mcnemar(found.wins, found.losses) if metric == "accuracy" else None,
        detectable=detectable(found.error),
        won=tuple(sorted(name for name, x, y in both if y > x)),
        lost=tuple(sorted(name for name, x, y in both if y < x)),
    )


def mcnemar(wins: int, losses: int) -> float:
    """Exact two-sided p of McNemar's test: are wins and losses equally likely?"""
    return float(binomtest(wins, wins + losses).pvalue) if wins + losses else 1.0


def detectable(error: float | None) -> float | None:
    """Smallest true difference that a two-sided test at 5 % finds with a power of 80 %.

    `error` is the standard error of the difference; None, or 0 where all questions agree, says
    nothing about it.
    """
    return float(norm.ppf(0.975) + norm.ppf(POWER)) * error if error else None


def holm(ps: Sequence[float]) -> list[float]:
    """P values after Holm's step-down correction (1979), in the given order."""
    corrected = [0.0] * len(ps)
    largest = 0.0
    for rank, index in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        largest = max(largest, min(1.0, (len(ps) - rank) * ps[index]))
        corrected[index] = largest
    return corrected

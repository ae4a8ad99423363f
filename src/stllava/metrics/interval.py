"""How sure a benchmark number is: intervals that know questions come in groups.

Questions about one patient are not independent (SLAKE asks 11 per image), so whole groups are
resampled. Shapes: N questions, M metrics, G groups, B resamples.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binomtest

from stllava.errors import DataError
from stllava.records import Item

NUM_RESAMPLES = 2000
LEVEL = 0.95
_CHUNK = 2_000_000  # counts held at once, 16 MB

Floats = NDArray[np.float64]


class Interval(NamedTuple):
    low: float
    high: float


class PairedDifference(NamedTuple):
    """`b` minus `a` on the questions both answered; fields in the unit of the metric."""

    difference: float
    interval: Interval | None  # None with fewer than two groups
    p: float  # two-sided, signs of whole groups exchanged
    num_items: int
    num_groups: int
    num_unpaired: int  # questions with this metric on one side only, left out
    wins: int  # questions where b is better
    losses: int
    error: float | None = None  # standard error that knows groups; None with fewer than two


def clustered_intervals(
    values_NM: ArrayLike,
    groups: Sequence[str],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> list[Interval] | None:
    """Percentile bootstrap intervals of M means over resampled groups; None below two groups.

    With 0 or 100 % everywhere the interval has no width: read Wilson's beside it.
    """
    values = np.asarray(values_NM, dtype=np.float64)
    sums_GM, counts_G = _group_sums(values, groups)
    if len(counts_G) < 2:
        return None
    means_BM = _resampled_means(sums_GM, counts_G, seed, num_resamples)
    tail = 50 * (1 - level)
    low_M, high_M = np.percentile(means_BM, [tail, 100 - tail], axis=0)
    return [Interval(float(low), float(high)) for low, high in zip(low_M, high_M, strict=True)]


def wilson(num_right: int, num_items: int, *, level: float = LEVEL) -> Interval | None:
    """Wilson's score interval of a proportion, in percent; None without items.

    It takes items as independent, so with several questions per group it is too narrow.
    """
    if num_items == 0:
        return None
    result = binomtest(num_right, num_items).proportion_ci(level, method="wilson")
    return Interval(100 * float(result.low), 100 * float(result.high))


def paired_difference(
    items_a: Sequence[Item],
    items_b: Sequence[Item],
    metric: str,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> PairedDifference:
    """Compare two models question by question, joined by id. Positive means b is better."""
    a, b = _values(items_a, metric), _values(items_b, metric)
    paired = sorted(a.keys() & b.keys())
    if not paired:
        raise DataError(f"no question has {metric} in both results; compare the same benchmark")
    delta_N = np.array([b[key] - a[key] for key in paired])
    group_of = {item.id: item.group for item in items_a}
    groups = [group_of[key] for key in paired]
    intervals = clustered_intervals(
        delta_N[:, None], groups, seed=seed, num_resamples=num_resamples
    )
    sums_GM, counts_G = _group_sums(delta_N[:, None], groups)
    return PairedDifference(
        difference=float(delta_N.mean()),
        interval=intervals[0] if intervals else None,
        p=_sign_flip_p(sums_GM[:, 0], seed, num_resamples),
        num_items=len(paired),
        num_groups=len(counts_G),
        num_unpaired=len(a.keys() ^ b.keys()),
        wins=int((delta_N > 0).sum()),
        losses=int((delta_N < 0).sum()),
        error=_clustered_error(sums_GM[:, 0], counts_G),
    )


def _values(items: Sequence[Item], metric: str) -> dict[str, float]:
    if len({item.id for item in items}) != len(items):
        raise DataError("two scored questions share an id; score each question once")
    return {item.id: item.metrics[metric] for item in items if metric in item.metrics}


def _group_sums(values_NM: Floats, groups: Sequence[str]) -> tuple[Floats, Floats]:
    """Sums and counts per group, groups in sorted order so that input order does not matter."""
    assert len(values_NM) == len(groups)
    names, index_N = np.unique(np.asarray(groups, dtype=object).astype(str), return_inverse=True)
    sums_GM = np.zeros((len(names), values_NM.shape[1]))
    np.add.at(sums_GM, index_N, values_NM)
    return sums_GM, np.bincount(index_N, minlength=len(names)).astype(np.float64)


def _resampled_means(sums_GM: Floats, counts_G: Floats, seed: int, num_resamples: int) -> Floats:
    rng = np.random.default_rng(seed)
    num_groups = len(counts_G)
    chunk = max(1, _CHUNK // num_groups)
    parts: list[Any] = []
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        times_BG = rng.multinomial(num_groups, np.full(num_groups, 1 / num_groups), size=size)
        parts.append((times_BG @ sums_GM) / (times_BG @ counts_G)[:, None])
    return np.concatenate(parts)


def _clustered_error(sums_G: Floats, counts_G: Floats) -> float | None:
    """Standard error of a mean whose items come in groups (Liang and Zeger 1986)."""
    num_groups, num_items = len(counts_G), counts_G.sum()
    if num_groups < 2:
        return None
    excess_G = sums_G - counts_G * (sums_G.sum() / num_items)
    return float(np.sqrt(num_groups / (num_groups - 1) * (excess_G**2).sum()) / num_items)


def _sign_flip_p(sums_G: Floats, seed: int, num_resamples: int) -> float:
    """Two-sided permutation p: under no difference a group's sum may carry either sign."""
    rng = np.random.default_rng([seed, 1])
    observed = abs(float(sums_G.sum()))
    chunk = max(1, _CHUNK // len(sums_G))
    num_extreme = 0
    for start in range(0, num_resamples, chunk):
        size = min(chunk, num_resamples - start)
        signs_BG = rng.integers(0, 2, size=(size, len(sums_G)), dtype=np.int8) * 2 - 1
        num_extreme += int((np.abs(signs_BG @ sums_G) >= observed - 1e-9).sum())
    return (num_extreme + 1) / (num_resamples + 1)

"""A share with its n and two intervals: no number of an audit stands without them."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any, NamedTuple

from scipy.stats import norm

from stllava.metrics.interval import LEVEL, Interval


class Share(NamedTuple):
    """Percent. `interval` takes items as independent, `clustered` knows images; both Wilson's.

    Clustered: with the effective number of items in the place of n, as survey statistics does
    (Franco, Little, Louis and Slud 2019, J. Surv. Stat. Methodol. 7:334): the number of independent
    items with the standard error that whole groups show, not more than n. Where all items are
    equal there is no such error, and it is the number of groups.
    """

    hits: float  # a tie or the like may count half
    n: int
    percent: float | None  # None without items
    interval: Interval | None
    clustered: Interval | None
    num_groups: int

    def json(self) -> dict[str, Any]:
        return self._asdict()


def share(flags: Iterable[tuple[float, str]]) -> Share:
    """Mean of (value in 0..1, group) pairs."""
    rows = list(flags)
    hits, n = math.fsum(flag for flag, _ in rows), len(rows)
    if not n:
        return Share(0.0, 0, None, None, None, 0)
    excess: dict[str, float] = defaultdict(float)
    for flag, group in rows:
        excess[group] += flag - hits / n
    effective = _effective(hits / n, n, list(excess.values()))
    return Share(
        hits=hits,
        n=n,
        percent=100 * hits / n,
        interval=_wilson(hits / n, n),
        clustered=_wilson(hits / n, effective),
        num_groups=len(excess),
    )


def _effective(p: float, n: int, excess_G: list[float]) -> float:
    """`excess_G`: of each group, its sum minus what its size makes expect."""
    num_groups = len(excess_G)
    if num_groups < 2:
        return 1.0
    variance = num_groups / (num_groups - 1) * math.fsum(e * e for e in excess_G) / n**2
    if variance < 1e-12:
        return float(num_groups)
    return min(float(n), max(1.0, p * (1 - p) / variance))


def _wilson(p: float, n: float) -> Interval:
    """Wilson's score interval in percent, for any n above 0."""
    z2 = float(norm.ppf(0.5 + LEVEL / 2)) ** 2
    middle = (p + z2 / (2 * n)) / (1 + z2 / n)
    half = math.sqrt(z2 * (p * (1 - p) / n + z2 / (4 * n * n))) / (1 + z2 / n)
    return Interval(100 * max(0.0, middle - half), 100 * min(1.0, middle + half))

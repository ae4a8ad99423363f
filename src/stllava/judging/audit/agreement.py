"""How far judges agree beyond chance, and how many independent ones they are worth.

Share of agreement flatters a judge wherever one outcome is frequent; these do not. Shapes: J
judges, N items, K categories, V values, G groups (patients or images), B resamples. A missing vote
is None. A figure that the data do not define (everybody always says the same) is None.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from stllava.metrics.interval import LEVEL, NUM_RESAMPLES, Interval

Floats = NDArray[np.float64]
Level = Literal["nominal", "interval"]
Votes = Sequence[Sequence[float | None]]  # (J, N)

_CHUNK = 250  # resamples drawn at once: 20 MB at 10,000 groups


class Kappa(NamedTuple):
    """Agreement of two raters on the items that both rated."""

    kappa: float | None
    interval: Interval | None  # groups resampled; None below two groups or where undefined
    agreement: float | None  # observed share, 0..1
    num_items: int
    num_groups: int


def cohen_kappa(a: Sequence[Hashable | None], b: Sequence[Hashable | None]) -> float | None:
    """Cohen's kappa (1960, Educ. Psychol. Meas. 20:37) of two raters; items with a None are out."""
    return kappa_with_interval(a, b, [str(n) for n in range(len(a))], num_resamples=0).kappa


def kappa_with_interval(
    a: Sequence[Hashable | None],
    b: Sequence[Hashable | None],
    groups: Sequence[str],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Kappa:
    """Cohen's kappa with a percentile bootstrap interval over whole groups.

    A resample in which kappa is undefined is left out of the interval.
    """
    assert len(a) == len(b) == len(groups)
    rated = [
        (x, y, g) for x, y, g in zip(a, b, groups, strict=True) if x is not None and y is not None
    ]
    if not rated:
        return Kappa(None, None, None, 0, 0)
    tables_GKK = _tables(rated)
    whole_KK = tables_GKK.sum(axis=0)
    kappa = _finite(_kappas(whole_KK[None])[0])
    interval = None
    if len(tables_GKK) > 1 and num_resamples and kappa is not None:
        kappas_B = _resampled(tables_GKK, seed, num_resamples)
        tail = 50 * (1 - level)
        low, high = np.nanpercentile(kappas_B, [tail, 100 - tail])
        interval = Interval(float(low), float(high))
    agreement = float(np.trace(whole_KK) / whole_KK.sum())
    return Kappa(kappa, interval, agreement, len(rated), len(tables_GKK))


def _resampled(tables_GKK: Floats, seed: int, num_resamples: int) -> Floats:
    """Kappas of resampled groups, (B,)."""
    rng, num_groups = np.random.default_rng(seed), len(tables_GKK)
    share_G = np.full(num_groups, 1 / num_groups)
    parts = []
    for start in range(0, num_resamples, _CHUNK):
        size = min(_CHUNK, num_resamples - start)
        times_BG = rng.multinomial(num_groups, share_G, size=size)
        parts.append(_kappas(np.tensordot(times_BG, tables_GKK, axes=1)))
    return np.concatenate(parts)


def _tables(rated: Sequence[tuple[Hashable, Hashable, str]]) -> Floats:
    """One contingency table a group, (G, K, K); categories and groups in sorted order."""
    names = {
        name: k for k, name in enumerate(sorted({r for row in rated for r in row[:2]}, key=repr))
    }
    places = {group: n for n, group in enumerate(sorted({row[2] for row in rated}))}
    tables = np.zeros((len(places), len(names), len(names)))
    for x, y, group in rated:
        tables[places[group], names[x], names[y]] += 1
    return tables


def _kappas(tables_BKK: Floats) -> Floats:
    """Kappa of each table; NaN where chance agreement is 1."""
    total_B = tables_BKK.sum(axis=(1, 2))
    observed_B = np.trace(tables_BKK, axis1=1, axis2=2) / total_B
    expected_B = (tables_BKK.sum(axis=2) * tables_BKK.sum(axis=1)).sum(axis=1) / total_B**2
    room_B = 1 - expected_B
    safe_B = np.where(room_B > 1e-12, room_B, np.nan)
    result: Floats = (observed_B - expected_B) / safe_B
    return result


def fleiss_kappa(counts_NK: ArrayLike) -> float | None:
    """Fleiss' kappa (1971, Psychol. Bull. 76:378) of items rated equally often, at least twice.

    `counts_NK`: how many raters put item n into category k. Raises ValueError for unequal numbers;
    `krippendorff_alpha` is for those.
    """
    counts = np.asarray(counts_NK, dtype=np.float64)
    raters_N = counts.sum(axis=1)
    if not len(counts) or raters_N.min() != raters_N.max() or raters_N[0] < 2:
        raise ValueError("Fleiss' kappa needs the same number of raters, two or more, everywhere")
    raters = raters_N[0]
    observed = float(((counts**2).sum(axis=1) - raters).mean() / (raters * (raters - 1)))
    expected = float(((counts.sum(axis=0) / counts.sum()) ** 2).sum())
    return None if expected > 1 - 1e-12 else (observed - expected) / (1 - expected)


def krippendorff_alpha(votes: Votes, level: Level = "nominal") -> float | None:
    """Krippendorff's alpha of J judges on N items, votes may be missing.

    By coincidences (Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability",
    repository.upenn.edu/asc_papers/43). Items with fewer than two votes pair nothing and are out.
    """
    counts_NV, values_V = _value_counts(votes)
    counts_NV = counts_NV[counts_NV.sum(axis=1) >= 2]
    if not len(counts_NV):
        return None
    weight_N = 1 / (counts_NV.sum(axis=1) - 1)
    met_VV = (counts_NV * weight_N[:, None]).T @ counts_NV
    met_VV -= np.diag((counts_NV * weight_N[:, None]).sum(axis=0))  # nobody meets himself
    total_V = met_VV.sum(axis=1)
    gap_VV = values_V[:, None] - values_V[None, :]
    far_VV = gap_VV**2 if level == "interval" else (gap_VV != 0).astype(np.float64)
    expected = float(total_V @ far_VV @ total_V)
    if expected == 0:
        return None
    return 1 - (float(total_V.sum()) - 1) * float((met_VV * far_VV).sum()) / expected


def _value_counts(votes: Votes) -> tuple[Floats, Floats]:
    """How often each value was given to each item, (N, V), and the values."""
    values = sorted({float(v) for row in votes for v in row if v is not None})
    place = {value: k for k, value in enumerate(values)}
    counts = np.zeros((len(votes[0]) if votes else 0, len(values)))
    for row in votes:
        for item, vote in enumerate(row):
            if vote is not None:
                counts[item, place[float(vote)]] += 1
    return counts, np.asarray(values)


class Independence(NamedTuple):
    """What a panel is worth in independent judges."""

    effective: float | None  # 1..J
    mean_correlation: float | None  # of pairs of judges
    num_judges: int


def effective_votes(errors: Votes) -> Independence:
    """n_eff = J / (1 + (J - 1) r), r the mean correlation of two judges, not below 0.

    Kish's design effect (1965, "Survey Sampling") with judges in the place of a cluster's members:
    the variance of a mean of J equally correlated votes is that of n_eff independent ones. Give
    errors (1 wrong, 0 right) where the truth is known. Of plain votes the correlation also holds
    what the judges are right about together, so n_eff is then too small rather than too large.
    Correlations are over the items both judged; a judge that never varies has none. J counts those
    who gave a vote.
    """
    voting = [row for row in errors if any(vote is not None for vote in row)]
    table_JN = np.array([[np.nan if v is None else v for v in row] for row in voting], dtype=float)
    found = [
        r
        for j in range(len(table_JN))
        for k in range(j)
        if (r := _correlation(table_JN[j], table_JN[k])) is not None
    ]
    if not found:
        return Independence(None, None, len(table_JN))
    mean = float(np.mean(found))
    effective = len(table_JN) / (1 + (len(table_JN) - 1) * max(0.0, mean))
    return Independence(effective, mean, len(table_JN))


def _correlation(a_N: Floats, b_N: Floats) -> float | None:
    both_N = ~np.isnan(a_N) & ~np.isnan(b_N)
    a, b = a_N[both_N], b_N[both_N]
    if len(a) < 2 or a.std() == 0 or b.std() == 0:
        return None
    return float(np.corrcoef(a, b)[0, 1])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None

"""Length and position as causes of a verdict, told apart by a logistic regression.

    logit P(the side of interest wins) = a + b * tanh(gap / sd)

gap: its words minus the other's, sd: root mean square gap. sigmoid(a) is then the side's win rate
at equal length, its *length-controlled* one (the device of AlpacaEval 2, Dubois et al. 2024,
arXiv:2404.04475, whose tanh keeps a very long answer from deciding the slope), and b says what
length is worth. Shapes: N verdicts, P coefficients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import norm

from stllava.metrics.interval import LEVEL, Interval

Floats = NDArray[np.float64]

# Weight of a penalty on b, not in AlpacaEval: keeps it finite for a judge that only counts words.
RIDGE = 0.1
# Error of the intercept where every pair went the same way in both orders: nothing varies, and an
# interval without width would claim to know everything.
NO_SPREAD = 1e-6
_STEPS = 100
_FEWEST = 10  # verdicts; below that nothing is fitted


class LengthModel(NamedTuple):
    """A fitted model; rates in percent. Intervals know that verdicts come in groups."""

    at_equal_length: float  # the side of interest wins so often
    at_equal_length_interval: Interval | None  # None too where no group differs from another
    slope: float  # b; 0: length does not matter
    slope_interval: Interval | None
    longer_by_sd: float  # with one sd more words, position and all else even: sigmoid(b tanh 1)
    sd_words: float
    num_items: int
    num_groups: int


def length_model(
    wins: Sequence[bool], gaps: Sequence[int], groups: Sequence[str]
) -> LengthModel | None:
    """Fit it; None with fewer than 10 verdicts. Gaps in words, of the side that `wins` is about."""
    if len(wins) < _FEWEST:
        return None
    gap_N = np.asarray(gaps, dtype=np.float64)
    sd = float(np.sqrt((gap_N**2).mean()))
    squashed_N = np.tanh(gap_N / sd) if sd else gap_N
    x_NP = np.stack([np.ones(len(gap_N)), squashed_N], axis=1)
    y_N = np.asarray(wins, dtype=np.float64)
    coefficients, covariance = _fit(x_NP, y_N, groups)
    intercept, slope = map(float, coefficients)
    errors = None if covariance is None else np.sqrt(np.diag(covariance))
    reach = float(norm.ppf(0.5 + LEVEL / 2))
    of_slope = of_rate = None
    if errors is not None:
        of_slope = Interval(slope - reach * float(errors[1]), slope + reach * float(errors[1]))
        ends = (intercept - reach * float(errors[0]), intercept + reach * float(errors[0]))
        if float(errors[0]) > NO_SPREAD:
            of_rate = Interval(_percent(ends[0]), _percent(ends[1]))
    return LengthModel(
        at_equal_length=_percent(intercept),
        at_equal_length_interval=of_rate,
        slope=slope,
        slope_interval=of_slope,
        longer_by_sd=_percent(slope * np.tanh(1.0)),
        sd_words=sd,
        num_items=len(y_N),
        num_groups=len(set(groups)),
    )


def _fit(x_NP: Floats, y_N: Floats, groups: Sequence[str]) -> tuple[Floats, Floats | None]:
    """Newton's method, and a sandwich covariance over groups (None below two).

    The intercept is penalised a hundredth as much as the slope: enough for a judge that always
    names the first to have one.
    """
    penalty_PP = np.diag([RIDGE / 100, RIDGE])
    beta = np.zeros(x_NP.shape[1])
    for _ in range(_STEPS):
        mean_N = expit(x_NP @ beta)
        hessian = (x_NP * (mean_N * (1 - mean_N))[:, None]).T @ x_NP + penalty_PP
        step = np.linalg.solve(hessian, x_NP.T @ (y_N - mean_N) - penalty_PP @ beta)
        beta = beta + step * min(1.0, 4 / max(1e-12, float(np.abs(step).max())))
        if np.abs(step).max() < 1e-9:
            break
    names = sorted(set(groups))
    if len(names) < 2:
        return beta, None
    mean_N = expit(x_NP @ beta)
    hessian = (x_NP * (mean_N * (1 - mean_N))[:, None]).T @ x_NP + penalty_PP
    scores_GP = np.zeros((len(names), x_NP.shape[1]))
    place = {name: n for n, name in enumerate(names)}
    np.add.at(scores_GP, [place[group] for group in groups], x_NP * (y_N - mean_N)[:, None])
    bread = np.linalg.inv(hessian)
    covariance: Floats = bread @ (scores_GP.T @ scores_GP) @ bread * len(names) / (len(names) - 1)
    return beta, covariance


def _percent(logit: float) -> float:
    return 100 * float(expit(logit))

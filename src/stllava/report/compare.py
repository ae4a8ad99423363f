"""How the answers of one model differ from another's: pure functions over two lists of items.

Every figure is a ratio of two sums over questions (a mean divides by their number), so one
bootstrap serves all: whole groups are resampled and both sums, of both models, follow them.
Shapes: N questions, G groups, B resamples, K sums.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from stllava.metrics.interval import LEVEL, NUM_RESAMPLES, Floats, Interval
from stllava.records import Item
from stllava.report.measures import (
    BY_KEY,
    CORRECT,
    METRICS,
    ORACLE,
    net_claims,
    part,
    show,
    show_interval,
)

MATCHED_WORDS = 1  # two answers are equally long if they differ by no more

RULE = (
    "It counts as a gain only if closed accuracy and correct claims do not fall and one of closed "
    "accuracy, recall, correct claims (up) or share of wrong claims (down) moves beyond its "
    "interval."
)
MUST_HOLD = ("accuracy", CORRECT)
MUST_MOVE = ("accuracy", "recall", CORRECT, "wrong_share")


class Estimate(NamedTuple):
    """A figure, or a difference of two, in the unit of its metric."""

    value: float
    interval: Interval | None  # 95 %; None with fewer than two groups
    num_items: int
    num_groups: int

    @property
    def direction(self) -> int:
        """1 or -1 if the interval lies wholly above or below 0, else 0."""
        if self.interval is None:
            return 0
        return int(self.interval.low > 0) - int(self.interval.high < 0)


class Wins(NamedTuple):
    """Questions on which the second model is better, as good, or worse."""

    win: int
    tie: int
    lose: int
    rate: Estimate | None  # win / (win + lose) in percent; None if all are ties


class Comparison(NamedTuple):
    """The second model minus the first, on the questions that both answered."""

    num_items: int
    num_groups: int
    num_unpaired: int  # asked or answered on one side only, left out
    changes: dict[str, Estimate]  # by metric key; only what both sides have
    wins: Wins | None  # by the oracle's score
    matched: Wins | None  # by correct minus wrong claims, among equally long answers


def estimates(
    items: Iterable[Item], *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> dict[str, Estimate]:
    """Every metric that these items have, by key, with its group-clustered interval."""
    scored = [item for item in items if not item.missing]
    found: dict[str, Estimate] = {}
    for metric in METRICS:
        pairs = [(item.group, part(item, metric.key)) for item in scored]
        parts = [(group, sums) for group, sums in pairs if sums is not None]
        estimate = _bootstrap(parts, _ratio, seed, num_resamples)
        if estimate is not None:
            found[metric.key] = estimate
    return found


def compare(
    before: Iterable[Item],
    after: Iterable[Item],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
) -> Comparison:
    """Compare two models question by question, joined by id; positive means `after` has more."""
    a = {item.id: item for item in before if not item.missing}
    b = {item.id: item for item in after if not item.missing}
    both = [(a[key], b[key]) for key in sorted(a.keys() & b.keys())]
    changes: dict[str, Estimate] = {}
    for metric in METRICS:
        parts = [
            (x.group, (*part_x, *part_y))
            for x, y in both
            if (part_x := part(x, metric.key)) is not None
            and (part_y := part(y, metric.key)) is not None
        ]
        change = _bootstrap(parts, _difference, seed, num_resamples)
        if change is not None:
            changes[metric.key] = change
    matched = [(x, y) for x, y in both if abs(x.answer_words - y.answer_words) <= MATCHED_WORDS]
    return Comparison(
        num_items=len(both),
        num_groups=len({x.group for x, _ in both}),
        num_unpaired=len(a.keys() ^ b.keys()),
        changes=changes,
        wins=_wins(both, lambda item: item.metrics.get(ORACLE), seed, num_resamples),
        matched=_wins(matched, net_claims, seed, num_resamples),
    )


def gain(comparison: Comparison) -> tuple[bool, str]:
    """Whether RULE is met, and one sentence that says why, with the figures."""
    changes = comparison.changes
    fallen = [key for key in MUST_HOLD if key in changes and changes[key].direction < 0]
    moved = [
        key for key in MUST_MOVE if key in changes and changes[key].direction == BY_KEY[key].better
    ]
    absent = [BY_KEY[key].label for key in MUST_MOVE if key not in changes]
    note = f" Not measured here: {', '.join(absent)}." if absent else ""
    if fallen:
        return False, f"Not met: {_listed(fallen, changes)} fell.{note}"
    if not moved:
        return False, f"Not met: none of the four moved beyond its interval.{note}"
    return True, f"Met: {_listed(moved, changes)}, and nothing that must hold fell.{note}"


def show_change(key: str, change: Estimate) -> str:
    """As "closed accuracy +1.2 points [0.3, 2.1]"."""
    metric = BY_KEY[key]
    unit = "points" if metric.unit == "%" else metric.unit
    value = show(key, change.value, sign=True)
    return f"{metric.label} {value} {unit} {show_interval(key, change.interval)}".rstrip()


def _listed(keys: Sequence[str], changes: dict[str, Estimate]) -> str:
    return ", ".join(show_change(key, changes[key]) for key in keys)


def _wins(
    both: Iterable[tuple[Item, Item]],
    value_of: Callable[[Item], float | None],
    seed: int,
    num_resamples: int,
) -> Wins | None:
    """None if no question has the value on both sides."""
    deltas = [
        (x.group, b - a)
        for x, y in both
        if (a := value_of(x)) is not None and (b := value_of(y)) is not None
    ]
    if not deltas:
        return None
    decided = [(group, (100.0 * (delta > 0), 1.0)) for group, delta in deltas if delta]
    win = sum(delta > 0 for _, delta in deltas)
    rate = _bootstrap(decided, _ratio, seed, num_resamples)
    return Wins(win, len(deltas) - len(decided), len(decided) - win, rate)


def _ratio(sums_BK: Floats) -> Floats:
    result: Floats = sums_BK[:, 0] / sums_BK[:, 1]
    return result


def _difference(sums_BK: Floats) -> Floats:
    return _ratio(sums_BK[:, 2:]) - _ratio(sums_BK[:, :2])


def _bootstrap(
    parts: Sequence[tuple[str, tuple[float, ...]]],
    statistic: Callable[[Floats], Floats],
    seed: int,
    num_resamples: int,
) -> Estimate | None:
    """The statistic of all sums, with its percentile interval; None if it has no value."""
    if not parts:
        return None
    parts_NK = np.array([part for _, part in parts], dtype=np.float64)
    names, index_N = np.unique([group for group, _ in parts], return_inverse=True)
    sums_GK = np.zeros((len(names), parts_NK.shape[1]))
    np.add.at(sums_GK, index_N, parts_NK)
    with np.errstate(divide="ignore", invalid="ignore"):  # a resample may hold no denominator
        value = float(statistic(sums_GK.sum(axis=0, keepdims=True))[0])
        if not np.isfinite(value):
            return None
        values_B = statistic(_times_drawn(len(names), seed, num_resamples) @ sums_GK)
    values_B = values_B[np.isfinite(values_B)]
    interval = None
    if len(names) > 1 and len(values_B):
        tail = 50 * (1 - LEVEL)
        low, high = np.percentile(values_B, [tail, 100 - tail])
        interval = Interval(float(low), float(high))
    return Estimate(value, interval, len(parts), len(names))


@lru_cache(maxsize=4)  # the metrics of one benchmark share a handful of group counts
def _times_drawn(num_groups: int, seed: int, num_resamples: int) -> Floats:
    """(B, G): how often each group is drawn; the very draws of metrics.interval for this seed."""
    share = np.full(num_groups, 1 / num_groups)
    rng = np.random.default_rng(seed)
    return rng.multinomial(num_groups, share, size=num_resamples).astype(np.float64)

"""Agreement beyond chance: against statsmodels, a published example and plain counting."""

import itertools
import random

import numpy as np
import pytest
from statsmodels.stats.inter_rater import cohens_kappa
from statsmodels.stats.inter_rater import fleiss_kappa as oracle_fleiss

from stllava.judging.audit.agreement import (
    cohen_kappa,
    effective_votes,
    fleiss_kappa,
    kappa_with_interval,
    krippendorff_alpha,
)

# Krippendorff (2011), "Computing Krippendorff's Alpha-Reliability", section C: four observers,
# twelve units; section D and E give 0.743 (nominal) and 0.849 (interval).
_ = None
PUBLISHED = (
    (1, 2, 3, 3, 2, 1, 4, 1, 2, _, _, _),
    (1, 2, 3, 3, 2, 2, 4, 1, 2, 5, _, 3),
    (_, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, _),
    (1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, _),
)


def alpha_by_counting(votes, distance):
    """1 - mean distance within items / mean distance between any two pairable votes."""
    items = [[v for v in item if v is not None] for item in zip(*votes, strict=True)]
    items = [item for item in items if len(item) > 1]
    pooled = [vote for item in items for vote in item]
    within = sum(
        sum(distance(a, b) for a, b in itertools.permutations(item, 2)) / (len(item) - 1)
        for item in items
    )
    between = sum(distance(a, b) for a, b in itertools.permutations(pooled, 2))
    return 1 - (within / len(pooled)) / (between / (len(pooled) * (len(pooled) - 1)))


def ratings(seed, judges=3, items=60, missing=0.0, noise=0.4):
    rng = random.Random(seed)
    truth = [rng.choice((-1, 0, 1)) for _ in range(items)]

    def vote(value):
        value = rng.choice((-1, 0, 1)) if rng.random() < noise else value
        return None if rng.random() < missing else value

    return [[vote(value) for value in truth] for _ in range(judges)]


def table(a, b):
    names = sorted({*a, *b})
    return np.array(
        [[sum(p == (x, y) for p in zip(a, b, strict=True)) for y in names] for x in names]
    )


@pytest.mark.parametrize("seed", range(4))
def test_cohens_kappa_is_statsmodels(seed):
    a, b = ratings(seed, judges=2)
    assert cohen_kappa(a, b) == pytest.approx(cohens_kappa(table(a, b)).kappa)


@pytest.mark.parametrize("seed", range(4))
def test_fleiss_kappa_is_statsmodels(seed):
    votes = ratings(seed, judges=5)
    counts = [[item.count(k) for k in (-1, 0, 1)] for item in zip(*votes, strict=True)]
    assert fleiss_kappa(counts) == pytest.approx(oracle_fleiss(np.array(counts)))


def test_fleiss_kappa_refuses_unequal_numbers_of_raters():
    with pytest.raises(ValueError, match="same number"):
        fleiss_kappa([[2, 0], [2, 1]])


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("interval", 0.849)])
def test_alpha_is_that_of_the_published_example(level, published):
    assert krippendorff_alpha(PUBLISHED, level) == pytest.approx(published, abs=5e-4)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.7])
def test_alpha_is_what_counting_pairs_of_votes_gives(missing):
    votes = ratings(7, judges=4, items=25, missing=missing)
    nominal = alpha_by_counting(votes, lambda a, b: float(a != b))
    interval = alpha_by_counting(votes, lambda a, b: float((a - b) ** 2))
    assert krippendorff_alpha(votes) == pytest.approx(nominal)
    assert krippendorff_alpha(votes, "interval") == pytest.approx(interval)


def test_agreement_is_undefined_where_everybody_always_says_the_same():
    assert cohen_kappa([1, 1], [1, 1]) is None
    assert fleiss_kappa([[3, 0], [3, 0]]) is None
    assert krippendorff_alpha([[1, 1], [1, 1]]) is None
    assert krippendorff_alpha([[1, None], [None, 1]]) is None
    assert kappa_with_interval([None], [1], ["g"]) == (None, None, None, 0, 0)


def test_perfect_and_opposite_raters_have_kappa_1_and_minus_1():
    assert cohen_kappa([0, 1, 0, 1], [0, 1, 0, 1]) == 1
    assert cohen_kappa([0, 1, 0, 1], [1, 0, 1, 0]) == -1


def test_kappas_interval_holds_it_and_is_near_statsmodels_where_items_are_independent():
    a, b = ratings(1, judges=2, items=400)
    found = kappa_with_interval(a, b, [str(n) for n in range(400)])
    oracle = cohens_kappa(table(a, b))
    assert found.interval.low < found.kappa < found.interval.high
    assert found.interval.low == pytest.approx(oracle.kappa_low, abs=0.02)
    assert found.interval.high == pytest.approx(oracle.kappa_upp, abs=0.02)


def test_kappas_interval_is_wider_where_items_of_a_group_are_copies():
    a, b = ratings(1, judges=2, items=100)
    alone = kappa_with_interval(a, b, [str(n) for n in range(100)]).interval
    groups = [str(n % 100) for n in range(400)]
    copies = kappa_with_interval(a * 4, b * 4, groups)
    naive = kappa_with_interval(a * 4, b * 4, [str(n) for n in range(400)]).interval
    assert copies.num_groups == 100
    assert copies.interval == pytest.approx(alone)
    assert copies.interval.high - copies.interval.low > 1.7 * (naive.high - naive.low)


def test_copies_of_one_judge_are_worth_one_and_independent_ones_are_worth_all():
    rng = np.random.default_rng(0)
    one = rng.integers(0, 2, 4000).tolist()
    assert effective_votes([one] * 9).effective == pytest.approx(1)
    independent = rng.integers(0, 2, (5, 4000)).tolist()
    assert effective_votes(independent).effective == pytest.approx(5, rel=0.1)


def test_equally_correlated_judges_are_worth_what_kish_says():
    rng = np.random.default_rng(0)
    common = rng.normal(size=20_000)
    votes = [(0.5**0.5 * (common + rng.normal(size=20_000))).tolist() for _ in range(9)]
    found = effective_votes(votes)
    assert found.mean_correlation == pytest.approx(0.5, abs=0.02)
    assert found.effective == pytest.approx(9 / (1 + 8 * 0.5), rel=0.03)


def test_a_judge_that_never_varies_has_no_correlation():
    assert effective_votes([[1, 1, 1], [0, 1, 0]]) == (None, None, 2)


def test_a_judge_without_a_vote_is_worth_none():
    votes = [[1, -1, 1, -1, 1, 1], [1, 1, -1, -1, 1, -1]]
    silent = [None] * 6
    assert effective_votes([*votes, silent]) == effective_votes(votes)
    assert effective_votes([silent, silent]) == (None, None, 0)

"""How far several judges agree, how many independent ones they are worth, and who stands apart."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

from stllava.judging.audit.agreement import (
    Votes,
    effective_votes,
    fleiss_kappa,
    kappa_with_interval,
    krippendorff_alpha,
)
from stllava.judging.audit.pairs import Decision
from stllava.records import JSONObject


def panel(decisions: Iterable[Decision], groups: Mapping[str, str]) -> JSONObject:
    """Agreement of several judges: pairwise kappas, Fleiss, alpha, n_eff, and each left out.

    Votes are 1, 0 (tie) and -1; an inconsistent or failed judge has none there. `groups`: name of
    a pair -> patient or case. Correlations are of votes, so n_eff is a lower bound (see
    `agreement.effective_votes`).
    """
    votes: dict[str, dict[str, int]] = defaultdict(dict)
    for decision in decisions:
        votes[decision.judge]
        if decision.vote is not None:
            votes[decision.judge][decision.name] = decision.vote
    judges = sorted(votes)
    names = sorted({name for own in votes.values() for name in own})
    table = [[votes[judge].get(name) for name in names] for judge in judges]
    independence = effective_votes(table)
    return {
        "judges": judges,
        "pairs": len(names),
        "votes": {judge: len(votes[judge]) for judge in judges},
        "kappas": [
            {"a": judges[a], "b": judges[b], **_kappa(table[a], table[b], names, groups)}
            for a, b in combinations(range(len(judges)), 2)
        ],
        **_alphas(table),
        "n_eff": independence.effective,
        "mean_correlation": independence.mean_correlation,
        "left_out": {judge: _without(n, table, names, groups) for n, judge in enumerate(judges)},
    }


def _kappa(
    a: Sequence[int | None],
    b: Sequence[int | None],
    names: Sequence[str],
    groups: Mapping[str, str],
) -> JSONObject:
    return kappa_with_interval(a, b, [groups.get(name, name) for name in names])._asdict()


def _alphas(table: Votes) -> JSONObject:
    whole = [item for item in zip(*table, strict=True) if None not in item]
    counts = [[item.count(vote) for vote in (-1, 0, 1)] for item in whole]
    return {
        "fleiss_kappa": fleiss_kappa(counts) if counts and len(table) > 1 else None,
        "fleiss_pairs": len(counts),
        "alpha_nominal": krippendorff_alpha(table),
        "alpha_interval": krippendorff_alpha(table, "interval"),
    }


def _without(
    left_out: int,
    table: Sequence[Sequence[int | None]],
    names: Sequence[str],
    groups: Mapping[str, str],
) -> JSONObject:
    """Alpha and n_eff of the others, and kappa of the one against their majority."""
    others = [row for n, row in enumerate(table) if n != left_out]
    majority = [_most(item) for item in zip(*others, strict=True)]
    return {
        "alpha_nominal": krippendorff_alpha(others),
        "n_eff": effective_votes(others).effective,
        "kappa_with_the_others": _kappa(table[left_out], majority, names, groups),
    }


def _most(item: Iterable[int | None]) -> int | None:
    votes = Counter(vote for vote in item if vote is not None)
    if not votes:
        return None
    vote, number = votes.most_common(1)[0]
    return vote if 2 * number > votes.total() else None

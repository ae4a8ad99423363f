"""Which trees go through the model together: bins of a token budget, and the rows inside them.

A batch is R rows of T tokens, T being its longest tree; a row holds several trees, one after
another, if they fit. What a batch costs is R x T, padding included.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

X = TypeVar("X")


def arrange_rows(sizes: Sequence[int]) -> list[list[int]]:
    """Trees (by index) in rows as wide as the largest: first fit, largest first."""
    width = max(sizes)
    rows: list[list[int]] = []
    used: list[int] = []
    for tree in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        fits = (row for row in range(len(rows)) if used[row] + sizes[tree] <= width)
        row = next(fits, None)
        if row is None:
            rows.append([tree])
            used.append(sizes[tree])
        else:
            rows[row].append(tree)
            used[row] += sizes[tree]
    return rows


def num_tokens(sizes: Sequence[int]) -> int:
    """R x T of a batch of trees of these sizes."""
    return len(arrange_rows(sizes)) * max(sizes)


def pack_bins(items: Sequence[X], size_of: Callable[[X], int], budget: int) -> list[list[X]]:
    """Cut items into batches of at most `budget` tokens, largest first; one too large is alone."""
    bins: list[list[X]] = []
    for item in sorted(items, key=lambda x: -size_of(x)):
        if bins and num_tokens([*map(size_of, bins[-1]), size_of(item)]) <= budget:
            bins[-1].append(item)
        else:
            bins.append([item])
    return bins


def split_group(
    members: Sequence[X], size_of: Callable[[Sequence[X]], int], budget: int
) -> list[list[X]]:
    """Cut one image's members, in order, into runs whose trees fit the budget.

    A member that alone is larger stays alone: it cannot be split further.
    """
    runs: list[list[X]] = []
    for member in members:
        if runs and size_of([*runs[-1], member]) <= budget:
            runs[-1].append(member)
        else:
            runs.append([member])
    return runs


def share_out(items: Sequence[X], size_of: Callable[[X], int], ranks: int) -> list[list[X]]:
    """Deal items to ranks so that their tokens, not their number, are balanced."""
    shares: list[list[X]] = [[] for _ in range(ranks)]
    load = [0] * ranks
    for item in sorted(items, key=lambda x: -size_of(x)):
        rank = load.index(min(load))
        shares[rank].append(item)
        load[rank] += size_of(item)
    return shares

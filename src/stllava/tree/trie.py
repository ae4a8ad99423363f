"""Token sequences merged into a prefix trie, flattened depth-first.

A token is stored once for all sequences that agree up to and including it. Shared beginnings are
found by comparing ids alone: system text, image, question and equal first words are one case.

Index k is an ancestor of q, or q itself, iff `k <= q < end[k]`: all that attention has to know.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Trie:
    """Flat trie; T nodes. A node's parent has a smaller index, its subtree is contiguous."""

    ids: list[int] = field(default_factory=list)  # (T,)
    parents: list[int] = field(default_factory=list)  # (T,), -1 above the first token
    depths: list[int] = field(default_factory=list)  # (T,) ancestors: the position in the text
    ends: list[int] = field(default_factory=list)  # (T,) one past the last node of the subtree
    paths: list[list[int]] = field(default_factory=list)  # per sequence: the nodes of its tokens

    def __len__(self) -> int:
        return len(self.ids)


def build_trie(sequences: Sequence[Sequence[int]]) -> Trie:
    """Merge the sequences; branches keep the order in which they first come up."""
    trie = Trie(paths=[[] for _ in sequences])
    waiting = [(list(range(len(sequences))), 0, -1)]  # members that agree on their first tokens
    while waiting:
        members, depth, parent = waiting.pop()
        stop = depth + _agreement([sequences[m] for m in members], depth)
        first = len(trie.ids)
        run = range(first, first + stop - depth)
        trie.ids += sequences[members[0]][depth:stop]
        trie.parents += [parent, *run[:-1]] if run else []
        trie.depths += range(depth, stop)
        branches: dict[int, list[int]] = {}
        for m in members:
            trie.paths[m] += run
            if len(sequences[m]) > stop:
                branches.setdefault(sequences[m][stop], []).append(m)
        above = run[-1] if run else parent
        waiting += [(group, stop, above) for group in reversed(branches.values())]
    trie.ends = _subtree_ends(trie.parents)
    return trie


def _agreement(sequences: Sequence[Sequence[int]], start: int) -> int:
    """How many tokens from `start` on all of them have in common."""
    tails = [list(s[start:]) for s in sequences]
    low, high = min(tails), max(tails)  # lexicographic: all others lie between
    for i, (a, b) in enumerate(zip(low, high, strict=False)):
        if a != b:
            return i
    return min(len(low), len(high))


def _subtree_ends(parents: Sequence[int]) -> list[int]:
    ends = [node + 1 for node in range(len(parents))]
    for node in reversed(range(len(parents))):
        if parents[node] >= 0:
            ends[parents[node]] = max(ends[parents[node]], ends[node])
    return ends

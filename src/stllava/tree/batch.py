"""Sequences of tokens to one batch of trees, and where each learned token is predicted.

Shapes: R rows, T tokens, S sequences, N learned tokens, P predictors (P <= N: one hidden state
serves all branches that leave it).
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from stllava.tree.bins import arrange_rows
from stllava.tree.trie import Trie, build_trie

# Positions of one sequence's tokens, (D, L): D is 1, or 3 for time, height and width.
PositionsOf = Callable[[Sequence[int], Hashable], np.ndarray]


class Learnable(Protocol):
    """A token sequence; `learned` is 0 where a token carries no loss, else any code."""

    @property
    def ids(self) -> Sequence[int]: ...

    @property
    def learned(self) -> Sequence[int]: ...


@dataclass
class TreeBatch:
    """Trees in rows. The pixels of `images` go into `vision` in their order.

    Padding has id 0 and sees itself alone.
    """

    ids: Tensor  # (R, T)
    depths: Tensor  # (R, T) ancestors of each token
    positions: Tensor  # (R, T), or (3, R, T)
    ends: Tensor  # (R, T) one past the subtree, within the row
    predictors: Tensor  # (P,) flat index into R x T of the tokens whose logits are needed
    slots: Tensor  # (N,) index into predictors: the learned token's parent
    targets: Tensor  # (N,) its id
    sequence: Tensor  # (N,) the sequence it belongs to
    codes: Tensor  # (N,) what `learned` said
    last: Tensor  # (S,) flat index of each sequence's last token
    images: tuple[Hashable, ...]  # row by row, one per tree
    num_given: int  # tokens of all sequences before merging
    shared: bool = True  # False: every sequence is a row of its own
    vision: dict[str, Tensor] = field(default_factory=dict)  # the model's image arguments

    def to(self, device: torch.device | str) -> TreeBatch:
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if torch.is_tensor(value)
        }
        vision = {name: value.to(device) for name, value in self.vision.items()}
        return replace(self, **moved, vision=vision)


def pack(
    sequences: Sequence[Learnable],
    images: Sequence[Hashable],
    *,
    share: bool = True,
    positions_of: PositionsOf | None = None,
    multiple_of: int = 1,
) -> TreeBatch:
    """Merge sequences of the same image into trees and lay these out in rows.

    `images[s]` names the image of sequence s. With `share` False each sequence is a tree of its
    own. Rows are padded to a multiple of `multiple_of`.
    """
    groups: dict[Hashable, list[int]] = {}
    for s, image in enumerate(images):
        groups.setdefault(image if share else s, []).append(s)
    members = list(groups.values())
    tries = [build_trie([sequences[s].ids for s in group]) for group in members]
    sizes = [len(trie) for trie in tries]
    rows = arrange_rows(sizes) if share else [[t] for t in range(len(tries))]
    width = max(sum(len(tries[t]) for t in row) for row in rows)
    width = -(-width // multiple_of) * multiple_of
    flat = _Flat(len(rows), width, dims=1 if positions_of is None else 3)
    order = []
    for r, row in enumerate(rows):
        start = 0
        for t in row:
            flat.put(tries[t], r, start)
            for s, path in zip(members[t], tries[t].paths, strict=True):
                nodes = np.asarray(path) + start
                flat.learn(s, nodes, sequences[s])
                if positions_of is not None:
                    flat.positions[:, r, nodes] = positions_of(sequences[s].ids, images[s])
            order.append(images[members[t][0]])
            start += len(tries[t])
    given = sum(len(s.ids) for s in sequences)
    return flat.batch(len(sequences), tuple(order), num_given=given, shared=share)


def stack_images(parts: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Image arguments of several images as those of a batch; missing tiles are zeros."""

    def stack(tensors: Sequence[Tensor]) -> Tensor:
        most = max(x.shape[1] for x in tensors)
        tiles = [F.pad(x, [0, 0] * (x.ndim - 2) + [0, most - x.shape[1]]) for x in tensors]
        return torch.cat(tiles)

    return {name: stack([part[name] for part in parts]) for name in parts[0]}


class _Flat:
    """The arrays of a batch while trees are laid into it."""

    def __init__(self, num_rows: int, width: int, *, dims: int) -> None:
        self.width, self.dims = width, dims
        self.ids = np.zeros((num_rows, width), np.int64)
        self.depths = np.zeros_like(self.ids)
        self.ends = np.tile(np.arange(1, width + 1), (num_rows, 1))
        self.positions = np.zeros((dims, num_rows, width), np.int64)
        self.row = 0
        self.parents = np.empty(0, np.int64)
        self.learned: dict[int, np.ndarray] = {}
        self.last: dict[int, int] = {}

    def put(self, trie: Trie, row: int, start: int) -> None:
        here = slice(start, start + len(trie))
        self.ids[row, here] = trie.ids
        self.depths[row, here] = trie.depths
        self.positions[:, row, here] = trie.depths
        self.ends[row, here] = np.asarray(trie.ends) + start
        self.row = row

    def learn(self, number: int, nodes: np.ndarray, sequence: Learnable) -> None:
        """Columns: predictor, target, sequence, code. The first token has none before it."""
        offset = self.row * self.width
        codes = np.asarray(sequence.learned)
        at = np.flatnonzero(codes[1:]) + 1
        columns = (nodes[at - 1] + offset, np.asarray(sequence.ids)[at], codes[at])
        predictor, target, code = columns
        self.learned[number] = np.stack([predictor, target, np.full_like(at, number), code])
        self.last[number] = int(nodes[-1]) + offset

    def batch(
        self, num: int, images: tuple[Hashable, ...], *, num_given: int, shared: bool
    ) -> TreeBatch:
        table = np.concatenate([self.learned[s] for s in range(num)], axis=1)
        predictors, slots = np.unique(table[0], return_inverse=True)
        return TreeBatch(
            ids=torch.from_numpy(self.ids),
            depths=torch.from_numpy(self.depths),
            positions=torch.from_numpy(self.positions[0] if self.dims == 1 else self.positions),
            ends=torch.from_numpy(self.ends),
            predictors=torch.from_numpy(predictors),
            slots=torch.from_numpy(slots),
            targets=torch.from_numpy(table[1].copy()),
            sequence=torch.from_numpy(table[2].copy()),
            codes=torch.from_numpy(table[3].copy()),
            last=torch.tensor([self.last[s] for s in range(num)]),
            images=images,
            num_given=num_given,
            shared=shared,
        )

"""Tries, bins, packing and blocks: what the token tree does to sequences before any model runs."""

from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from stllava.chat import Tokens
from stllava.tree import blocks, pack
from stllava.tree.bins import arrange_rows, num_tokens, pack_bins, share_out, split_group
from stllava.tree.mask import attention_mask
from stllava.tree.rules import CAUSAL
from stllava.tree.trie import build_trie

few_ids = st.integers(1, 3)  # few, so that beginnings agree often; 0 is padding
ragged = st.lists(st.lists(few_ids, max_size=9), min_size=1, max_size=7)

DUPLICATES = [[1, 2, 3], [1, 2, 3], [1, 2, 3]]
ONE_BEGINS_ANOTHER = [[1, 2, 3], [1, 2], [1, 2, 3, 1]]
NOTHING_SHARED = [[1, 2], [2, 1], [3]]


def with_examples(test):
    for sequences in (DUPLICATES, ONE_BEGINS_ANOTHER, NOTHING_SHARED, [[]]):
        test = example(sequences)(test)
    return given(ragged)(test)


def beginnings(sequences, depth=0):
    """Distinct beginnings, walked depth-first; branches in the order in which they come up."""
    branches = {}
    for sequence in sequences:
        if len(sequence) > depth:
            branches.setdefault(sequence[depth], []).append(sequence)
    for group in branches.values():
        yield tuple(group[0][: depth + 1])
        yield from beginnings(group, depth + 1)


def ancestors(trie, node):
    """The node and all above it, from the root on."""
    return [*ancestors(trie, trie.parents[node]), node] if node >= 0 else []


@with_examples
def test_every_path_spells_its_sequence(sequences):
    trie = build_trie(sequences)
    for sequence, path in zip(sequences, trie.paths, strict=True):
        assert [trie.ids[node] for node in path] == sequence
        assert [trie.parents[node] for node in path] == [-1, *path][: len(path)]


@with_examples
def test_nodes_are_the_distinct_beginnings_depth_first(sequences):
    trie = build_trie(sequences)
    spelled = [tuple(trie.ids[k] for k in ancestors(trie, node)) for node in range(len(trie))]
    assert spelled == list(beginnings(sequences))
    assert trie.depths == [len(beginning) - 1 for beginning in spelled]


@with_examples
def test_ends_say_who_is_an_ancestor(sequences):
    trie = build_trie(sequences)
    for node in range(len(trie)):
        seen = [k for k in range(len(trie)) if k <= node < trie.ends[k]]
        assert seen == ancestors(trie, node)


# Bins

sizes = st.lists(st.integers(1, 20), min_size=1, max_size=12)
budgets = st.integers(1, 60)


@given(sizes)
def test_rows_hold_every_tree_once_and_are_no_wider_than_the_largest(sizes):
    rows = arrange_rows(sizes)
    assert sorted(tree for row in rows for tree in row) == list(range(len(sizes)))
    assert all(sum(sizes[tree] for tree in row) <= max(sizes) for row in rows)
    assert num_tokens(sizes) == len(rows) * max(sizes)


@given(sizes, budgets)
def test_bins_lose_nothing_and_keep_to_the_budget(sizes, budget):
    items = list(enumerate(sizes))
    bins = pack_bins(items, lambda item: item[1], budget)
    assert sorted(item for group in bins for item in group) == items
    assert all(len(g) == 1 or num_tokens([size for _, size in g]) <= budget for g in bins)


@given(ragged, budgets)
def test_a_group_is_split_in_order_into_trees_within_the_budget(sequences, budget):
    def tree_size(members):
        return len(build_trie(members))

    runs = split_group(sequences, tree_size, budget)
    assert [member for run in runs for member in run] == sequences
    assert all(len(run) == 1 or tree_size(run) <= budget for run in runs)
    for run, following in pairwise(runs):
        assert tree_size([*run, following[0]]) > budget


@given(sizes, st.integers(1, 5))
def test_ranks_get_all_items_and_loads_within_one_item(sizes, ranks):
    items = list(enumerate(sizes))
    shares = share_out(items, lambda item: item[1], ranks)
    assert sorted(item for share in shares for item in share) == items
    loads = [sum(size for _, size in share) for share in shares]
    assert len(loads) == ranks
    assert max(loads) - min(loads) <= max(sizes)


# Packing

learned_tokens = st.lists(st.tuples(few_ids, st.integers(0, 2)), min_size=1, max_size=9)
labelled = st.lists(
    st.tuples(learned_tokens.map(lambda pairs: Tokens(*map(list, zip(*pairs, strict=True)))),
              st.sampled_from("abc")),
    min_size=1, max_size=7,
)  # fmt: skip


def packed(pairs, **options):
    texts, images = zip(*pairs, strict=True)
    return texts, images, pack(texts, images, **options)


def spelled(batch, flat):
    """Ids of a token's ancestors and its own, by the flat index."""
    row, node = divmod(int(flat), batch.ids.shape[1])
    ids, ends = batch.ids[row].tolist(), batch.ends[row].tolist()
    return tuple(ids[k] for k in range(node + 1) if node < ends[k])


@settings(max_examples=50, deadline=None)
@given(labelled, st.booleans(), st.sampled_from([1, 8]))
def test_every_learned_token_but_a_first_one_is_predicted_from_its_own_beginning(
    pairs, share, multiple_of
):
    texts, _, batch = packed(pairs, share=share, multiple_of=multiple_of)
    expected = [
        (number, tuple(text.ids[:at]), text.ids[at], text.learned[at])
        for number, text in enumerate(texts)
        for at in range(1, len(text.ids))
        if text.learned[at]
    ]
    before = [spelled(batch, batch.predictors[slot]) for slot in batch.slots]
    columns = (batch.sequence.tolist(), before, batch.targets.tolist(), batch.codes.tolist())
    assert list(zip(*columns, strict=True)) == expected
    assert [spelled(batch, at) for at in batch.last] == [tuple(text.ids) for text in texts]
    assert sorted(set(batch.slots.tolist())) == list(range(len(batch.predictors)))


@settings(max_examples=50, deadline=None)
@given(labelled, st.booleans(), st.sampled_from([1, 8]))
def test_a_batch_holds_each_images_beginnings_once_and_else_padding_that_sees_itself(
    pairs, share, multiple_of
):
    texts, _, batch = packed(pairs, share=share, multiple_of=multiple_of)
    groups = {}
    for number, (text, image) in enumerate(pairs):
        groups.setdefault(image if share else number, []).append(text.ids)
    wanted = Counter(beginning for group in groups.values() for beginning in beginnings(group))
    is_text = batch.ids > 0
    assert Counter(spelled(batch, at) for at in is_text.flatten().nonzero()) == wanted
    assert batch.num_given == sum(len(t.ids) for t in texts)
    assert batch.ids.shape[1] % multiple_of == 0
    assert torch.equal(batch.positions, batch.depths)
    index = torch.arange(batch.ids.shape[1]).expand_as(batch.ids)
    assert torch.equal(batch.ends[~is_text], index[~is_text] + 1)
    assert not batch.positions[~is_text].any()
    assert all(len(spelled(batch, at)) == 1 for at in (~is_text).flatten().nonzero())


@settings(max_examples=50, deadline=None)
@given(labelled, st.booleans())
def test_images_are_named_in_the_order_of_their_trees(pairs, share):
    marks = {"a": 11, "b": 12, "c": 13}
    marked = [(Tokens([marks[i], *t.ids], [0, *t.learned]), i) for t, i in pairs]
    _, images, batch = packed(marked, share=share)
    roots = (batch.ids > 10).flatten().nonzero().squeeze(-1)
    assert batch.ids.flatten()[roots].tolist() == [marks[name] for name in batch.images]
    assert len(batch.images) == (len(set(images)) if share else len(images))


def test_small_trees_stand_in_one_row_without_seeing_each_other():
    texts = [Tokens(ids, [1] * len(ids)) for ids in ([1, 2, 3, 4, 5], [1, 2], [1, 2, 3])]
    batch = pack(texts, ["a", "b", "c"])
    assert batch.ids.tolist() == [[1, 2, 3, 4, 5], [1, 2, 3, 1, 2]]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 0, 1]]
    assert batch.ends.tolist() == [[5, 5, 5, 5, 5], [3, 3, 3, 5, 5]]
    assert batch.images == ("a", "c", "b")


def test_positions_of_a_model_with_three_axes_lie_at_their_tokens():
    def positions_of(ids, image):
        along = np.arange(len(ids))
        return np.stack([along, along * 10, along * 100])

    texts = [Tokens(ids, [1] * len(ids)) for ids in ([1, 2, 3], [1, 4])]
    batch = pack(texts, ["a", "a"], positions_of=positions_of)
    assert batch.ids.tolist() == [[1, 2, 3, 4]]
    assert batch.positions.tolist() == [[[0, 1, 2, 1]], [[0, 10, 20, 10]], [[0, 100, 200, 100]]]


# Blocks


@settings(max_examples=50, deadline=None)
@given(labelled, st.integers(1, 20), st.sampled_from([1, 8]))
def test_blocks_cover_every_token_once_under_the_dense_mask(pairs, limit, multiple_of):
    *_, batch = packed(pairs, multiple_of=multiple_of)
    assume(batch.ids.shape[1] > 1)
    dense = attention_mask(batch, CAUSAL, "dense", image_id=0)[:, 0]
    index = torch.arange(batch.ids.shape[1])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LIMIT", limit)
        plan = blocks.plan_blocks(attention_mask(batch, CAUSAL, "blocks", image_id=0))
    for row, (row_blocks, ends) in enumerate(zip(plan, batch.ends.tolist(), strict=True)):
        covered = [query for block in row_blocks for query in range(block.start, block.stop)]
        assert covered == index.tolist()
        sees = torch.zeros_like(dense[row])
        for block in row_blocks:
            queries = index[block.start : block.stop, None]
            keys = block.keys(index[:, None]).squeeze(-1)
            sees[queries, keys] = keys <= queries if block.mask is None else block.mask
            unbranched = len(set(ends[block.start : block.stop])) == 1
            assert unbranched or block.stop - block.start <= limit
        assert torch.equal(sees, dense[row])


def test_a_plan_is_made_once_per_tensor():
    ends = torch.tensor([[[[3, 2, 3]]]])
    assert blocks.plan_blocks(ends) is blocks.plan_blocks(ends)
    assert blocks.plan_blocks(ends.clone()) is not blocks.plan_blocks(ends)

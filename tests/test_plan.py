"""Steps hold exactly their records, micro-batches at most their tokens; images stay together."""

from itertools import groupby

import pytest
import stages
import toy
from hypothesis import given
from hypothesis import strategies as st

from stllava.chat import ANSWER, Tokens
from stllava.training.objective import Example
from stllava.training.plan import first_micro_batch, plan_micro_batches, plan_steps, tree_size
from stllava.tree import pack

ids_strategy = st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=25)
sizes = st.integers(1, 7)


# Steps


def image_of(record_id):
    """Records whose ids begin alike show the same image."""
    return record_id[0]


@given(ids_strategy, sizes, st.integers(0, 4), st.integers(0, 3), st.randoms())
def test_plan_loses_no_record_and_fills_every_step_but_the_last(ids, size, epochs, seed, rng):
    fields = {"batch_size": size, "epochs": epochs, "seed": seed, "image_of": image_of}
    plan = plan_steps(ids, **fields)
    flat = [record for step in plan for record in step.records]
    assert sorted(flat) == sorted((i, epoch) for i in ids for epoch in range(epochs))
    assert [epoch for _, epoch in flat] == sorted(epoch for _, epoch in flat)
    assert all(len(step.records) == size for step in plan[:-1])
    assert all(1 <= len(step.records) <= size for step in plan[-1:])
    rng.shuffle(ids)
    assert plan_steps(ids, **fields) == plan


@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.integers(0, 99)), unique=True, max_size=25),
    sizes,
    st.integers(0, 3),
)
def test_plan_keeps_the_records_of_an_image_together_in_every_epoch(pairs, size, seed):
    ids = [f"{image}{number}" for image, number in pairs]
    plan = plan_steps(ids, batch_size=size, epochs=2, seed=seed, image_of=image_of)
    flat = [record for step in plan for record in step.records]
    runs = [key for key, _ in groupby(flat, key=lambda record: (image_of(record[0]), record[1]))]
    assert len(runs) == len(set(runs)) == 2 * len({image for image, _ in pairs})


def test_plan_changes_with_seed_and_epoch():
    ids = [f"r{i}" for i in range(30)]
    first = plan_steps(ids, batch_size=30, epochs=2, seed=0)
    orders = [tuple(i for i, _ in step.records) for step in first]
    other = plan_steps(ids, batch_size=30, epochs=1, seed=1)
    orders += [tuple(i for i, _ in step.records) for step in other]
    assert len(set(orders)) == 3


def test_plan_does_not_touch_the_callers_ids():
    ids = ["b", "a", "c"]
    plan_steps(ids, batch_size=2, epochs=2, seed=0)
    assert ids == ["b", "a", "c"]


# Micro-batches

SHARED = 10  # tokens that all texts about an image begin with


def example(number, image, lengths):
    """A record with a text of its own tokens for each of `lengths`, after the image's."""
    beginning = [1000 + ord(image)] * SHARED
    texts = tuple(
        Tokens([*beginning, *(10 * number + t for _ in range(n))], [0] * SHARED + [ANSWER] * n)
        for t, n in enumerate(lengths)
    )
    return Example(f"{image}/{number}", image, texts, 0)


@st.composite
def steps(draw):
    lengths_of = st.lists(st.integers(1, 40), min_size=1, max_size=2)
    record = st.tuples(st.sampled_from("abcde"), lengths_of)
    records = draw(st.lists(record, min_size=1, max_size=14))
    return [example(n, image, lengths) for n, (image, lengths) in enumerate(records)]


def ranks_of(examples, budget, world, **fields):
    return [
        plan_micro_batches(examples, budget=budget, rank=rank, world=world, **fields)
        for rank in range(world)
    ]


def padded(examples, **fields):
    """Tokens of one forward pass, padding included."""
    texts = [text for one in examples for text in one.texts]
    images = [one.image for one in examples for _ in one.texts]
    return pack(texts, images, **fields).ids.numel()


budgets = st.integers(1, 200)
worlds = st.integers(1, 4)


@given(steps(), budgets, worlds, st.booleans())
def test_every_record_goes_through_the_model_exactly_once_over_all_ranks(
    examples, budget, world, share
):
    ranks = ranks_of(examples, budget, world, share=share)
    seen = [one.id for micros in ranks for micro in micros for one in micro]
    assert sorted(seen) == sorted(one.id for one in examples)
    assert all(micro for micros in ranks for micro in micros)


@given(steps(), budgets, worlds, st.booleans())
def test_a_micro_batch_holds_at_most_its_tokens_unless_one_record_is_larger(
    examples, budget, world, share
):
    for micros in ranks_of(examples, budget, world, share=share):
        for micro in micros:
            assert padded(micro, share=share) <= budget or len(micro) == 1


@given(steps(), budgets)
def test_images_that_fit_stay_whole_wherever_there_are_enough_of_them(examples, budget):
    ranks = ranks_of(examples, budget, 2)
    images = {one.image for one in examples}
    for image in images if len(images) > 1 else ():
        group = [one for one in examples if one.image == image]
        if tree_size(group) <= budget:
            together = [[one for one in micro if one.image == image] for m in ranks for micro in m]
            assert group in together


@given(steps(), worlds)
def test_ranks_are_balanced_by_tokens(examples, world):
    images = {one.image for one in examples}
    groups = [[one for one in examples if one.image == image] for image in sorted(images)]
    if len(groups) < world:
        groups = [[one] for one in examples]
    loads = []
    for micros in ranks_of(examples, 10_000, world):
        mine = {one.id for micro in micros for one in micro}
        loads.append(sum(tree_size(group) for group in groups if group[0].id in mine))
    assert max(loads) - min(loads) <= max(map(tree_size, groups))
    assert sum(loads) == sum(map(tree_size, groups))


def test_records_are_balanced_by_tokens_and_not_by_their_number():
    short = [example(n, image, [5]) for n, image in enumerate("abcdef")]
    ranks = ranks_of([*short, example(9, "g", [75])], 10_000, 2)
    held = sorted(sorted(one.image for micro in micros for one in micro) for micros in ranks)
    assert held == [["a", "b", "c", "d", "e", "f"], ["g"]]


def test_an_image_with_too_many_texts_is_split_between_its_records():
    group = [example(n, "a", [20, 20]) for n in range(4)]  # 10 + 40 tokens each, 170 together
    (micros,) = ranks_of(group, 90, 1)
    assert [[one.id for one in micro] for micro in micros] == [["a/0", "a/1"], ["a/2", "a/3"]]


def test_parts_of_a_split_image_do_not_meet_again_in_a_larger_tree():
    parts = [example(n, "a", [own]) for n, own in enumerate((31, 109, 141, 139, 139, 95))]
    (micros,) = ranks_of([*parts, example(9, "b", [4])], 240, 1)
    # Apart, the parts of 119 and 105 tokens and b fit 2 x 119; as one tree they need 2 x 214.
    assert max(map(padded, micros)) <= 240


def test_parts_of_a_split_image_are_joined_again_where_they_fit():
    small = [example(n, image, [50]) for n, image in enumerate("abca")]
    (micros,) = ranks_of([small[0], example(9, "a", [225]), *small[1:]], 240, 1)
    assert max(map(padded, micros)) <= 240
    assert [small[0], small[3]] in [[one for one in micro if one.image == "a"] for micro in micros]


def test_texts_that_cannot_share_their_image_are_counted_with_it():
    group = [example(n, "a", [20]) for n in range(4)]
    (shared,) = ranks_of(group, 90, 1)
    (plain,) = ranks_of(group, 90, 1, share=False)
    assert [len(micro) for micro in shared] == [4]
    assert [len(micro) for micro in plain] == [3, 1]


def test_a_record_larger_than_the_budget_is_alone():
    large, small = example(0, "a", [60, 60]), example(1, "b", [5])
    (micros,) = ranks_of([large, small], 50, 1)
    assert micros == [[large], [small]]


def test_an_image_of_many_records_is_dealt_out_if_there_are_more_ranks_than_images():
    group = [example(n, "a", [20]) for n in range(4)]
    ranks = ranks_of(group, 10_000, 2)
    assert [len(micros[0]) for micros in ranks] == [2, 2]


def test_ranks_without_a_record_get_nothing():
    assert ranks_of([example(0, "a", [5])], 100, 3) == [[[example(0, "a", [5])]], [], []]


@pytest.mark.parametrize("kind", stages.OBJECTIVES)
def test_a_check_looks_at_a_micro_batch_as_training_has_it(kind):
    make_settings, make_objective = stages.OBJECTIVES[kind]
    settings = make_settings(micro_batch_tokens=200)
    objective = make_objective(toy.adapted(settings), settings)
    micro = first_micro_batch(objective, settings)
    assert set(micro.ids) <= set(objective.ids)
    assert micro.batch.ids.numel() <= settings.micro_batch_tokens

"""The token tree against the library's own forward of one sequence at a time, in float64.

Values of a float32 norm would snap together and hide a difference, so `float64_norm` takes
its place; three deliberately wrong trees show that the comparison can fail.
"""

import dataclasses

import pytest
import torch
import toy
from hypothesis import given, settings
from hypothesis import strategies as st
from plain import (
    CLEAR,
    EXACT,
    KINDS,
    VARIANTS,
    Result,
    assert_exact,
    build,
    case,
    difference,
    plain,
    plain_log_probs,
    positions_not_restarted,
    relative,
    tree_result,
)

from stllava.chat import Tokens
from stllava.tree import Rules, blocks, score

pytestmark = pytest.mark.usefixtures("float64_norm")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize(("backend", "limit"), [("dense", 256), ("blocks", 256), ("blocks", 3)])
def test_log_probs_loss_and_gradients_equal_one_sequence_at_a_time(
    kind, variant, backend, limit, monkeypatch
):
    monkeypatch.setattr(blocks, "LIMIT", limit)
    one = case(kind, variant)
    assert_exact(tree_result(one, backend=backend), one.wanted)


@pytest.mark.parametrize("kind", KINDS)
def test_they_do_with_logits_in_chunks(kind, monkeypatch):
    monkeypatch.setattr(score, "CHUNK", 5 * len(toy.tokenizer()))
    one = case(kind, "prototype")
    assert_exact(tree_result(one), one.wanted)


@pytest.mark.filterwarnings("ignore:.*gradient_checkpointing_enable. is deprecated:FutureWarning")
@pytest.mark.parametrize("kind", ["dpo", "records"])
@pytest.mark.parametrize("backend", ["dense", "blocks"])
def test_they_do_with_gradient_checkpointing(kind, backend, monkeypatch):
    monkeypatch.setattr(blocks, "LIMIT", 3)
    fresh = build(kind, "prototype")
    core = fresh.objective.policy.core
    core.train()
    core.gradient_checkpointing_enable({"use_reentrant": False})
    core.enable_input_require_grads()
    calls = []
    norm = core.model.language_model.layers[0].input_layernorm
    norm.register_forward_hook(lambda *_: calls.append(1))
    assert_exact(tree_result(fresh, backend=backend), fresh.wanted)
    passes = 3 if kind == "dpo" else 2  # reference, policy, and the log-probabilities once more
    assert len(calls) == passes + 1  # the policy's again in the backward pass


@pytest.mark.parametrize("kind", ["dpo", "records"])
def test_they_do_when_rows_stay_separate(kind):
    fresh = build(kind, "mlp")
    fresh.objective.policy.rules = Rules(share=False)
    assert_exact(tree_result(fresh), fresh.wanted)


@pytest.mark.filterwarnings("ignore:.*flex_attention called without torch.compile:UserWarning")
@pytest.mark.parametrize("kind", ["dpo", "records"])
def test_log_probs_of_the_flex_backend_do(kind):
    objective, examples, wanted = case(kind, "mlp")
    batch = objective.micro_batch(examples).batch
    scorer = toy.scorer_of(dataclasses.replace(objective.policy, backend="flex"))
    with torch.no_grad():
        log_probs = scorer(batch)
    sums = torch.zeros_like(wanted.log_probs).index_add(0, batch.sequence, log_probs)
    assert relative(sums, wanted.log_probs) < EXACT


tails = st.lists(st.tuples(st.integers(4, 6), st.integers(0, 2)), min_size=1, max_size=12)


@settings(max_examples=12, deadline=None)
@given(
    st.lists(st.tuples(tails, st.sampled_from("ab")), min_size=1, max_size=6),
    st.sampled_from(["dense", "blocks"]),
    st.integers(1, 40),
    st.integers(1, 20),
)
def test_any_ragged_texts_under_images_equal_one_sequence_at_a_time(texts, backend, limit, chunk):
    policy = case("records", "mlp").objective.policy
    none = [0] * toy.NUM_PATCHES
    pictured = [toy.IMAGE] * toy.NUM_PATCHES
    sequences = [  # the last token is always learned
        Tokens([*pictured, *(i for i, _ in tail), 4], [*none, *(code for _, code in tail), 1])
        for tail, _ in texts
    ]
    images = [image for _, image in texts]

    def result(policy, log_probs):
        loss = (torch.linspace(-1, 2, len(log_probs)).sin() * log_probs).sum()
        policy.core.zero_grad()
        loss.backward()
        return Result(log_probs.detach(), loss.detach(), toy.gradients(policy))

    twin = plain(policy)
    alone = [plain_log_probs(twin, *text) for text in zip(sequences, images, strict=True)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "LIMIT", limit)
        patch.setattr(score, "CHUNK", chunk * len(toy.tokenizer()))
        scorer = toy.scorer_of(dataclasses.replace(policy, backend=backend))
        got = result(policy, scorer(policy.pack(sequences, images, toy.open_image)))
    assert_exact(got, result(twin, torch.cat(alone)))


# Wrong trees, which must fail


def earlier_tokens_seen(batch):
    """The rejected answer sees the chosen one, and later questions all before them."""
    return dataclasses.replace(batch, ends=torch.full_like(batch.ends, batch.ends.shape[1]))


def predicted_by_the_token_before(batch):
    """A branch's first token from the end of the branch before it, not from its parent."""
    ends = batch.ends.flatten()
    before = [
        next(k for k in range(parent + 1, last + 1) if ends[k] > last % batch.ids.shape[1]) - 1
        for parent, last in zip(
            batch.predictors[batch.slots].tolist(), batch.last[batch.sequence].tolist(), strict=True
        )
    ]
    predictors, slots = torch.tensor(before).unique(return_inverse=True)
    return dataclasses.replace(batch, predictors=predictors, slots=slots)


@pytest.mark.parametrize(
    "change", [earlier_tokens_seen, positions_not_restarted, predicted_by_the_token_before]
)
@pytest.mark.parametrize("variant", VARIANTS)
def test_wrong_trees_fail_the_comparison_in_every_part(variant, change):
    one = case("dpo", variant)
    found = difference(tree_result(one, change), one.wanted)
    assert all(value > CLEAR for value in found.values()), found

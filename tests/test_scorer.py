"""The one forward pass of training against the plain Hugging Face model, a sequence at a time.

`LlamaRMSNorm` and the final softmax compute in fp32 whatever the model's type, so an fp64 model
would agree vacuously; the comparison is made in fp32, with a tolerance of fp32.
"""

import pytest
import torch
import toy

from stllava.chat import ANSWER, Tokens
from stllava.errors import DataError
from stllava.policy.scorer import make_batch
from stllava.records import Turn

FP32 = 2e-5  # nats per token; the values lie between -30 and 0

TALKS = [
    ("a", [("Is there a nodule?", "Yes, on the left, and it is large.")]),
    ("a", [("What organ?", "The lung.")]),
    ("b", [("What organ?", "The liver."), ("How many cysts?", "Two.")]),
]


def sequences(toy_policy):
    return [
        toy_policy.chat.training(
            [Turn(question=q, answer=a) for q, a in turns], [j > 0 for j in range(len(turns))]
        )
        for _, turns in TALKS
    ]


def pixels(toy_policy, names):
    return toy_policy.pixel_values([toy.open_image(name) for name in names])


def plain_log_probs(toy_policy, tokens, name):
    """log p of each learned token by the library's own forward of one unpadded sequence."""
    ids = torch.tensor([tokens.ids])
    with torch.no_grad():
        logits = toy_policy.model(input_ids=ids, pixel_values=pixels(toy_policy, [name])).logits[0]
    scores = logits.float().log_softmax(-1)
    places = [t for t, code in enumerate(tokens.learned) if code]
    return torch.stack([scores[t - 1, tokens.ids[t]] for t in places])


def score(toy_policy, batch):
    with torch.no_grad():
        return toy.scorer_of(toy_policy)(batch)


@pytest.mark.parametrize("variant", ["prototype", "mlp"])
def test_log_probs_equal_the_plain_forward_of_each_sequence(variant):
    policy = toy.policy(variant)
    rows = sequences(policy)
    batch, num_cut = make_batch(rows, pixels(policy, ["a", "b"]), [0, 0, 1], 512)
    expected = torch.cat(
        [plain_log_probs(policy, row, name) for row, (name, _) in zip(rows, TALKS, strict=True)]
    )
    got = score(policy, batch)
    assert num_cut == 0
    assert got.shape == (sum(code > 0 for row in rows for code in row.learned),)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < FP32


def test_log_probs_depend_on_the_image_and_on_earlier_tokens():
    policy = toy.policy()
    row = sequences(policy)[0]
    right = plain_log_probs(policy, row, "a")
    other_image, _ = make_batch([row], pixels(policy, ["b"]), [0], 512)
    assert (score(policy, other_image) - right).abs().max() > 100 * FP32
    changed = Tokens([*row.ids], row.learned)
    changed.ids[toy.NUM_PATCHES + 3] += 1  # a token of the question
    other_question, _ = make_batch([changed], pixels(policy, ["a"]), [0], 512)
    assert (score(policy, other_question) - right).abs().max() > 100 * FP32


def test_padding_does_not_change_log_probs():
    policy = toy.policy()
    short, long = sequences(policy)[1], sequences(policy)[0]
    alone, _ = make_batch([short], pixels(policy, ["a"]), [0], 512)
    padded, _ = make_batch([short, long], pixels(policy, ["a"]), [0, 0], 512)
    assert padded.input_ids.shape[1] > alone.input_ids.shape[1]
    got = score(policy, padded)[padded.rows == 0]
    assert (got - score(policy, alone)).abs().max() < FP32


def test_an_image_shared_by_rows_equals_one_image_per_row():
    policy = toy.policy()
    rows = sequences(policy)
    shared, _ = make_batch(rows, pixels(policy, ["a", "b"]), [0, 0, 1], 512)
    separate, _ = make_batch(rows, pixels(policy, ["a", "a", "b"]), [0, 1, 2], 512)
    assert (score(policy, shared) - score(policy, separate)).abs().max() < FP32


def test_codes_say_which_tokens_are_questions_and_which_answers():
    policy = toy.policy()
    rows = sequences(policy)
    batch, _ = make_batch(rows, pixels(policy, ["a", "b"]), [0, 0, 1], 512)
    assert batch.codes.tolist() == [code for row in rows for code in row.learned if code]


def test_over_long_sequences_are_cut_in_their_text_only_and_counted():
    policy = toy.policy()
    long, short = sequences(policy)[0], sequences(policy)[1]
    limit = len(long.ids) - 3
    assert len(short.ids) < limit
    batch, num_cut = make_batch([long, short], pixels(policy, ["a"]), [0, 0], limit)
    assert num_cut == 1
    assert batch.input_ids.shape[1] == limit
    assert (batch.input_ids == toy.IMAGE).sum(1).tolist() == [toy.NUM_PATCHES] * 2
    whole = plain_log_probs(policy, long, "a")
    assert (score(policy, batch)[batch.rows == 0] - whole[:-3]).abs().max() < FP32


@pytest.mark.parametrize("limit", [toy.NUM_PATCHES // 2, toy.NUM_PATCHES + 2])
def test_a_cut_that_leaves_nothing_to_learn_is_a_data_error(limit):
    policy = toy.policy()
    row = sequences(policy)[0]
    assert ANSWER not in row.learned[:limit]
    with pytest.raises(DataError, match=f"no learned token within {limit} tokens"):
        make_batch([row], pixels(policy, ["a"]), [0], limit)

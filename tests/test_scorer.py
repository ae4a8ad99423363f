"""The one forward pass of training against the plain Hugging Face model, a sequence at a time.

`LlamaRMSNorm` and the final softmax compute in fp32 whatever the model's type, so an fp64 model
would agree vacuously; the comparison is made in fp32, with a tolerance of fp32.
"""

from dataclasses import replace

import pytest
import torch
import toy

from stllava.chat import Tokens
from stllava.records import Turn

FP32 = 2e-5  # nats per token; the values lie between -30 and 0

IMAGES = ["a", "a", "b"]
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


def plain_log_probs(toy_policy, tokens, name):
    """log p of each learned token by the library's own forward of one unpadded sequence."""
    ids = torch.tensor([tokens.ids])
    pixels = toy_policy.pixel_values([toy.open_image(name)])
    with torch.no_grad():
        logits = toy_policy.model(input_ids=ids, pixel_values=pixels).logits[0]
    scores = logits.float().log_softmax(-1)
    places = [t for t, code in enumerate(tokens.learned) if code]
    return torch.stack([scores[t - 1, tokens.ids[t]] for t in places])


def pack(toy_policy, tokens, names):
    return toy_policy.pack(tokens, names, toy.open_image)


def score(toy_policy, batch):
    with torch.no_grad():
        return toy.scorer_of(toy_policy)(batch)


@pytest.mark.parametrize("variant", ["prototype", "mlp"])
def test_log_probs_equal_the_plain_forward_of_each_sequence(variant):
    policy = toy.policy(variant)
    rows = sequences(policy)
    expected = torch.cat(
        [plain_log_probs(policy, row, name) for row, name in zip(rows, IMAGES, strict=True)]
    )
    got = score(policy, pack(policy, rows, IMAGES))
    assert got.shape == (sum(code > 0 for row in rows for code in row.learned),)
    assert got.dtype == torch.float32
    assert (got - expected).abs().max() < FP32


def test_log_probs_depend_on_the_image_and_on_earlier_tokens():
    policy = toy.policy()
    row = sequences(policy)[0]
    right = plain_log_probs(policy, row, "a")
    other_image = pack(policy, [row], ["b"])
    assert (score(policy, other_image) - right).abs().max() > 100 * FP32
    changed = Tokens([*row.ids], row.learned)
    changed.ids[toy.NUM_PATCHES + 3] += 1  # a token of the question
    other_question = pack(policy, [changed], ["a"])
    assert (score(policy, other_question) - right).abs().max() > 100 * FP32


def test_padding_does_not_change_log_probs():
    policy = toy.policy()
    _, short, long = sequences(policy)
    alone = pack(policy, [short], ["a"])
    padded = pack(policy, [short, long], ["a", "b"])
    assert padded.ids.shape[1] > alone.ids.shape[1]
    got = score(policy, padded)[padded.sequence == 0]
    assert (got - score(policy, alone)).abs().max() < FP32


def test_an_image_shared_by_texts_equals_one_image_per_text():
    policy = toy.policy()
    rows = sequences(policy)
    shared = pack(policy, rows, IMAGES)
    assert shared.vision["pixel_values"].shape[0] == 2
    policy.rules = replace(policy.rules, share=False)
    separate = pack(policy, rows, IMAGES)
    assert separate.vision["pixel_values"].shape[0] == 3
    assert shared.ids.numel() < separate.ids.numel()
    assert (score(policy, shared) - score(policy, separate)).abs().max() < FP32


def test_codes_say_which_tokens_are_questions_and_which_answers():
    policy = toy.policy()
    rows = sequences(policy)
    batch = pack(policy, rows, IMAGES)
    assert batch.codes.tolist() == [code for row in rows for code in row.learned if code]
    assert batch.targets.tolist() == [
        token for row in rows for token, code in zip(*row, strict=True) if code
    ]

"""What else a policy could have said, against the plain model and as servers write it."""

from dataclasses import replace

import pytest
import torch
import toy
from test_generation import DIALOGUE, GREEDY, PAPER, generate, request
from tokenizers import Tokenizer, decoders, models
from transformers import PreTrainedTokenizerFast

from stllava.generation.told import by_text, token_text
from stllava.generation.wire import MAX_TOLD_TOKENS

K = 10


def plainly(policy, asked, draw, k):
    """One full forward of the library's model per token; probabilities by text."""
    ids = policy.chat.prompt(asked.turns, asked.speaker).ids
    pixels = policy.pixel_values([toy.open_image(asked.image)]).to(policy.model.dtype)
    told = []
    for at in range(min(len(draw.token_ids), MAX_TOLD_TOKENS)):
        row = torch.tensor([[*ids, *draw.token_ids[:at]]])
        with torch.no_grad():
            scores = policy.model(input_ids=row, pixel_values=pixels).logits[0, -1].softmax(-1)
        found = {}
        for p, token in zip(*(x.tolist() for x in scores.topk(k)), strict=True):
            text = policy.tokenizer.decode([token])
            found[text] = found.get(text, 0.0) + p
        told.append(found)
    return told


@pytest.mark.parametrize("share", [True, False], ids=["grouped", "ungrouped"])
@pytest.mark.parametrize("sampling", [GREEDY, PAPER], ids=["greedy", "sampled"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_told_are_the_plain_models_probabilities(share, sampling, dtype):
    policy = toy.policy()
    policy.model.to(dtype)
    policy.rules = replace(policy.rules, share=share)
    asked = [
        request(0, draws=2, top_logprobs=K),
        request(1, image="b", draws=3, top_logprobs=3, max_tokens=11),
        request(2, image="b", turns=DIALOGUE, top_logprobs=K, max_tokens=2),
        request(3, image="c", draws=2),
    ]
    by_id = {one.id: one for one in asked}
    draws = generate(policy, asked, sampling)
    assert len(draws) == 8
    for draw in draws:
        one = by_id[draw.request_id]
        if one.top_logprobs is None:
            assert draw.alternatives is None
            continue
        expected = plainly(policy, one, draw, one.top_logprobs)
        assert len(draw.alternatives) == len(expected) > 1
        for told, found in zip(draw.alternatives, expected, strict=True):
            assert told.keys() == found.keys()
            logs = torch.tensor(list(found.values()), dtype=torch.float64).log().tolist()
            assert list(told.values()) == pytest.approx(logs, abs=1e-5)


def test_to_tell_changes_no_draw():
    policy = toy.policy()
    asked = [request(i, image="ab"[i % 2], draws=2) for i in range(3)]
    curious = [one.model_copy(update={"top_logprobs": K}) for one in asked]
    told = generate(policy, curious, PAPER)
    assert all(draw.alternatives for draw in told)
    untold = [draw.model_copy(update={"alternatives": None}) for draw in told]
    assert untold == generate(policy, asked, PAPER)


def test_the_best_are_taken_at_the_first_tokens_and_only_where_asked_for(monkeypatch):
    taken = []
    topk = torch.Tensor.topk

    def counted(scores, *args, **kwargs):
        taken.append(scores.shape[0])
        return topk(scores, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "topk", counted)  # a greedy decoder has no other use of it
    policy, length = toy.policy(), MAX_TOLD_TOKENS + 4
    (draw,) = generate(policy, [request(0, max_tokens=length)], GREEDY)
    assert len(draw.token_ids) == length
    assert (draw.alternatives, taken) == (None, [])
    (draw,) = generate(policy, [request(0, max_tokens=length, top_logprobs=K)], GREEDY)
    assert len(draw.alternatives) == MAX_TOLD_TOKENS
    assert taken == [1] * MAX_TOLD_TOKENS


def test_a_vocabulary_smaller_than_what_is_asked_for_is_told_whole():
    policy = toy.policy()
    (draw,) = generate(policy, [request(0, max_tokens=1, top_logprobs=10**6)], GREEDY)
    (told,) = draw.alternatives
    mass = torch.tensor(list(told.values()), dtype=torch.float64).exp().sum()
    assert mass.item() == pytest.approx(1, abs=1e-5)


# How a token is written


PIECES = ("<unk>", "</s>", "A", "▁A", "▁", "▁▁B", "<0x0A>", "<0xC3>", "<0xC4>")


def sentencepiece():
    """Llama's decoder, which takes the blank from before a text."""
    bpe = Tokenizer(
        models.BPE({piece: i for i, piece in enumerate(PIECES)}, [], byte_fallback=True)
    )
    bpe.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=bpe, unk_token="<unk>", eos_token="</s>")


def test_a_leading_blank_is_told_of_sentencepiece_too():
    tokenizer = sentencepiece()
    assert tokenizer.decode([PIECES.index("▁A")]) == "A"
    written = {piece: token_text(tokenizer, i) for i, piece in enumerate(PIECES[1:], 1)}
    assert written == {
        "</s>": "</s>", "A": "A", "▁A": " A", "▁": " ", "▁▁B": "  B", "<0x0A>": "\n",
        "<0xC3>": "\ufffd", "<0xC4>": "\ufffd",
    }  # fmt: skip


@pytest.mark.parametrize("text", ["A", " A", "</s>", "\n", " "])
def test_a_token_of_byte_pairs_is_written_as_it_was_read(text):
    (token,) = toy.tokenizer().encode(text, add_special_tokens=False)
    assert token_text(toy.tokenizer(), token) == text


def test_a_row_of_the_head_that_is_no_token_is_written_as_nothing():
    assert token_text(toy.tokenizer(), len(toy.tokenizer()) + 7) == ""


def test_tokens_that_are_written_alike_are_told_together():
    likely = [(7, -1.0), (2, -1.5), (8, -1.0)]
    together = torch.tensor([-1.0, -1.0]).logsumexp(0).item()
    assert by_text(sentencepiece(), likely) == {
        "\ufffd": pytest.approx(together, abs=1e-6),
        "A": -1.5,
    }

"""Our decoding loop against the plain model, and every draw against its own seed."""

import dataclasses

import pytest
import torch
import toy
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from stllava.generation.hf import PolicyGenerator, sample
from stllava.generation.protocol import Sampling, draw_seed
from stllava.records import Request, Turn

GREEDY = Sampling()
PAPER = Sampling(temperature=1.2, top_k=100, top_p=0.95, seed=3)

QUESTIONS = ("Is there a nodule?", "What organ is shown?", "How many lesions are there, if any?")


def request(number, *, image="a", draws=1, max_tokens=8, **fields):
    question = Turn(question=QUESTIONS[number % 3])
    fields = {"turns": (question,), **fields}
    return Request(
        id=f"{image}/q{number}", image=image, num_draws=draws, max_tokens=max_tokens, **fields
    )


def generate(policy, requests, sampling, *, batch_rows=64, open_image=toy.open_image):
    generator = PolicyGenerator(policy, open_image, name="toy", batch_rows=batch_rows)
    return list(generator.generate(iter(requests), sampling))


def naive_greedy(policy, asked):
    """One full forward of the library's model per token, nothing cached."""
    ids = policy.chat.prompt(asked.turns, asked.speaker).ids
    pixels = policy.pixel_values([toy.open_image(asked.image)])
    said, logprobs = [], []
    while len(said) < asked.max_tokens and toy.END not in said:
        with torch.no_grad():
            row = torch.tensor([ids + said])
            logits = policy.model(input_ids=row, pixel_values=pixels).logits[0, -1].float()
        scores = logits.log_softmax(-1)
        logits[toy.IMAGE] = -torch.inf
        said.append(int(logits.argmax()))
        logprobs.append(scores[said[-1]].item())
    return said, logprobs


DIALOGUE = (
    Turn(question="What organ?", answer="The liver."),
    Turn(question="Is it healthy?"),
)


@pytest.mark.parametrize("variant", ["prototype", "mlp"])
def test_greedy_draws_equal_an_argmax_loop_over_the_plain_model(variant):
    policy = toy.policy(variant)
    asked = [
        request(0),
        request(1, image="b"),
        request(2, max_tokens=3),
        request(3, turns=DIALOGUE),
        request(4, image="b", turns=(), speaker="asker"),
        request(5, turns=DIALOGUE[:1], speaker="asker"),
    ]
    draws = generate(policy, asked, GREEDY)
    assert [draw.request_id for draw in draws] == [r.id for r in asked]
    for draw, one in zip(draws, asked, strict=True):
        ids, logprobs = naive_greedy(policy, one)
        assert list(draw.token_ids) == ids
        assert draw.logprobs == pytest.approx(logprobs, abs=1e-4)
    assert len({draw.token_ids for draw in draws}) == len(draws)


def test_draws_do_not_depend_on_batch_rows_or_neighbours():
    policy = toy.policy()
    asked = [request(i, image="ab"[i % 2], draws=2, max_tokens=5 + i) for i in range(5)]
    whole = {d.id: d for d in generate(policy, asked, PAPER)}
    assert len(whole) == 10
    for rows in (1, 4):
        again = {d.id: d for d in generate(policy, asked, PAPER, batch_rows=rows)}
        assert {i: d.token_ids for i, d in again.items()} == {
            i: d.token_ids for i, d in whole.items()
        }
    alone = generate(policy, [asked[3]], PAPER)
    backwards = {d.id: d for d in generate(policy, asked[::-1], PAPER)}
    for draw in alone:
        assert draw.token_ids == whole[draw.id].token_ids == backwards[draw.id].token_ids
        assert draw.logprobs == pytest.approx(whole[draw.id].logprobs, abs=1e-4)


def test_the_same_batch_gives_the_same_draws_to_the_last_bit():
    policy = toy.policy()
    asked = [request(i, draws=3) for i in range(3)]
    assert generate(policy, asked, PAPER) == generate(policy, asked, PAPER)


def test_recorded_log_probs_equal_teacher_forced_ones():
    policy = toy.policy()
    asked = [request(i, image="ab"[i % 2], draws=2) for i in range(4)]
    draws = generate(policy, asked, PAPER)
    by_id = {one.id: one for one in asked}
    rows = [
        policy.chat.training(
            [Turn(question=by_id[d.request_id].turns[0].question, answer_ids=d.token_ids)], [False]
        )
        for d in draws
    ]
    batch = policy.pack(rows, [by_id[d.request_id].image for d in draws], toy.open_image)
    with torch.no_grad():
        forced = toy.scorer_of(policy)(batch)
    recorded = torch.tensor([p for d in draws for p in d.logprobs])
    assert (forced - recorded).abs().max() < 1e-4


def test_every_draw_has_its_own_seed_and_words():
    draws = generate(toy.policy(), [request(0, draws=4), request(1, draws=4)], PAPER)
    assert [d.index for d in draws] == [0, 1, 2, 3] * 2
    assert [d.seed for d in draws] == [draw_seed(3, d.request_id, d.index) for d in draws]
    assert len({d.seed for d in draws}) == 8
    assert len({d.token_ids for d in draws}) == 8


def test_another_run_seed_gives_other_draws():
    policy, asked = toy.policy(), [request(0, draws=3)]
    other = PAPER.model_copy(update={"seed": 4})
    one, two = (generate(policy, asked, sampling) for sampling in (PAPER, other))
    assert all(a.token_ids != b.token_ids for a, b in zip(one, two, strict=True))


def test_top_k_of_one_is_greedy_at_any_temperature():
    policy, asked = toy.policy(), [request(i) for i in range(3)]
    only = Sampling(temperature=5.0, top_k=1)
    assert [d.token_ids for d in generate(policy, asked, only)] == [
        d.token_ids for d in generate(policy, asked, GREEDY)
    ]


def test_finish_says_whether_the_end_token_came_or_the_room_ran_out():
    policy, asked = toy.policy(), request(0, max_tokens=8)
    [whole] = generate(policy, [asked], GREEDY)
    assert whole.finish == "length"
    assert len(whole.token_ids) == len(whole.logprobs) == 8
    ids = whole.token_ids
    at = next(i for i in range(2, 8) if ids[i] not in ids[:i])
    end = policy.tokenizer.convert_ids_to_tokens(ids[at])
    policy.format = dataclasses.replace(policy.format, end=end)
    other = request(1, image="b", max_tokens=20)  # goes on when the first has ended
    stopped, longer = generate(policy, [asked, other], GREEDY)
    assert stopped.finish == "stop"
    assert stopped.token_ids == ids[: at + 1]
    [alone] = generate(policy, [other], GREEDY)
    assert longer.token_ids == alone.token_ids


def test_max_tokens_is_per_request_and_only_cuts():
    policy = toy.policy()
    asked = [
        Request(id="same", image="a", turns=(Turn(question="What?"),), max_tokens=n)
        for n in (1, 4, 9)
    ]
    short, middle, long = (d.token_ids for d in generate(policy, asked, PAPER))
    assert [len(short), len(middle), len(long)] == [1, 4, 9]
    assert long[:4] == middle
    assert middle[:1] == short


def test_an_image_is_opened_once_per_batch():
    opened = []

    def open_image(name):
        opened.append(name)
        return toy.open_image(name)

    asked = [request(i, image="ab"[i % 2], draws=2, max_tokens=2) for i in range(6)]
    generate(toy.policy(), asked, PAPER, open_image=open_image)
    assert opened == ["a", "b"]


def test_requests_are_read_one_batch_at_a_time():
    read = []

    def asked():
        for i in range(5):
            read.append(i)
            yield request(i, max_tokens=2)

    draws = PolicyGenerator(toy.policy(), toy.open_image, name="toy", batch_rows=2).generate(
        asked(), GREEDY
    )
    next(draws)
    assert read == [0, 1, 2]  # the third showed that the batch is full


def test_an_image_placeholder_is_never_sampled():
    policy = toy.policy()
    with torch.no_grad():  # a policy that would say nothing else
        others = policy.model.lm_head.weight.norm(dim=1).max()
        policy.model.lm_head.weight[toy.IMAGE] *= 50 * others
    for sampling in (GREEDY, Sampling(temperature=2.0)):
        draws = generate(policy, [request(i, draws=8) for i in range(2)], sampling)
        assert not any(toy.IMAGE in draw.token_ids for draw in draws)


# One token, against the library's own filters


def filtered(logits, sampling):
    """Probabilities after the library's warpers, in the order `generate` applies them."""
    scores = TemperatureLogitsWarper(sampling.temperature)(None, logits[None])
    if sampling.top_k is not None:
        scores = TopKLogitsWarper(sampling.top_k)(None, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(None, scores)
    return scores[0].softmax(-1)


samplings = st.builds(
    Sampling,
    temperature=st.floats(0.2, 3.0),
    top_k=st.none() | st.integers(1, 60),
    top_p=st.just(1.0) | st.floats(0.05, 1.0),
)


@settings(max_examples=150, deadline=None)
@given(samplings, st.integers(0, 10**6), st.integers(2, 50), st.floats(0.5, 4.0))
def test_sample_keeps_the_tokens_and_the_probabilities_of_the_librarys_warpers(
    sampling, seed, vocabulary, spread
):
    noise = torch.Generator().manual_seed(seed)
    logits = spread * torch.randn(vocabulary, generator=noise)
    assume(logits.unique().numel() == vocabulary)
    ordered = (logits / sampling.temperature).sort(descending=True).values
    cdf = ordered[: sampling.top_k].softmax(-1).cumsum(-1)
    at_edge = (cdf - sampling.top_p).abs().min() < 1e-5
    assume(sampling.top_p == 1 or not at_edge)  # else rounding decides
    probs, ids = filtered(logits, sampling).sort(descending=True)
    ids = ids[probs > 0]
    probs = probs[probs > 0].double()
    below = probs.cumsum(0) - probs
    wide = probs > 1e-4
    for part in (0.01, 0.5, 0.99):
        u = below + part * probs
        got = sample(logits.expand(len(ids), -1), u.clamp(max=1 - 2**-53), sampling)
        assert torch.equal(got[wide], ids[wide])
        assert set(got.tolist()) <= set(ids.tolist())
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    first, last = sample(logits.expand(2, -1), ends, sampling).tolist()
    assert first == ids[0]
    assert last in ids[-1:].tolist() or not wide[-1]


def test_temperature_zero_takes_the_largest_logit_whatever_the_noise():
    logits = torch.tensor([[0.0, 2.0, 1.0]] * 3)
    got = sample(logits, torch.tensor([0.0, 0.5, 0.999]), GREEDY)
    assert got.tolist() == [1, 1, 1]


def test_frequencies_follow_the_softmax_at_the_temperature():
    logits = torch.tensor([2.0, 1.0, 0.0])
    u = (torch.arange(20_000, dtype=torch.float64) + 0.5) / 20_000
    for temperature in (0.5, 1.0, 2.0):
        got = sample(logits.expand(len(u), -1), u, Sampling(temperature=temperature))
        share = torch.bincount(got, minlength=3) / len(u)
        assert torch.allclose(share, (logits / temperature).softmax(-1), atol=1e-3)


def test_draw_seeds_are_fixed_for_ever():
    assert draw_seed(0, "p1/q0", 0) == 1269547594864529227
    seeds = {draw_seed(s, r, i) for s in range(3) for r in ("a", "a1", "b") for i in range(12)}
    assert len(seeds) == 108

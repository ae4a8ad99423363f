"""What the token tree computes, counted; generation on it; and the probe that lets it."""

import copy
import dataclasses

import pytest
import torch
import toy
from plain import (
    CLEAR,
    EXACT,
    KINDS,
    VARIANTS,
    assert_exact,
    build,
    difference,
    plain,
    plain_log_probs,
    positions_not_restarted,
    relative,
    tree_result,
)
from safetensors.torch import load_file

from stllava.chat import Tokens
from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.records import Request, Turn
from stllava.tree import Rules, mask, pack, score

pytestmark = pytest.mark.usefixtures("float64_norm")


# Generation

PAPER = Sampling(temperature=1.2, top_k=100, top_p=0.95, seed=3)
ASKED = [  # (image, draws, max_tokens)
    ("a", 1, 5), ("a", 3, 12), ("a", 1, 12), ("a", 2, 9), ("b", 2, 9), ("c", 1, 1), ("c", 1, 12),
    ("d", 2, 3)
]  # fmt: skip


def requests():
    for number, (image, draws, room) in enumerate(ASKED):
        turn = Turn(question=toy.SENTENCES[number % 4][6:30] + "?")
        fields = {"image": image, "turns": (turn,), "num_draws": draws, "max_tokens": room}
        yield Request(id=f"{image}/q{number}", **fields)


def speaker(kind, dtype=torch.float64):
    """A policy that comes to an end now and then; "grouped" has one key head for two queries."""
    policy = toy.policy("prototype" if kind == "prototype" else "mlp")
    if kind == "grouped":
        config = copy.deepcopy(policy.core.config)
        config.text_config.num_key_value_heads = 1
        policy = dataclasses.replace(policy, model=type(policy.core)(config).eval())
    with torch.no_grad():
        policy.core.lm_head.weight[toy.END] *= 2.5
    policy.core.to(dtype)
    return policy


def generate(policy, sampling):
    generator = PolicyGenerator(policy, toy.open_image, name="toy")
    return list(generator.generate(requests(), sampling))


def greedy_alone(twin, asked):
    """The library's model on the whole text for every token, nothing kept."""
    ids, said = twin.chat.prompt(asked.turns, asked.speaker).ids, []
    pixels = twin.pixel_values([toy.open_image(asked.image)])
    while len(said) < asked.max_tokens and toy.END not in said:
        row = torch.tensor([ids + said])
        with torch.no_grad():
            logits = twin.core(input_ids=row, pixel_values=pixels).logits[0, -1]
        logits[toy.IMAGE] = -torch.inf
        said.append(int(logits.argmax()))
    return tuple(said)


@pytest.mark.parametrize("kind", ["mlp", "prototype", "grouped"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_greedy_decoding_on_the_shared_cache_says_what_each_question_alone_gets(kind, dtype):
    policy = speaker(kind, dtype)
    draws = generate(policy, Sampling())
    twin = plain(policy)
    alone = [greedy_alone(twin, one) for one in requests() for _ in range(one.num_draws)]
    assert [draw.token_ids for draw in draws] == alone
    assert {draw.finish for draw in draws} == {"stop", "length"}
    assert len({len(draw.token_ids) for draw in draws}) > 3


@pytest.mark.parametrize("kind", ["mlp", "prototype", "grouped"])
def test_recorded_log_probs_are_those_of_the_plain_forward(kind):
    policy = speaker(kind)
    draws = generate(policy, PAPER)
    twin = plain(policy)
    asked = {one.id: one for one in requests()}
    for draw in draws:
        one = asked[draw.request_id]
        prompt = twin.chat.prompt(one.turns, one.speaker).ids
        text = Tokens([*prompt, *draw.token_ids], [0] * len(prompt) + [1] * len(draw.token_ids))
        with torch.no_grad():
            forced = plain_log_probs(twin, text, one.image)
        assert relative(torch.tensor(draw.logprobs, dtype=torch.float64), forced) < EXACT


def test_separate_rows_say_the_same_as_a_shared_cache():
    policy = speaker("mlp")
    shared = generate(policy, PAPER)
    policy.rules = Rules(share=False)
    separate = generate(policy, PAPER)
    for one, other in zip(shared, separate, strict=True):
        assert one.token_ids == other.token_ids
        assert other.logprobs == pytest.approx(one.logprobs, rel=EXACT)


# Work


def watch(module):
    """Collects the shape of what the module gives, call by call."""
    shapes = []

    def note(_module, _inputs, output):
        shapes.append(tuple(getattr(output, "last_hidden_state", output).shape))

    module.register_forward_hook(note)
    return shapes


def watch_all(policy):
    core = policy.core.model
    return map(watch, (core.vision_tower, core.language_model.layers[0].mlp, policy.core.lm_head))


def beginnings(texts):
    return {(image, *text.ids[: n + 1]) for text, image in texts for n in range(len(text.ids))}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("images", [1, 2])
def test_training_computes_each_image_token_and_prediction_once(kind, images):
    objective, examples, _ = build(kind, "mlp")
    names = sorted({example.image for example in examples})[:images]
    examples = [example for example in examples if example.image in names]
    texts = [(text, example.image) for example in examples for text in example.texts]
    predictors = {
        (image, *text.ids[:at]) for text, image in texts for at, c in enumerate(text.learned) if c
    }
    seen, read, predicted = watch_all(objective.policy)
    micro = objective.micro_batch(examples)
    objective.loss(toy.scorer_of(objective.policy), micro).total.backward()
    passes = 2 if kind == "dpo" else 1  # the reference answers beside the policy
    padding = int((micro.batch.ids == toy.PAD).sum())
    assert [shape[0] for shape in seen] == [images] * passes
    assert [rows * width - padding for rows, width, _ in read] == [len(beginnings(texts))] * passes
    assert images > 1 or padding == 0
    assert predicted == [(len(predictors), len(toy.tokenizer()))] * passes


def test_logits_in_chunks_never_exist_together(monkeypatch):
    monkeypatch.setattr(score, "CHUNK", 5 * len(toy.tokenizer()) + 1)
    objective, examples, _ = build("records", "mlp")
    *_, predicted = watch_all(objective.policy)
    micro = objective.micro_batch(examples)
    objective.loss(toy.scorer_of(objective.policy), micro).total.backward()
    rows, needed = [rows for rows, _ in predicted], len(micro.batch.predictors)
    assert needed > 50
    assert max(rows) == 5
    assert sum(rows) == 2 * needed  # again in the backward pass


def test_generation_computes_each_image_and_each_beginning_once():
    policy = speaker("mlp")
    seen, read, _ = watch_all(policy)
    draws = generate(policy, PAPER)
    prompts = [(policy.chat.prompt(one.turns, one.speaker), one.image) for one in requests()]
    tree = policy.pack(*zip(*prompts, strict=True), toy.open_image).ids
    assert [shape[0] for shape in seen] == [4]
    assert read[0][:2] == tuple(tree.shape)
    assert len(tree) < 4  # a row may hold several images
    assert int((tree != toy.PAD).sum()) == len(beginnings(prompts))
    assert all(width == 1 for _, width, _ in read[1:])
    assert sum(rows for rows, *_ in read[1:]) == sum(len(draw.token_ids) - 1 for draw in draws)


def test_vision_layers_after_the_feature_layer_are_saved_but_not_computed(tmp_path):
    policy = toy.policy("mlp", feature_layer=-2)
    used, unused = policy.core.model.vision_tower.encoder.layers
    computed, skipped = watch(used.mlp), watch(unused.mlp)
    text = policy.chat.training([Turn(question="What?", answer="The liver.")], [False])
    toy.scorer_of(policy)(policy.pack([text], ["a"], toy.open_image))
    assert len(computed) == 1
    assert skipped == []
    policy.save(tmp_path)
    [name] = [n for n in load_file(tmp_path / "model.safetensors")
              if n.endswith("vision_tower.encoder.layers.1.mlp.fc1.weight")]  # fmt: skip
    assert torch.equal(load_file(tmp_path / "model.safetensors")[name], unused.mlp.fc1.weight)


# The probe


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_probe_lets_texts_share(variant):
    policy = toy.policy(variant)
    assert "separately" not in policy.probe()
    assert policy.rules.share


def every_token_before(batch, *_):
    return torch.ones(batch.ids.shape[1], batch.ids.shape[1]).bool().tril()[None, None]


@pytest.mark.parametrize("wrong", ["mask", "positions"])
def test_under_a_wrong_rule_the_probe_separates_the_rows_and_results_stay_right(wrong, monkeypatch):
    if wrong == "mask":
        monkeypatch.setattr(mask, "_dense_mask", every_token_before)
    else:
        monkeypatch.setattr(
            "stllava.policy.policy.pack", lambda *a, **b: positions_not_restarted(pack(*a, **b))
        )
    fresh = build("records", "mlp")
    assert difference(tree_result(fresh), fresh.wanted)["log_probs"] > CLEAR
    line = fresh.objective.policy.probe()
    assert "separately" in line
    assert "\n" not in line
    assert not fresh.objective.policy.rules.share
    assert_exact(tree_result(fresh), fresh.wanted)


def test_a_model_that_notices_nothing_does_not_share():
    policy = toy.policy()
    with torch.no_grad():
        policy.core.lm_head.weight.zero_()
    assert "separately" in policy.probe()
    assert not policy.rules.share

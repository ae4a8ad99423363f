"""The benchmarks run, and what they say apart from seconds is true: counts, ratios, equality."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks/ is a folder of the repository, not of the package

from benchmarks import data, dpo, evaluate, generate, gpu, model, projector, sft, timing  # noqa: E402

# Image and texts of docs/performance.md, one layer of a quarter of the width. Counting is exact and
# layers are alike: ratios differ only by the larger share that attention has here.
SHALLOW = model.MID._replace(
    layers=2,
    vision_layers=2,
    width=128,
    inner=344,
    heads=2,
    vision_width=64,
    llm_rank=32,
    vit_rank=8,
)


torch.set_num_threads(1)  # as toy: several threads on small tensors mostly wait for each other

# trl and PEFT call names that transformers is about to change; not ours to fix.
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.mark.parametrize(
    ("images", "questions", "online", "cached"), [(1, 1, 1.6, 2.1), (1, 5, 4.2, 5.5)]
)
def test_a_pair_needs_so_many_times_fewer_operations(images, questions, online, cached):
    pairs = model.preferences(images, questions, seed=questions)
    counts = dpo.flops_per_pair(pairs, SHALLOW)
    assert counts["plain"] / counts[dpo.ONLINE] >= online
    assert counts["plain"] / counts[dpo.CACHED] >= cached


def test_a_group_keeps_less_than_a_quarter_for_the_backward_pass():
    pairs = model.preferences(1, 5, seed=5)
    policy = model.make_policy(SHALLOW)
    model.adapt(policy, model.dpo_settings(SHALLOW))
    plain = dpo.plain(policy, pairs, SHALLOW)
    tree = dpo.make(policy, pairs, cached=False, shape=SHALLOW)
    ids = [pair.id for pair in pairs]
    kept = [timing.measure(lambda s=s: s.step(ids), s.scorer.parameters()) for s in (plain, tree)]
    assert kept[1].saved <= kept[0].saved / 4


def test_plain_rows_and_trees_see_the_same_pairs():
    pairs = model.preferences(2, 2, short=8)
    policy = model.make_policy(model.TINY)
    model.adapt(policy, model.dpo_settings(model.TINY))
    ids = [pair.id for pair in pairs]
    sides = [
        dpo.plain(policy, pairs, model.TINY),
        dpo.make(policy, pairs, cached=False, shape=model.TINY),
        dpo.make(policy, pairs, cached=True, shape=model.TINY),
    ]
    facts = [side.facts(ids) for side in sides]
    assert abs(facts[0]["rewards/margins"]) > 1e-4
    for other in facts[1:]:
        assert other == pytest.approx(facts[0], rel=1e-4)


def test_trl_computes_the_same_loss_on_the_same_pairs(capfd):
    pytest.importorskip("trl")
    found = dpo.run(rounds=1, shape=model.TINY, short=8, sets=[("two pairs", 1, 2)])
    assert set(found["two pairs"]) == {dpo.DEFAULT, dpo.BEST, dpo.ONLINE, dpo.CACHED}
    lines = [line.split("|") for line in capfd.readouterr().out.splitlines() if "|" in line]
    facts = [  # the first table: parameters, loss, log-probabilities, margin
        [float(cell.replace(",", "")) for cell in line[2:-1]] for line in lines[2:5]
    ]
    assert facts[1] == pytest.approx(facts[0], abs=2e-3)
    assert facts[2] == pytest.approx(facts[0], abs=2e-3)


def test_sampled_texts_are_as_many_on_both_sides():
    assert generate.run(rounds=1, images=1, num_questions=2, shape=model.TINY, short=8) > 0


def test_greedy_answers_are_the_same_together_and_one_at_a_time(data_root):
    found = evaluate.run(data_root, rounds=1, shape=model.TINY, num_images=2)
    assert len(found) == 4
    assert all(alike == asked for _, alike, asked in found.values())


def test_real_questions_are_all_there(data_root):
    slake, test = data.slake(data_root), data.vqa_rad(data_root, "test")
    assert (len(slake), data.num_questions(slake)) == (96, 1053)
    assert (len(test), data.num_questions(test)) == (203, 451)


def test_vqa_rad_as_branches_has_a_third_of_the_tokens(data_root):
    images = data.vqa_rad(data_root, "train")
    assert data.num_questions(images) == 1797
    counts = sft.count_tokens(model.make_policy(SHALLOW), images)
    assert counts.plain >= 3 * counts.computed >= 3 * counts.tree


def test_records_as_rows_and_as_branches_have_the_same_loss(data_root):
    images = data.sampled(data.vqa_rad(data_root, "train"), 2)
    settings = sft.SftSection(lora=model.lora_of(model.TINY))
    policy = model.make_policy(model.TINY)
    model.adapt(policy, settings)
    rows, tree = (sft.make(policy, images, settings, share=share) for share in (False, True))
    assert rows.loss() == pytest.approx(tree.loss(), rel=1e-5)


def test_projector_runs():
    assert set(projector.run(rounds=1, sizes=((1, 16, 32),))) == {(1, 16, 32)}


@pytest.mark.parametrize(
    "shape",
    ["llava-7b", *(pytest.param(s, marks=pytest.mark.slow) for s in ("qwen-4b", "gemma-4b"))],
)
def test_the_program_for_a_gpu_runs_at_toy_size_and_agrees_with_trl(shape):
    pytest.importorskip("trl")
    rows = gpu.run(shape, rounds=1, tiny=True)
    chosen = [row.per_second for row in rows if row.unit == "nats"]
    assert chosen == pytest.approx([chosen[0]] * 3, abs=1e-3)
    assert {row.unit for row in rows} == {"nats", "pairs/s", "tokens/s", "answer tokens/s"}


def test_attention_on_a_cpu_is_counted():
    q = torch.randn(1, 2, 8, 4, requires_grad=True)
    forward = 2 * 2 * 2 * 8 * 8 * 4  # two products, heads, T x T x D, multiply and add

    def both() -> None:
        F.scaled_dot_product_attention(q, q, q).sum().backward()

    assert timing.count_flops(both) == forward * 7 // 2  # backward: five products


def test_bytes_count_shared_storage_once_and_leave_parameters_out():
    weight = torch.nn.Parameter(torch.randn(4, 4))
    x = torch.randn(8, 4)

    def step() -> None:
        y = (x @ weight).exp()
        (y * y).sum().backward()

    measured = timing.measure(step, [weight])
    assert measured.saved == 2 * 8 * 4 * 4  # x and y
    assert measured.peak >= measured.saved - 8 * 4 * 4

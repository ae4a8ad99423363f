"""The trainer's promises: what a step's gradient is, and that a kill changes nothing."""

import copy
import json

import pytest
import torch
import toy
from safetensors.torch import load_file
from stages import (
    OBJECTIVES,
    dpo_objective,
    dpo_settings,
    micro_batch,
    run_training,
    sft_objective,
    sft_settings,
    trained_tensors,
)

from stllava.errors import PolicyError, RunError
from stllava.policy import adapters
from stllava.policy.policy import Policy
from stllava.training.trainer import TRAINABLE


def probe_batch(policy):
    return micro_batch(sft_objective(policy, sft_settings(), 4)).batch


def log_probs(policy, batch):
    policy.core.eval()
    with torch.no_grad():
        return toy.scorer_of(policy)(batch)


def image_features(policy, pixels):
    with torch.no_grad():
        return policy.core.get_image_features(pixels).pooler_output[0]


# Steps


def step_gradient(kind, budget, tmp_path, monkeypatch):
    """Gradient of one optimiser step of four records, read where the optimiser would."""
    make_settings, make_objective = OBJECTIVES[kind]
    settings = make_settings(micro_batch_tokens=budget, epochs=1, max_grad_norm=1e9)
    policy = toy.adapted(settings)
    toy.perturb(policy)
    objective = make_objective(policy, settings, 4)
    passes = []
    pack = policy.pack

    def counted(*args):
        passes.append(pack(*args))
        return passes[-1]

    seen = {}

    def read(optimizer, *_, **__):
        seen.update(toy.gradients(policy))

    monkeypatch.setattr(policy, "pack", counted)
    monkeypatch.setattr(torch.optim.AdamW, "step", read)
    run_training(policy, objective, settings, tmp_path / f"{kind}{budget}")
    monkeypatch.undo()
    return seen, len(passes)


def gradient_one_by_one(kind):
    """That of the mean, each sequence going through the model alone, one after another."""
    make_settings, make_objective = OBJECTIVES[kind]
    settings = make_settings()
    policy = toy.adapted(settings)
    toy.perturb(policy)
    objective = make_objective(policy, settings, 4)
    scorer = toy.scorer_of(policy)

    def scores(text, record_id):
        image = objective.image_of(record_id)
        return scorer(policy.pack([text], [image], toy.open_image))

    losses, num_tokens = [], 0
    for record_id in objective.ids:
        texts = objective.texts(record_id, 0)
        logps = [scores(text, record_id) for text in texts]
        num_tokens += sum(map(len, logps))
        if kind == "sft":
            losses.append(-logps[0].sum())
        else:
            chosen, rejected = (logp.sum() for logp in logps)
            known = objective.reference[record_id]
            margin = (chosen - known.chosen) - (rejected - known.rejected)
            losses.append(-torch.nn.functional.logsigmoid(settings.beta * margin))
    (sum(losses) / (num_tokens if kind == "sft" else len(losses))).backward()
    return toy.gradients(policy)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_gradient_of_a_step_is_that_of_the_mean_whatever_the_micro_batches(
    kind, tmp_path, monkeypatch
):
    expected = gradient_one_by_one(kind)
    scale = max(g.abs().max() for g in expected.values())
    assert scale > 0
    numbers = []
    for budget in (10_000, 160 if kind == "sft" else 60, 1):
        got, number = step_gradient(kind, budget, tmp_path, monkeypatch)
        numbers.append(number)
        assert got.keys() == expected.keys()
        for name in expected:
            assert (got[name] - expected[name]).abs().max() <= 1e-5 * scale, name
    assert numbers == [1, 3, 4]


def test_training_lowers_the_loss_and_logs_both_parts(tmp_path):
    settings = sft_settings(
        epochs=4, lr_llm=1e-2, lr_vit=1e-2, lr_projector=1e-2, learn_first_question=True
    )
    policy = toy.adapted(settings)
    counts = run_training(policy, sft_objective(policy, settings), settings, tmp_path / "trainer")
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert counts == {"steps": 10, "records": 10, "cut": 0}
    assert [line["step"] for line in lines] == [*range(1, 11)]
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    keys = {"loss", "loss/question", "loss/answer", "lr/lora_llm", "lr/lora_vit", "lr/projector"}
    assert all(keys <= set(line) for line in lines)


def test_cut_sequences_are_counted(tmp_path):
    settings = sft_settings(max_tokens=50)
    policy = toy.adapted(settings)
    objective = sft_objective(policy, settings)
    long = sum(len(objective.texts(i, 0)[0].ids) > 50 for i in objective.ids)
    assert 0 < long < 10
    assert run_training(policy, objective, settings, tmp_path / "trainer")["cut"] == long


# Afterwards


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A policy after a few real DPO steps. Tests that merge it work on a copy."""
    settings = dpo_settings(epochs=2, lr_llm=1e-2, lr_vit=1e-2, lr_projector=1e-2)
    policy = toy.adapted(settings)
    run_training(
        policy,
        dpo_objective(policy, settings),
        settings,
        tmp_path_factory.mktemp("dpo") / "trainer",
    )
    return policy


def test_with_adapters_off_the_trained_policy_is_the_one_it_started_from(trained):
    start = toy.policy()
    batch = probe_batch(start)
    before = log_probs(start, batch)
    assert (log_probs(trained, batch) - before).abs().max() > 0.01
    with adapters.reference(trained):
        assert torch.equal(log_probs(trained, batch), before)
        pixels = start.pixel_values([toy.open_image("x")])
        assert torch.equal(image_features(trained, pixels), image_features(start, pixels))


def test_the_projector_is_among_what_training_changes(trained):
    start = toy.policy()
    pixels = start.pixel_values([toy.open_image("x")])
    before = start.core.model.multi_modal_projector.state_dict()
    after = trained.core.model.multi_modal_projector.modules_to_save["default"].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if not n.startswith("ln_1")}
    assert not torch.allclose(image_features(trained, pixels), image_features(start, pixels))


def test_merged_checkpoint_equals_the_adapted_model(trained, tmp_path):
    trained = copy.deepcopy(trained)
    batch = probe_batch(trained)
    adapted = log_probs(trained, batch)
    difference = adapters.merge(trained, lambda: toy.scorer_of(trained)(batch))
    assert difference < 1e-4
    trained.save(tmp_path / "checkpoint", stage="dpo")
    merged = Policy.load(tmp_path / "checkpoint")
    assert (log_probs(merged, batch) - adapted).abs().max() < 1e-4
    assert {n for n, _ in merged.model.named_parameters()} == {
        n for n, _ in toy.policy().model.named_parameters()
    }


def test_a_merge_that_changes_the_model_is_refused(trained):
    outputs = iter([torch.zeros(3), torch.full((3,), 0.1)])
    with pytest.raises(PolicyError, match=r"differ by 0\.1 nats"):
        adapters.merge(copy.deepcopy(trained), lambda: next(outputs))


# Kill and resume


class Killed(Exception):
    pass


def kill_at(step):
    def progress(done, total, figures):
        if done == step:
            raise Killed

    return progress


def interrupted(kind, folder, stops, *, finish=True):
    """Train with a kill at each of `stops`, every time from a freshly made policy."""
    make_settings, make_objective = OBJECTIVES[kind]
    lora = toy.LORA.model_copy(update={"llm_dropout": 0.1, "vit_dropout": 0.1})
    settings = make_settings(
        lora=lora, epochs=2, save_steps=2, lr_llm=1e-2, lr_vit=1e-2, lr_projector=1e-2,
        max_tokens=50,
    )  # fmt: skip
    for stop in [*stops, None] if finish else stops:
        policy = toy.adapted(settings)
        objective = make_objective(policy, settings)
        try:
            run_training(policy, objective, settings, folder / "trainer", kill_at(stop))
        except Killed:
            continue
        assert stop is None
    return trained_tensors(policy), (folder / "metrics.jsonl").read_text()


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    """Folder, weights and metrics of a stage-1 training that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    return folder, *interrupted("sft", folder, [])


def assert_same(one, other):
    weights, metrics = one
    assert weights.keys() == other[0].keys()
    assert [name for name in weights if not torch.equal(weights[name], other[0][name])] == []
    assert metrics == other[1]


def test_a_killed_and_resumed_sft_gives_bitwise_the_same_weights(uninterrupted, tmp_path):
    resumed = interrupted("sft", tmp_path, [1, 3, 4])
    assert_same(resumed, uninterrupted[1:])
    lines = [json.loads(line) for line in resumed[1].splitlines()]
    assert 0 < lines[0]["cut"] < lines[-1]["cut"]


def test_a_killed_and_resumed_dpo_gives_bitwise_the_same_weights(tmp_path):
    whole = interrupted("dpo", tmp_path / "whole", [])
    assert_same(interrupted("dpo", tmp_path / "resumed", [3]), whole)


@pytest.mark.parametrize("torn_files", [(), (TRAINABLE, "trainer_state.json")])
def test_a_checkpoint_torn_by_the_kill_is_passed_over(torn_files, uninterrupted, tmp_path):
    interrupted("sft", tmp_path, [3], finish=False)
    torn = tmp_path / "trainer" / "checkpoint-4"
    torn.mkdir()
    for name in torn_files:
        (torn / name).touch()
    assert_same(interrupted("sft", tmp_path, []), uninterrupted[1:])


def test_a_training_killed_after_its_last_step_has_nothing_left_to_do(uninterrupted):
    folder, *whole = uninterrupted
    assert_same(interrupted("sft", folder, []), whole)


def test_resuming_with_another_shape_is_refused_in_one_line(tmp_path):
    interrupted("sft", tmp_path, [3], finish=False)
    settings = sft_settings(lora=toy.LORA.model_copy(update={"vit_rank": 0}), epochs=2)
    policy = toy.adapted(settings)
    with pytest.raises(RunError, match="does not fit this recipe"):
        run_training(policy, sft_objective(policy, settings), settings, tmp_path / "trainer")


def test_trainer_state_holds_nothing_that_needs_unpickling(uninterrupted):
    folder = sorted((uninterrupted[0] / "trainer").glob("checkpoint-*"))[-1]
    names = {file.name for file in folder.iterdir()}
    assert TRAINABLE in names
    assert "training_args.bin" not in names
    pickled = [n for n in names if n.endswith((".pt", ".pth", ".bin"))]
    assert {"optimizer.pt", "scheduler.pt"} <= set(pickled)
    for name in set(pickled) - {"rng_state.pth"}:
        torch.load(folder / name, weights_only=True)
    from transformers.trainer_pt_utils import safe_globals  # numpy's generator state, allowed

    with safe_globals():
        torch.load(folder / "rng_state.pth", weights_only=True)
    stored = load_file(str(folder / TRAINABLE))
    assert all("lora_" in name or "multi_modal_projector" in name for name in stored)

"""The trainer's promises: what is trained, in which steps, and that a kill changes nothing."""

import copy
import json
import random
from pathlib import Path

import pytest
import torch
import toy
from hypothesis import given
from hypothesis import strategies as st
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file

from stllava.chat import QUESTION
from stllava.config import DpoSection, SftSection
from stllava.errors import PolicyError, RunError
from stllava.policy import adapters
from stllava.policy.policy import Policy
from stllava.training.dpo import DpoObjective
from stllava.training.plan import plan_steps
from stllava.training.preflight import preflight
from stllava.training.sft import SftObjective
from stllava.training.trainer import TRAINABLE, train

ids_strategy = st.lists(st.text(min_size=1, max_size=4), unique=True, max_size=25)
sizes = st.integers(1, 7)


def sft_settings(**fields):
    return SftSection.model_validate({**toy.TRAINING, **fields})


def dpo_settings(**fields):
    return DpoSection.model_validate({**toy.TRAINING, **fields})


def sft_objective(policy, settings, number=10, seed=0):
    return SftObjective(policy, toy.conversations(number), toy.open_image, settings, seed)


def dpo_objective(policy, settings, number=10):
    objective = DpoObjective(policy, toy.preferences(number), toy.open_image, settings)
    known = objective.reference_log_probs(toy.scorer_of(policy), 4)
    objective.reference = {record.id: record for record in known}
    return objective


OBJECTIVES = {"sft": (sft_settings, sft_objective), "dpo": (dpo_settings, dpo_objective)}


def run_training(policy, objective, settings, output, progress=None):
    return train(
        toy.scorer_of(policy), objective, settings,
        output=Path(output), seed=5, precision="fp32", device="cpu", progress=progress,
    )  # fmt: skip


def trained_tensors(policy):
    return {n: p.detach().clone() for n, p in policy.core.named_parameters() if p.requires_grad}


def probe_batch(policy):
    return sft_objective(policy, sft_settings(), 4).collate(
        [(talk.id, 0) for talk in toy.conversations(4)]
    ).batch  # fmt: skip


def log_probs(policy, batch):
    policy.core.eval()
    with torch.no_grad():
        return toy.scorer_of(policy)(batch)


# The plan


@given(ids_strategy, sizes, st.integers(0, 4), st.integers(0, 3), st.randoms())
def test_plan_loses_no_record_and_fills_every_step_but_the_last(ids, size, epochs, seed, rng):
    plan = plan_steps(ids, batch_size=size, epochs=epochs, seed=seed)
    flat = [record for step in plan for record in step.records]
    assert sorted(flat) == sorted((i, epoch) for i in ids for epoch in range(epochs))
    assert [epoch for _, epoch in flat] == sorted(epoch for _, epoch in flat)
    assert all(len(step.records) == size for step in plan[:-1])
    assert all(1 <= len(step.records) <= size for step in plan[-1:])
    rng.shuffle(ids)
    assert plan_steps(ids, batch_size=size, epochs=epochs, seed=seed) == plan


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


# Which questions are learned


def asked(objective, talk, epoch):
    return QUESTION in objective.tokens(talk, epoch).learned


def test_question_coins_belong_to_the_record_and_change_with_epoch_and_seed():
    settings = sft_settings(question_ratio=0.5, learn_first_question=True)
    policy, talks = toy.policy(), toy.conversations(40)
    shuffled = random.Random(0).sample(talks, len(talks))
    one = SftObjective(policy, talks, toy.open_image, settings, 0)
    two = SftObjective(policy, shuffled[:25], toy.open_image, settings, 0)
    coins = {talk.id: [one.tokens(talk, e).learned for e in range(2)] for talk in talks}
    for talk in shuffled[:25]:
        assert [two.tokens(talk, e).learned for e in range(2)] == coins[talk.id]
    assert any(first != second for first, second in coins.values())
    reseeded = SftObjective(policy, talks, toy.open_image, settings, 1)
    assert any(reseeded.tokens(talk, 0).learned != coins[talk.id][0] for talk in talks)


@pytest.mark.parametrize(("ratio", "first", "expected"), [(0, True, 0), (1, True, 40)])
def test_question_ratio_is_the_share_of_conversations_turns(ratio, first, expected):
    settings = sft_settings(question_ratio=ratio, learn_first_question=first)
    objective = sft_objective(toy.policy(), settings, 40)
    talks = toy.conversations(40)
    assert sum(asked(objective, talk, 0) for talk in talks) == expected


def test_the_first_question_is_learned_only_if_the_recipe_says_so():
    settings = sft_settings(question_ratio=1, learn_first_question=False)
    objective = sft_objective(toy.policy(), settings, 40)
    for talk in toy.conversations(40):
        ids = objective.tokens(talk, 0).ids
        assert ids.count(toy.VUSR) == len(talk.turns) - 1


# Adapters


def test_adapters_have_two_ranks_and_three_groups_at_their_learning_rates():
    settings = sft_settings(lr_llm=1e-3, lr_vit=2e-3, lr_projector=3e-3)
    policy = toy.adapted(settings)
    groups = {g["name"]: g for g in adapters.parameter_groups(policy.core, settings)}
    assert {name: g["lr"] for name, g in groups.items()} == {
        "lora_llm": 1e-3, "lora_vit": 2e-3, "projector": 3e-3,
    }  # fmt: skip
    for group, rank, per_layer in (("lora_llm", 4, 7), ("lora_vit", 2, 6)):
        named = dict(zip(groups[group]["names"], groups[group]["params"], strict=True))
        assert len(named) == 2 * per_layer * toy.LAYERS
        assert {p.shape[0] for n, p in named.items() if "lora_A" in n} == {rank}
        assert {p.shape[1] for n, p in named.items() if "lora_B" in n} == {rank}
    trainable = {id(p) for p in policy.core.parameters() if p.requires_grad}
    assert trainable == {id(p) for g in groups.values() for p in g["params"]}


def test_scaling_is_alpha_over_rank_in_both_parts():
    lora = toy.LORA.model_copy(update={"llm_alpha": 12, "vit_alpha": 10})
    policy = toy.adapted(sft_settings(lora=lora))
    found = {
        (adapters.group_of(name), module.scaling["default"])
        for name, module in policy.core.named_modules()
        if isinstance(module, LoraLayer)
    }
    assert found == {("lora_llm", 12 / 4), ("lora_vit", 10 / 2)}


def test_dropout_is_set_per_part():
    lora = toy.LORA.model_copy(update={"llm_dropout": 0.05, "vit_dropout": 0.2})
    policy = toy.adapted(sft_settings(lora=lora))
    found = {
        (adapters.group_of(name), module.p)
        for name, module in policy.core.named_modules()
        if isinstance(module, torch.nn.Dropout) and "lora" in name
    }
    assert found == {("lora_llm", 0.05), ("lora_vit", 0.2)}


def frozen_norm(policy):
    return not any(p.requires_grad for n, p in policy.core.named_parameters() if ".ln_1." in n)


def test_the_unused_layer_norm_stays_frozen_also_after_the_reference_was_asked():
    policy = toy.adapted(sft_settings())
    assert frozen_norm(policy)
    trainable = set(trained_tensors(policy))
    with adapters.reference(policy):
        pass
    assert frozen_norm(policy)
    assert set(trained_tensors(policy)) == trainable


@pytest.mark.parametrize(("feature_layer", "layers"), [(-1, {0, 1}), (-2, {0}), (1, {0})])
def test_vision_layers_after_the_feature_layer_get_no_adapter(feature_layer, layers):
    policy = toy.adapted(sft_settings(), feature_layer=feature_layer)
    names = [n for n in trained_tensors(policy) if "vision_tower" in n]
    assert {int(n.split(".layers.")[1].split(".")[0]) for n in names} == layers
    rows = preflight(toy.scorer_of(policy), sft_objective(policy, sft_settings()), sft_settings())
    assert all(not row["without"] for row in rows)


@pytest.mark.parametrize("part", ["llm_rank", "vit_rank"])
def test_rank_zero_leaves_that_part_frozen(part):
    settings = sft_settings(lora=toy.LORA.model_copy(update={part: 0}))
    policy = toy.adapted(settings)
    gone = "lora_llm" if part == "llm_rank" else "lora_vit"
    groups = {g["name"] for g in adapters.parameter_groups(policy.core, settings)}
    assert groups == set(adapters.GROUPS) - {gone}


def test_both_ranks_zero_is_an_error():
    lora = toy.LORA.model_copy(update={"llm_rank": 0, "vit_rank": 0})
    with pytest.raises(PolicyError, match="both ranks are 0"):
        toy.adapted(sft_settings(lora=lora))


# Preflight


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("variant", ["prototype", "mlp"])
def test_preflight_reports_every_group_and_leaves_no_trace(kind, variant):
    make_settings, make_objective = OBJECTIVES[kind]
    settings = make_settings()
    policy = toy.adapted(settings, variant=variant)
    before = trained_tensors(policy)
    objective = make_objective(policy, settings)
    rows = {row["group"]: row for row in preflight(toy.scorer_of(policy), objective, settings)}
    assert [*rows] == [*adapters.GROUPS]
    for name, row in rows.items():
        assert row["with_gradient"] == row["checked"] > 0, name
        assert row["without"] == []
    assert rows["lora_vit"]["learning_rate"] == settings.lr_vit
    assert rows["lora_llm"]["tensors"] == 28
    assert toy.gradients(policy) == {}
    assert all(torch.equal(before[n], t) for n, t in trained_tensors(policy).items())


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_preflight_stops_when_the_vision_tower_runs_without_gradient(kind):
    make_settings, make_objective = OBJECTIVES[kind]
    settings = make_settings()
    policy = toy.adapted(settings)
    tower = policy.core.model.vision_tower
    tower.forward = torch.no_grad()(tower.forward)  # the published bug
    with pytest.raises(PolicyError, match=r"lora_vit: none of its 24 tensors receives gradient"):
        preflight(toy.scorer_of(policy), make_objective(policy, settings), settings)


def test_preflight_stops_when_image_features_come_without_gradient():
    settings = sft_settings()
    policy = toy.adapted(settings)
    policy.core.get_image_features = torch.no_grad()(policy.core.get_image_features)
    with pytest.raises(PolicyError, match="lora_vit"):
        preflight(toy.scorer_of(policy), sft_objective(policy, settings), settings)


def test_preflight_names_a_single_tensor_that_the_loss_does_not_reach():
    settings = sft_settings()
    policy = toy.adapted(settings)
    for name, parameter in policy.core.named_parameters():
        if "modules_to_save" in name and ".ln_1." in name:
            parameter.requires_grad_(True)
    with pytest.raises(PolicyError, match=r"projector: .*ln_1.* not reached by the loss"):
        preflight(toy.scorer_of(policy), sft_objective(policy, settings), settings)


# Steps


def step_gradient(kind, micro_batch_size, tmp_path, monkeypatch):
    """Gradient of one optimiser step of four records, read where the optimiser would."""
    make_settings, make_objective = OBJECTIVES[kind]
    settings = make_settings(micro_batch_size=micro_batch_size, epochs=1, max_grad_norm=1e9)
    policy = toy.adapted(settings)
    toy.perturb(policy)
    objective = make_objective(policy, settings, 4)
    seen = {}

    def read(optimizer, *_, **__):
        seen.update(toy.gradients(policy))

    monkeypatch.setattr(torch.optim.AdamW, "step", read)
    run_training(policy, objective, settings, tmp_path / f"{kind}{micro_batch_size}")
    monkeypatch.undo()
    return seen


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_gradient_of_a_step_does_not_depend_on_the_micro_batch_size(kind, tmp_path, monkeypatch):
    whole = step_gradient(kind, 4, tmp_path, monkeypatch)
    scale = max(g.abs().max() for g in whole.values())
    assert scale > 0
    for size in (1, 3):
        parts = step_gradient(kind, size, tmp_path, monkeypatch)
        assert parts.keys() == whole.keys()
        for name in whole:
            assert (parts[name] - whole[name]).abs().max() <= 1e-5 * scale, name


def test_gradient_of_an_sft_step_is_that_of_the_mean_over_all_learned_tokens(tmp_path, monkeypatch):
    got = step_gradient("sft", 1, tmp_path, monkeypatch)
    settings = sft_settings(micro_batch_size=4)
    policy = toy.adapted(settings)
    toy.perturb(policy)
    objective = sft_objective(policy, settings, 4)
    micro = objective.collate([(talk.id, 0) for talk in toy.conversations(4)])
    (-toy.scorer_of(policy)(micro.batch)).mean().backward()
    expected = toy.gradients(policy)
    scale = max(g.abs().max() for g in expected.values())
    assert max((got[n] - expected[n]).abs().max() for n in expected) <= 1e-5 * scale


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
    long = sum(len(objective.tokens(talk, 0).ids) > 50 for talk in toy.conversations(10))
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
        with torch.no_grad():
            features = [p.image_features(pixels) for p in (trained, start)]
        assert torch.equal(*features)


def test_the_projector_is_among_what_training_changes(trained):
    start = toy.policy()
    pixels = start.pixel_values([toy.open_image("x")])
    before = start.core.model.multi_modal_projector.state_dict()
    after = trained.core.model.multi_modal_projector.modules_to_save["default"].state_dict()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {n for n in before if not n.startswith("ln_1")}
    with torch.no_grad():
        assert not torch.allclose(trained.image_features(pixels), start.image_features(pixels))


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
        lora=lora, epochs=2, save_steps=2, lr_llm=1e-2, lr_vit=1e-2, lr_projector=1e-2
    )
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
    assert_same(interrupted("sft", tmp_path, [1, 3, 4]), uninterrupted[1:])


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

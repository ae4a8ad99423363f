"""What is trained, at which rate, and that the preflight finds what is not."""

import pytest
import torch
import toy
from peft.tuners.lora import LoraLayer
from stages import OBJECTIVES, sft_objective, sft_settings, trained_tensors

from stllava.errors import PolicyError
from stllava.policy import adapters
from stllava.training.plan import first_micro_batch
from stllava.training.preflight import preflight


def checked(policy, objective, settings):
    micro = first_micro_batch(objective, settings)
    return preflight(toy.scorer_of(policy), objective, micro, settings)


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
    rows = checked(policy, sft_objective(policy, sft_settings()), sft_settings())
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
    rows = {row["group"]: row for row in checked(policy, objective, settings)}
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
    objective = make_objective(policy, settings)
    tower = policy.core.model.vision_tower
    tower.forward = torch.no_grad()(tower.forward)  # the published bug
    with pytest.raises(PolicyError, match=r"lora_vit: none of its 24 tensors receives gradient"):
        checked(policy, objective, settings)


def test_preflight_stops_when_image_features_come_without_gradient():
    settings = sft_settings()
    policy = toy.adapted(settings)
    inner = policy.core.model
    inner.get_image_features = torch.no_grad()(inner.get_image_features)
    with pytest.raises(PolicyError, match="lora_vit"):
        checked(policy, sft_objective(policy, settings), settings)


def test_preflight_names_a_single_tensor_that_the_loss_does_not_reach():
    settings = sft_settings()
    policy = toy.adapted(settings)
    for name, parameter in policy.core.named_parameters():
        if "modules_to_save" in name and ".ln_1." in name:
            parameter.requires_grad_(True)
    with pytest.raises(PolicyError, match=r"projector: .*ln_1.* not reached by the loss"):
        checked(policy, sft_objective(policy, settings), settings)

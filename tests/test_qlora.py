"""The base in 4 bits: what is quantised, that training is still training, and what is merged.

Toys of width 64, so that a row of weights is a block. Trained, killed and merged as by the stages.
"""

import json
import sys
from functools import cache

import pytest
import stages
import torch
import toy
import vlms
from safetensors.torch import load_file
from stages import OBJECTIVES, dpo_settings, run_training, sft_settings, trained_tensors

from stllava.config import Recipe
from stllava.errors import MissingExtra, PolicyError, RecipeError, RunError
from stllava.files import read_json, read_records
from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.pipeline.job import Job, Quiet
from stllava.pipeline.train import dpo, sft
from stllava.policy import adapters
from stllava.policy.inspection import inspect_folder
from stllava.policy.nf4 import NF4Linear
from stllava.policy.policy import Policy
from stllava.policy.quantise import quantise, quantised_base
from stllava.policy.scorer import TokenScorer
from stllava.recipe import load_recipe
from stllava.records import Image, Preference, Request, Turn
from stllava.run import Run
from stllava.training.plan import first_micro_batch
from stllava.training.preflight import preflight
from stllava.training.recompute import recompute_layers
from stllava.training.reference import ReferenceLogProbs, reference_keys

FAMILIES = ("prototype", "mlp", "qwen2_5_vl")
RUNS = (
    "prototype",
    pytest.param("mlp", marks=pytest.mark.soak),
    pytest.param("qwen2_5_vl", marks=pytest.mark.slow),
)
WIDE = {"hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
BIG = {"micro_batch_tokens": 600, "max_tokens": 512}
QUICK = {**BIG, "lr_llm": 1e-2, "lr_vit": 1e-2, "lr_projector": 1e-2, "epochs": 2}
NF4 = (-1.0, -0.6962, -0.5251, -0.3949, -0.2844, -0.1848, -0.0911, 0.0, 0.0796, 0.1609, 0.2461,
       0.3379, 0.4407, 0.5626, 0.7230, 1.0)  # fmt: skip  # QLoRA, appendix E


@pytest.fixture(autouse=True, scope="module")
def whole_blocks():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(toy, "WIDTH", 64)
        yield


@cache
def qwen(folder):
    """Qwen2.5-VL with 48 numbers in a row of `down_proj`: no whole blocks."""

    def config(text, ids):
        wide = vlms.qwen2_5_vl({**text, **WIDE}, ids)
        wide.vision_config.out_hidden_size = 64
        return wide

    return vlms.write(vlms.VLMS["qwen2_5_vl"]._replace(config=config), folder)


@pytest.fixture(scope="module")
def make(tmp_path_factory):
    """Makes a fresh policy of a family."""
    folder = tmp_path_factory.mktemp("qwen")

    def policy(family):
        if family == "qwen2_5_vl":
            return Policy.load(qwen(folder), image_side=24)
        return toy.policy(family)

    return policy


def in_4_bits(policy):
    quantise(policy, "cpu")
    return policy


def adapted(policy, settings):
    torch.manual_seed(0)
    adapters.adapt(policy, settings)
    adapters.set_dropout(policy, settings.lora)
    return policy


def packed(policy):
    """Bytes and scales of every weight in 4 bits, by the module's name in the bare model."""
    found = {}
    for name, module in policy.core.named_modules():
        if isinstance(module, NF4Linear):
            state = module.weight.quant_state
            tensors = [module.weight.data, state.absmax, state.state2.absmax, state.offset]
            name = name.removesuffix(".base_layer")
            found[name] = [tensor.detach().clone() for tensor in tensors]
    return found


def same(one, other):
    return one.keys() == other.keys() and all(
        torch.equal(a, b) for name in one for a, b in zip(one[name], other[name], strict=True)
    )


def log_probs(policy, batch):
    policy.core.eval()
    with torch.inference_mode():
        return TokenScorer.of(policy)(batch)


# What is quantised


@pytest.mark.parametrize("family", FAMILIES)
def test_only_linear_maps_of_the_language_model_are_in_4_bits(family, make):
    plain, policy = make(family), in_4_bits(make(family))
    linears = {n: m for n, m in plain.core.named_modules() if n and isinstance(m, torch.nn.Linear)}
    language = {n for n in linears if "language_model.layers" in n}
    whole = {n for n in language if linears[n].in_features % 64 == 0}
    assert len(whole) == (14 if family != "qwen2_5_vl" else 12)
    assert set(packed(policy)) == whole
    found = quantised_base(policy.core)
    assert (found.maps, found.left) == (len(whole), len(language - whole))
    assert found.weights == sum(linears[n].weight.numel() for n in whole)
    assert found.weights / 2 < found.bytes
    rest = {
        n: p for n, p in policy.core.named_parameters() if n.removesuffix(".weight") not in whole
    }
    for name, parameter in plain.core.named_parameters():
        if name.removesuffix(".weight") not in whole:
            assert rest[name].dtype == torch.float32
            assert torch.equal(rest[name], parameter), name


def test_a_weight_becomes_the_nearest_normal_float_of_its_block():
    torch.manual_seed(0)
    linear = torch.nn.Linear(128, 32)
    weight = linear.weight.detach()
    codes, scale = torch.tensor(NF4), weight.view(-1, 64).abs().amax(1, keepdim=True)
    nearest = codes[(weight.view(-1, 64, 1) / scale[..., None] - codes).abs().argmin(-1)] * scale
    small = NF4Linear(linear, "cpu")
    held = small(torch.eye(128)).detach().T - linear.bias.detach()[:, None]
    # Apart from the second quantisation: scales have 8 bits, in blocks of 256
    assert (held - nearest.view_as(held)).abs().max() < 0.02 * weight.abs().max()
    assert (held - weight).abs().max() > 0.05 * weight.abs().max()


def test_the_same_weights_give_the_same_bits():
    assert same(packed(in_4_bits(toy.policy())), packed(in_4_bits(toy.policy())))


# Arithmetic


def test_gradient_of_the_input_is_that_of_the_dequantised_map_in_train_and_after_eval():
    torch.manual_seed(0)
    small = NF4Linear(torch.nn.Linear(64, 32), "cpu")
    before = small.weight.data.clone()
    bias = small.bias.detach().clone()
    held = (small(torch.eye(64)) - small.bias).detach().T
    for mode in (small.train, small.eval, small.train):
        mode()
        x = torch.randn(3, 5, 64)
        with torch.no_grad():
            torch.testing.assert_close(small(x), x @ held.T + bias)
        x.requires_grad_()
        small(x).sum().backward()
        torch.testing.assert_close(x.grad, held.sum(0).expand(3, 5, 64))
    assert torch.equal(small.weight.data, before)
    assert torch.equal(small.bias, bias)


def test_autocast_rounds_its_output_but_nothing_that_it_keeps():
    torch.manual_seed(0)
    linear = torch.nn.Linear(64, 32)
    small, x = NF4Linear(linear, "cpu"), torch.randn(4, 64)
    exact = small(x)
    with torch.autocast("cpu", torch.bfloat16):
        assert small(x).dtype == linear(x).dtype == torch.bfloat16
        assert (small(x) - exact).abs().max() < 0.05
    assert torch.equal(small(x), exact)
    assert torch.equal(small.bias, linear.bias)


# Training


@pytest.mark.parametrize("kind", OBJECTIVES)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_part_gets_gradient_over_a_base_in_4_bits(family, kind, make):
    make_settings, make_objective = OBJECTIVES[kind]
    settings = make_settings(**BIG)
    policy = adapted(in_4_bits(make(family)), settings)
    objective = make_objective(policy, settings, 4)
    micro = first_micro_batch(objective, settings)
    rows = preflight(TokenScorer.of(policy), objective, micro, settings)
    assert [row["group"] for row in rows] == list(adapters.GROUPS)
    assert all(row["with_gradient"] == row["checked"] > 0 for row in rows)
    assert quantised_base(policy.core).maps == len(packed(policy))


def test_training_lowers_the_loss_and_leaves_the_base_as_it_was(tmp_path):
    settings = sft_settings(**{**QUICK, "epochs": 3})
    policy = adapted(in_4_bits(toy.policy()), settings)
    objective = stages.sft_objective(policy, settings, 6)
    before, start = packed(policy), trained_tensors(policy)
    kept = {n: p.clone() for n, p in policy.core.named_parameters() if not p.requires_grad}
    run_training(policy, objective, settings, tmp_path / "trainer")
    lines = [json.loads(x) for x in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["loss"] < lines[0]["loss"] - 1
    assert same(packed(policy), before)
    now = dict(policy.core.named_parameters())
    assert all(torch.equal(now[name], value) for name, value in kept.items())
    assert not any(torch.equal(now[name], value) for name, value in start.items())


def test_recomputed_layers_give_the_same_gradient():
    settings = sft_settings(**BIG)
    found = []
    for recompute in (False, True):
        policy = adapted(in_4_bits(toy.policy()), settings)
        if recompute:
            recompute_layers(policy)
        objective = stages.sft_objective(policy, settings, 4)
        policy.core.train()
        micro = first_micro_batch(objective, settings)
        objective.loss(TokenScorer.of(policy), micro).total.backward()
        found.append(toy.gradients(policy))
    assert found[0].keys() == found[1].keys()
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient)


def test_with_adapters_off_the_trained_policy_is_the_4_bit_one_it_started_from():
    settings = dpo_settings()
    start = in_4_bits(toy.policy())
    policy = adapted(in_4_bits(toy.policy()), settings)
    toy.perturb(policy)
    batch = first_micro_batch(stages.sft_objective(start, sft_settings(), 4), settings).batch
    before = log_probs(start, batch)
    assert (log_probs(policy, batch) - before).abs().max() > 0.01
    with adapters.reference(policy):
        assert torch.equal(log_probs(policy, batch), before)


def test_adapters_over_4_bits_have_the_names_and_start_of_those_over_whole_weights(tmp_path):
    settings = sft_settings()
    whole, small = (adapted(p, settings) for p in (toy.policy(), in_4_bits(toy.policy())))
    assert {n: t.shape for n, t in trained_tensors(small).items()} == {
        n: t.shape for n, t in trained_tensors(whole).items()
    }
    for name, policy in (("whole", whole), ("small", small)):
        policy.model.save_pretrained(tmp_path / name)
    one, other = (load_file(tmp_path / n / "adapter_model.safetensors") for n in ("whole", "small"))
    assert {n: t.tolist() for n, t in one.items()} == {n: t.tolist() for n, t in other.items()}
    assert len(adapters.zero_lora_b(other)) == 14 + 12


class Killed(Exception):
    pass


def interrupted(kind, folder, stops):
    """Train with a kill at each of `stops`, every time over a base quantised anew."""
    make_settings, make_objective = OBJECTIVES[kind]
    lora = toy.LORA.model_copy(update={"llm_dropout": 0.1, "vit_dropout": 0.1})
    settings = make_settings(**QUICK, lora=lora, save_steps=1)
    for stop in [*stops, None]:

        def kill(done, total, figures, stop=stop):
            if done == stop:
                raise Killed

        policy = adapted(in_4_bits(toy.policy()), settings)
        objective = make_objective(policy, settings, 6)
        try:
            run_training(policy, objective, settings, folder / "trainer", kill)
        except Killed:
            continue
    return trained_tensors(policy), (folder / "metrics.jsonl").read_text()


@pytest.mark.parametrize(
    ("kind", "stops"), [("sft", [2]), pytest.param("dpo", [2], marks=pytest.mark.slow)]
)
def test_a_killed_and_resumed_training_gives_bitwise_the_same_weights(kind, stops, tmp_path):
    weights, metrics = interrupted(kind, tmp_path / "whole", [])
    again, said = interrupted(kind, tmp_path / "killed", stops)
    assert said == metrics
    assert [name for name in weights if not torch.equal(weights[name], again[name])] == []


# The stages


class Notes(Quiet):
    def __init__(self, stop=None):
        self.lines, self.stop = [], stop

    def note(self, text):
        self.lines.append(text)

    def advance(self, done, total, **figures):
        if "loss" in figures and done == self.stop:
            raise Killed


def job_of(run, base, reporter, **model):
    section = {
        "path": str(base), "precision": "fp32", "quantize": "nf4", "device": "cpu", "threads": 1
    }  # fmt: skip
    training = {**toy.TRAINING, **QUICK, "save_steps": 1}
    if "qwen" in str(base):
        section["image_side"] = 24
    recipe = {"model": {**section, **model}, "sft": training, "dpo": training}
    job = Job(run, Recipe.model_validate(recipe), reporter)
    vars(job)["open_image"] = toy.open_image
    return job


def prepared(run):
    """What prepare leaves: images and conversations."""
    stage = run.stage("prepare")
    stage.begin(inputs=[], settings={"image_roots": {}})
    talks = toy.conversations(6)
    for name in dict.fromkeys(talk.image for talk in talks):
        fields = {"width": 32, "height": 32, "group": name, "source": "toy"}
        stage.append("images.jsonl", Image(id=name, path=name, sha256=name, **fields))
    for talk in talks:
        stage.append("conversations.jsonl", talk)
    stage.finish(conversations=len(talks))


def preferred(run):
    """What answer and prefer leave: draws of the merged stage-1 policy, in full precision."""
    checkpoint = run.path / "sft" / "checkpoint"
    run.stage("answer").begin(inputs=[checkpoint], settings={})
    requests = [
        Request(
            id=f"i{n // 2}/q{n}", image=f"i{n // 2}", num_draws=2, max_tokens=6,
            turns=(Turn(question="Is there a nodule?"),),
        )
        for n in range(6)
    ]  # fmt: skip
    generator = PolicyGenerator(Policy.load(checkpoint), toy.open_image, name="sft")
    draws = list(generator.generate(requests, Sampling(temperature=1.2, seed=3)))
    stage = run.stage("prefer")
    stage.begin(inputs=[], settings={})
    for n, request in enumerate(requests):
        pair = Preference(
            id=request.id, answers_id=request.id, image=request.image,
            question=request.turns[0].question, chosen=draws[2 * n], rejected=draws[2 * n + 1],
            margin=1.0, source="toy",
        )  # fmt: skip
        stage.append("preferences.jsonl", pair)
    stage.finish()


@pytest.fixture(scope="module")
def ran(make, tmp_path_factory):
    """Folder and notes of both stages over a base in 4 bits, by family; run once each."""

    @cache
    def run_of(family):
        folder = tmp_path_factory.mktemp(f"run-{family}")
        base = folder / "base"
        make(family).save(base)
        notes = Notes()
        with Run(folder) as run:
            prepared(run)
            sft(job_of(run, base, notes))
            preferred(run)
            dpo(job_of(run, base, notes))
        return folder, notes.lines

    return run_of


@pytest.mark.parametrize("family", RUNS)
def test_both_stages_train_over_4_bits_and_leave_whole_checkpoints(family, ran):
    folder, notes = ran(family)
    maps = 12 if family == "qwen2_5_vl" else 14
    for stage in ("sft", "dpo"):
        counted = read_json(folder / stage / "stage.json")
        assert counted["quantize"] == "nf4"
        assert counted["merge_difference"] < 1e-3
        assert counted["quantized_difference_mean"] > 100 * counted["merge_difference"]
        assert counted["quantized_difference"] > counted["quantized_difference_mean"]
        base = read_json(folder / stage / "preflight.json")["base"]
        assert (base["maps"], base["left"]) == (maps, 14 - maps)
        merged = Policy.load(folder / stage / "checkpoint")
        assert quantised_base(merged.core) is None
    assert {n for n, _ in merged.core.named_parameters()} == {
        n for n, _ in Policy.load(folder / "base").core.named_parameters()
    }
    said = [note for note in notes if "base in 4 bits" in note]
    assert [note.partition(":")[0] for note in said] == ["base", "sft"]
    assert sum(note.startswith("merged into the unquantised base") for note in notes) == 2


@pytest.mark.parametrize("family", RUNS)
def test_the_merged_weights_are_the_unquantised_ones_plus_the_adapter(family, ran):
    folder, _ = ran(family)
    for stage, start in (("sft", folder / "base"), ("dpo", folder / "sft" / "checkpoint")):
        before = dict(Policy.load(start).core.named_parameters())
        after = dict(Policy.load(folder / stage / "checkpoint").core.named_parameters())
        adapter = load_file(folder / stage / "adapter" / "adapter_model.safetensors")
        found = {n for n in adapter if "lora_A" in n}
        moved = set()
        for name in found:
            b = adapter[name.replace("lora_A", "lora_B")]
            target = name.removeprefix("base_model.model.").replace("lora_A.", "")
            moved.add(target)
            change = 2 * b @ adapter[name]  # alpha / rank of the toys
            torch.testing.assert_close(after[target], before[target] + change, rtol=0, atol=1e-5)
        assert len(moved) == len(found) > 14
        for name in before.keys() - moved:
            if not any(part in name for part in ("projector", "merger", "embed_tokens", "lm_head")):
                assert torch.equal(after[name], before[name]), name


def test_the_recorded_difference_is_that_of_trained_and_merged_policy(ran):
    from peft import PeftModel

    folder, notes = ran("prototype")
    trained = in_4_bits(Policy.load(folder / "base"))
    trained.model = PeftModel.from_pretrained(trained.model, folder / "sft" / "adapter")
    settings = sft_settings(**BIG)
    batch = first_micro_batch(stages.sft_objective(trained, settings, 6), settings).batch
    merged = Policy.load(folder / "sft" / "checkpoint")
    change = (log_probs(trained, batch) - log_probs(merged, batch)).abs()
    counted = read_json(folder / "sft" / "stage.json")
    assert counted["quantized_difference"] == pytest.approx(change.max().item(), abs=1e-4)
    assert counted["quantized_difference_mean"] == pytest.approx(change.mean().item(), abs=1e-4)
    (said, _) = (note for note in notes if note.startswith("merged into the unquantised base"))
    assert f"by {change.mean().item():.2g} nats on average" in said


def test_what_the_whole_policy_recorded_is_not_the_reference_of_the_one_in_4_bits(ran):
    folder, notes = ran("prototype")
    (said,) = (note for note in notes if note.startswith("reference "))
    assert said.startswith("reference computed in one pass")
    assert "loss 0.6931" in said
    kept = {r.id: r for r in read_records(folder / "dpo" / "reference.jsonl", ReferenceLogProbs)}
    pairs = list(read_records(folder / "prefer" / "preferences.jsonl", Preference))
    recorded = [sum(pair.chosen.logprobs) for pair in pairs]
    computed = [kept[pair.id].chosen for pair in pairs]
    assert max(abs(a - b) for a, b in zip(recorded, computed, strict=True)) > 0.1


def test_reference_log_probs_of_4_bits_and_of_whole_weights_are_kept_apart():
    settings = dpo_settings()
    keys = []
    for policy in (toy.policy(), in_4_bits(toy.policy())):
        objective = stages.dpo_objective(adapted(policy, settings), settings, 2)
        images = {objective.image_of(i): "sha" for i in objective.ids}
        keys.append(reference_keys(objective, "sha", images, "fp32"))
    assert keys[0].keys() == keys[1].keys()
    assert not set(keys[0].values()) & set(keys[1].values())


@pytest.mark.soak
@pytest.mark.parametrize("stage", ["sft", "dpo"])
def test_a_stage_killed_while_training_ends_with_the_same_files(stage, ran, tmp_path):
    whole, _ = ran("prototype")
    with Run(tmp_path) as run:
        (tmp_path / "base").symlink_to(whole / "base")
        prepared(run)
        if stage == "dpo":
            (tmp_path / "sft").symlink_to(whole / "sft")
            preferred(run)
        begin = {"sft": sft, "dpo": dpo}[stage]
        with pytest.raises(Killed):
            begin(job_of(run, tmp_path / "base", Notes(stop=2)))
        assert not (tmp_path / stage / "checkpoint").exists()
        begin(job_of(run, tmp_path / "base", Notes()))
    for name in ("adapter/adapter_model.safetensors", "checkpoint/model.safetensors",
                 "metrics.jsonl"):  # fmt: skip
        assert (tmp_path / stage / name).read_bytes() == (whole / stage / name).read_bytes()


def test_a_run_begun_over_4_bits_is_not_continued_over_whole_weights(ran):
    folder, _ = ran("prototype")
    with Run(folder) as run, pytest.raises(RunError, match=r"other settings \(quantize"):
        sft(job_of(run, folder / "base", Notes(), quantize="none"))


def test_inspect_says_that_the_base_was_quantised(ran):
    folder, _ = ran("prototype")
    for part in ("adapter", "checkpoint"):
        found = inspect_folder(folder / "dpo" / part)
        assert set(found.provenance["base_while_training"]) == {"sft", "dpo"}
        assert "nf4" in found.provenance["base_while_training"]["dpo"]
        assert found.problems == []


# Refusals


def refusal(kind, policy=None):
    with pytest.raises(kind) as error:
        quantise(policy or toy.policy(), "cpu")
    assert "\n" not in str(error.value)
    return str(error.value)


def test_without_bitsandbytes_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.delitem(sys.modules, "stllava.policy.nf4")
    assert refusal(MissingExtra).endswith("pip install 'stllava[qlora]'")


def test_a_device_on_which_it_does_not_work_is_named_with_the_reason(monkeypatch):
    def fails(*_, **__):
        raise RuntimeError("no kernel image\nis available")

    monkeypatch.setattr("bitsandbytes.functional.quantize_4bit", fails)
    said = refusal(PolicyError)
    assert said.startswith("model.quantize: nf4 does not work on cpu here: no kernel image;")
    assert said.endswith("set model.quantize=none")


def test_an_unknown_value_is_refused():
    with pytest.raises(RecipeError, match=r"model\.quantize: Input should be 'none' or 'nf4'"):
        load_recipe("demo", ["model.quantize=int4"])


def test_a_model_without_whole_blocks_or_quantised_already_is_refused(monkeypatch):
    quantised = toy.policy()
    quantised.core.config.quantization_config = {"quant_method": "bitsandbytes"}
    assert "is quantised already" in refusal(PolicyError, quantised)
    monkeypatch.setattr(toy, "WIDTH", 16)
    assert "no linear maps of whole blocks of 64" in refusal(PolicyError, toy.policy())


def test_weights_in_4_bits_are_never_saved_as_a_checkpoint(tmp_path):
    with pytest.raises(PolicyError, match="only the adapter over it"):
        in_4_bits(toy.policy()).save(tmp_path / "checkpoint")
    assert not (tmp_path / "checkpoint").exists()

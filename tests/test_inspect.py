"""What `inspect` says about folders: real checkpoints and adapters, some of them broken."""

import json
import math
import subprocess
import sys

import pytest
import torch
import toy
from safetensors.torch import load_file, save_file

from stllava import cli
from stllava.config import SftSection
from stllava.errors import PolicyError
from stllava.policy.inspection import inspect_folder
from stllava.policy.inspection.parts import LANGUAGE, PROJECTOR, PROTOTYPES, VISION

SETTINGS = SftSection.model_validate(toy.TRAINING)


def saved(tmp_path, variant="mlp", **options):
    policy = toy.policy(variant)
    policy.save(tmp_path, stage="sft")
    if options:
        (tmp_path / "model.safetensors").unlink()
        policy.model.save_pretrained(tmp_path, **options)
    return policy


def saved_adapter(tmp_path, *, train=True):
    policy = toy.adapted(SETTINGS)
    if train:
        toy.perturb(policy)
    policy.model.save_pretrained(tmp_path)
    return policy


def command(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["stllava", "inspect", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code or 0, *capsys.readouterr()


def by_part(found):
    return {part.name: part for part in found.parts}


@pytest.mark.parametrize("variant", ["mlp", "prototype"])
def test_every_parameter_is_counted_in_its_part(variant, tmp_path):
    policy = saved(tmp_path, variant)
    found = inspect_folder(tmp_path)
    assert found.family == {"mlp": "llava", "prototype": "sqllava"}[variant]
    assert found.parameters == sum(p.numel() for p in policy.core.parameters())
    parts = by_part(found)
    towers = policy.core.model
    between = parts[PROJECTOR].parameters
    if variant == "prototype":
        between += parts[PROTOTYPES].parameters
        assert found.image["prototypes"] == 7
        outer = policy.core.model.multi_modal_projector.mlp
        assert parts[PROJECTOR].parameters == sum(p.numel() for p in outer.parameters())
    assert between == sum(p.numel() for p in towers.multi_modal_projector.parameters())
    assert parts[VISION].parameters == sum(p.numel() for p in towers.vision_tower.parameters())
    assert all(part.bytes == 4 * part.parameters for part in found.parts)
    assert found.problems == []


def test_dtype_and_bytes_are_those_of_the_file(tmp_path):
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    save_file({name: t.to(torch.bfloat16) for name, t in load_file(file).items()}, file)
    for part in inspect_folder(tmp_path).parts:
        assert (part.dtypes, part.bytes) == (("BF16",), 2 * part.parameters)


def test_images_and_conversation_are_named(tmp_path):
    policy = saved(tmp_path)
    found = inspect_folder(tmp_path)
    assert found.image["tokens"] == policy.num_image_tokens
    assert (found.image["token"], found.image["token_id"]) == ("<image>", toy.IMAGE)
    assert (found.image["size"], found.image["patch"]) == (toy.SIZE, toy.PATCH)
    assert (found.chat["format"], found.chat["asker"]) == ("stllava", "<vusr>")
    assert found.chat["asker_is"] == "an added token"
    assert found.provenance == {"stage": "sft"}


def test_a_checkpoint_of_a_run_names_run_and_stage(tmp_path):
    folder = tmp_path / "mine/dpo/checkpoint"
    saved(folder)
    (folder.parent / "stage.json").write_text('{"steps": 3, "seconds": 1.5}')
    (folder.parent / "plan.json").write_text('{"inputs": {"sft/checkpoint": "abc"}}')
    told = inspect_folder(folder).provenance
    assert (told["run"], told["run_stage"], told["counts"]["steps"]) == ("mine", "dpo", 3)
    assert told["inputs"] == {"sft/checkpoint": "abc"}


def test_a_foreign_checkpoint_has_a_format_that_is_not_known(tmp_path, monkeypatch, capsys):
    saved(tmp_path)
    (tmp_path / "stllava.json").unlink()
    found = inspect_folder(tmp_path)
    assert (found.chat, found.layout) == ({"format": None}, "LLaVA in the layout of transformers")
    code, out, _ = command(monkeypatch, capsys, tmp_path)
    assert code == 0
    assert "format not known (no stllava.json)" in out


def test_shards_are_counted_together(tmp_path):
    policy = saved(tmp_path, max_shard_size="40KB")
    assert len([*tmp_path.glob("*.safetensors")]) > 2
    found = inspect_folder(tmp_path)
    assert found.parameters == sum(p.numel() for p in policy.core.parameters())
    assert found.problems == []


def test_missing_shards_are_one_line_and_the_rest_is_shown(tmp_path, monkeypatch, capsys):
    policy = saved(tmp_path, max_shard_size="40KB")
    shards = sorted(tmp_path.glob("*.safetensors"))
    shards[1].unlink()
    found = inspect_folder(tmp_path)
    assert 0 < found.parameters < sum(p.numel() for p in policy.core.parameters())
    code, out, _ = command(monkeypatch, capsys, tmp_path)
    assert code == 1
    problems = [line for line in out.splitlines() if line.startswith("PROBLEM")]
    assert len(problems) == 1
    assert f"1 of {len(shards)} shards missing: {shards[1].name}" in problems[0]


def test_a_tensor_that_its_shard_lacks_is_a_problem(tmp_path):
    saved(tmp_path, max_shard_size="40KB")
    index = tmp_path / "model.safetensors.index.json"
    placed = json.loads(index.read_text())
    placed["weight_map"]["lost.weight"] = next(iter(placed["weight_map"].values()))
    index.write_text(json.dumps(placed))
    assert inspect_folder(tmp_path).problems == [
        "1 tensors are not in their shard, first lost.weight"
    ]


def test_a_file_that_was_cut_off_is_refused(tmp_path):
    saved(tmp_path)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(PolicyError, match=r"model.safetensors: not safetensors, or cut off"):
        inspect_folder(tmp_path)


def test_an_adapter_names_ranks_alphas_and_what_is_below(tmp_path):
    saved_adapter(tmp_path)
    found = inspect_folder(tmp_path)
    assert found.kind == "adapter"
    ranks = {adapter.part: adapter.settings for adapter in found.adapters}
    assert ranks == {
        LANGUAGE: ((toy.LORA.llm_rank, toy.LORA.llm_alpha),),
        VISION: ((toy.LORA.vit_rank, toy.LORA.vit_alpha),),
    }
    modules = {adapter.part: adapter.modules for adapter in found.adapters}
    assert modules == {LANGUAGE: 7 * toy.LAYERS, VISION: 6 * toy.LAYERS}
    assert found.problems == []
    stored = load_file(tmp_path / "adapter_model.safetensors")
    assert found.parameters == sum(math.prod(t.shape) for t in stored.values())


def test_adapters_that_never_trained_are_counted_by_part(tmp_path, monkeypatch, capsys):
    saved_adapter(tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    tensors = load_file(file)
    for name in tensors:
        if "vision_tower" in name and "lora_B" in name and ".layers.0." in name:
            tensors[name].zero_()
    save_file(tensors, file)
    dead = {adapter.part: len(adapter.zero_b) for adapter in inspect_folder(tmp_path).adapters}
    assert dead == {LANGUAGE: 0, VISION: 6}
    code, out, _ = command(monkeypatch, capsys, tmp_path)
    assert code == 1
    assert "6 of 12 LoRA B matrices of the vision encoder are all zero: never trained" in out


def test_a_fresh_adapter_never_trained_anywhere(tmp_path):
    saved_adapter(tmp_path, train=False)
    found = inspect_folder(tmp_path)
    assert all(len(adapter.zero_b) == adapter.modules for adapter in found.adapters)
    assert len(found.problems) == 2


def test_a_packaged_base_policy_is_known_by_its_name(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "base-mlp", "--json")
    assert code == 0
    assert json.loads(out)["family"] == "llava"


def test_json_holds_all_of_it(tmp_path, monkeypatch, capsys):
    saved(tmp_path)
    code, out, _ = command(monkeypatch, capsys, tmp_path, "--json")
    told = json.loads(out)
    assert code == 0
    assert (told["kind"], told["family"]) == ("checkpoint", "llava")
    assert sum(part["parameters"] for part in told["parts"]) == inspect_folder(tmp_path).parameters


@pytest.mark.parametrize(
    ("names", "words"),
    [
        ([], "neither config.json nor adapter_config.json"),
        (["config.json"], "no model.safetensors; give the folder that holds the weights"),
        (["config.json", "pytorch_model.bin"], "pickled weights (.bin) are not read"),
        (["adapter_config.json"], "no adapter_model.safetensors"),
    ],
    ids=["nothing", "config only", "pickled", "adapter config only"],
)
def test_what_is_no_checkpoint_is_refused_in_one_line(names, words, tmp_path, monkeypatch, capsys):
    for name in names:
        (tmp_path / name).write_text("{}")
    code, out, err = command(monkeypatch, capsys, tmp_path)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert words in err


def test_help_teaches(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "--help")
    assert code == 0
    out = " ".join(out.split())
    for word in ("nothing is loaded", "--json", "LoRA B", "dpo/checkpoint"):
        assert word in out


BARE = """
import sys
class Gone:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("torch", "transformers", "safetensors", "peft"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Gone())
from stllava.cli import main
main()
"""


def test_without_torch_the_install_line_is_all_that_is_said(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BARE, "inspect", str(tmp_path)],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "is not installed; pip install 'stllava[train]'" in done.stderr

"""What `doctor` finds: on this machine, and on broken ones."""

import json
import os
import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest

from stllava import cli
from stllava.doctor import examine, gpu, hub, machine, packages
from stllava.doctor.finding import GIB

NAMES = ["python", "base policies", "cpu", "memory", "gpu", "flex attention", "flash-attn", "vllm",
         "disk", "write", "hub cache", "hub"]  # fmt: skip


def command(monkeypatch, capsys, *args):
    monkeypatch.setattr(sys, "argv", ["stllava", "doctor", *args])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code or 0, *capsys.readouterr()


def test_everything_is_looked_at_and_every_finding_is_one_line(tmp_path):
    findings = examine(tmp_path, {})
    names = [finding.name for finding in findings]
    assert [name for name in names if not name.startswith("stllava")] == NAMES
    assert "stllava[train]" in names
    for finding in findings:
        assert "\n" not in finding.text + finding.remedy
        assert finding.level == "ok" or finding.remedy, finding


def test_the_machine_that_runs_the_tests_is_not_bad(monkeypatch, capsys):
    code, out, err = command(monkeypatch, capsys)
    assert (code, err) == (0, "")
    assert all(line.split()[0] in ("ok", "warn") for line in out.splitlines())


def test_json_is_the_same_in_records(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "--json")
    assert code == 0
    told = json.loads(out)
    assert {finding["level"] for finding in told} <= {"ok", "warn"}
    assert all(set(finding) == {"name", "level", "text", "remedy"} for finding in told)


BARE = """
import sys
from importlib import metadata
gone = ("torch", "transformers", "peft", "accelerate", "safetensors", "tokenizers")
sys.modules.update(dict.fromkeys(gone))
true = metadata.version
def version(name):
    if name in gone:
        raise metadata.PackageNotFoundError(name)
    return true(name)
metadata.version = version
sys.argv = ["stllava", "doctor"]
from stllava.cli import main
main()
"""


def test_without_torch_it_works_and_says_how_to_get_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BARE], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )
    assert (done.returncode, done.stderr) == (0, "")
    lines = [line for line in done.stdout.splitlines() if line.startswith("warn")]
    assert any("stllava[train]" in line and "torch" in line for line in lines)
    assert any(line.split()[1] == "gpu" and "torch cannot be imported" in line for line in lines)
    assert done.stdout.count("pip install") >= 2


@pytest.mark.parametrize(("free", "level"), [(100 * GIB, "ok"), (5 * GIB, "warn"), (10**6, "bad")])
def test_a_full_disk_is_bad(free, level, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")(0, 0, free)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    found = machine.disk(tmp_path)
    assert found.level == level
    assert bool(found.remedy) == (level != "ok")


def test_one_bad_finding_is_exit_code_1(monkeypatch, capsys):
    usage = namedtuple("usage", "total used free")(0, 0, 0)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda _: usage)
    code, out, _ = command(monkeypatch, capsys)
    assert code == 1
    assert [line.split()[1] for line in out.splitlines() if line.startswith("bad")] == ["disk"]


def test_a_folder_that_cannot_be_written_is_bad(tmp_path):
    found = machine.writable(tmp_path / "nowhere")
    assert found.level == "bad"
    assert "--run" in found.remedy
    assert machine.writable(tmp_path).level == "ok"
    assert [*tmp_path.iterdir()] == []


def test_too_old_is_bad_and_missing_is_not(monkeypatch):
    versions = {"torch": "2.1.0+cpu", "peft": None, "pydicom": None}
    monkeypatch.setattr(packages, "installed", lambda name: versions.get(name, "99.0"))
    found = {finding.name: finding for finding in packages.libraries()}
    assert found["stllava[train]"].level == "bad"
    assert "torch 2.1.0+cpu (needs 2.6)" in found["stllava[train]"].text
    assert found["stllava[dicom]"].level == "ok"
    assert found["stllava[dicom]"].remedy == "pip install --upgrade 'stllava[dicom]'"
    monkeypatch.setattr(packages, "installed", lambda name: None if name == "numpy" else "99.0")
    base = next(iter(packages.libraries()))
    assert (base.level, "numpy" in base.text) == ("bad", True)


def test_a_damaged_base_policy_is_found(tmp_path, monkeypatch):
    for name, text in (("whole", b"weights"), ("broken", b"version https://git-lfs")):
        (tmp_path / "assets" / name).mkdir(parents=True)
        (tmp_path / "assets" / name / "model.safetensors").write_bytes(text)
        wanted = "9a129a3ad9fb0e8cfb4e24bd04ddb3a5ac9a6b4a06ecf8ac4fa5d4f5a3d4b7f5"
        if name == "whole":
            wanted = packages.sha256(tmp_path / "assets/whole/model.safetensors")
        (tmp_path / "assets" / name / "training.json").write_text(json.dumps({"sha256": wanted}))
    monkeypatch.setattr(packages.resources, "files", lambda _: tmp_path)
    found = packages.base_policies()
    assert (found.level, found.text) == ("bad", "damaged or missing: broken")


def fake_torch(has_gpu):
    card = SimpleNamespace(name="Toy GPU", total_memory=80 * GIB)
    mkldnn = SimpleNamespace(_is_mkldnn_bf16_supported=lambda: False)
    return SimpleNamespace(
        __version__="2.13",
        cuda=SimpleNamespace(
            is_available=lambda: has_gpu,
            device_count=lambda: 2,
            get_device_properties=lambda _: card,
            is_bf16_supported=lambda: True,
        ),
        ops=SimpleNamespace(mkldnn=mkldnn),
    )


@pytest.mark.parametrize("has_gpu", [True, False])
def test_libraries_for_a_gpu_are_usable_only_with_one(has_gpu, monkeypatch):
    monkeypatch.setattr(gpu, "import_module", lambda _: fake_torch(has_gpu))
    monkeypatch.setattr(gpu.util, "find_spec", lambda _: object())
    cards, flex, *others = gpu.accelerator()
    assert ("Toy GPU 80 GiB, Toy GPU 80 GiB; bf16 yes" in cards.text) == has_gpu
    assert flex.text.startswith("used on the GPU" if has_gpu else "there, but needs a GPU")
    assert [finding.level for finding in others] == ["ok" if has_gpu else "warn"] * 2


def test_a_torch_whose_libraries_are_missing_is_bad(monkeypatch):
    def fail(_):
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr(gpu, "import_module", fail)
    (found,) = gpu.accelerator()
    assert (found.level, "libcudart" in found.text) == ("bad", True)


def test_the_smaller_of_machine_and_container_memory_counts(monkeypatch):
    monkeypatch.setattr(machine, "_physical_memory", lambda: 64 * GIB)
    monkeypatch.setattr(machine, "_container_memory", lambda: GIB)
    found = machine.memory()
    assert (found.level, found.text) == ("warn", "1.0 GiB (container limit)")
    monkeypatch.setattr(machine, "_container_memory", lambda: None)
    assert (machine.memory().level, machine.memory().text) == ("ok", "64.0 GiB")


def test_the_hub_cache_is_found_as_the_library_finds_it_and_links_count_once(tmp_path):
    blob = tmp_path / "hub/models--a/blobs/x"
    blob.parent.mkdir(parents=True)
    with blob.open("wb") as file:
        file.truncate(3 * GIB)  # sparse
    (tmp_path / "hub/models--a/model.safetensors").symlink_to(blob)
    assert hub.hub_cache({"HF_HOME": str(tmp_path)}).text == f"{tmp_path / 'hub'}, 3.0 GiB"
    assert hub.hub_cache({"HF_HUB_CACHE": str(tmp_path / "hub")}).text.endswith("3.0 GiB")
    assert "nothing there yet" in hub.hub_cache({"XDG_CACHE_HOME": str(tmp_path)}).text


def test_offline_is_a_warning():
    assert hub.hub_offline({"HF_HUB_OFFLINE": "1"}).level == "warn"
    assert hub.hub_offline({"HF_HUB_OFFLINE": "0"}).level == "ok"
    assert hub.hub_offline({}).level == "ok"


def test_no_value_of_the_environment_but_paths_is_shown(tmp_path):
    env = {**os.environ, "HF_TOKEN": "hf_SENTINEL", "OPENAI_API_KEY": "sk-SENTINEL"}
    assert "SENTINEL" not in str(examine(tmp_path, env))

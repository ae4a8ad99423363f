"""The command line as a user meets it: in a process of its own."""

import subprocess
import sys

import pytest
from test_published import assert_same, card_of, model, write_lora, write_whole

from stllava import __version__
from stllava.recipe import packaged_recipes


def stllava(*args, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "stllava", *map(str, args)],
        capture_output=True, text=True, timeout=60, cwd=cwd,
    )  # fmt: skip


def assert_refused(done, *words):
    """Exit code 2, nothing on stdout, one line on stderr that holds all of `words`."""
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    for word in words:
        assert word in done.stderr


def test_help_names_the_verbs_of_the_method():
    done = stllava("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for verb in ("demo", "run", "prepare", "sft", "ask", "answer", "judge", "prefer", "dpo",
                 "eval", "report", "status", "recipes", "inspect", "convert",
                 "export", "doctor"):  # fmt: skip
        assert f" {verb} " in done.stdout


def test_recipes_lists_every_packaged_recipe_with_its_purpose():
    done = stllava("recipes")
    assert (done.returncode, done.stderr) == (0, "")
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [*packaged_recipes()]
    assert all(len(line.split()) > 3 for line in lines)


def test_recipes_prints_one_recipe_as_it_is_whether_packaged_or_a_file(tmp_path):
    text = packaged_recipes()["demo"].read_text(encoding="utf-8")
    assert stllava("recipes", "demo").stdout == text
    file = tmp_path / "mine.yaml"
    file.write_text("seed: 3\n")
    assert stllava("recipes", file).stdout == "seed: 3\n"


def test_version_is_the_packages():
    assert stllava("version").stdout == f"{__version__}\n"


@pytest.mark.parametrize("verb", ["run", "sft"])
def test_an_unknown_recipe_is_refused_and_makes_no_run_directory(verb, tmp_path):
    done = stllava(verb, "demmo", "--run", tmp_path / "r")
    assert_refused(done, "demmo: no such recipe or file", "did you mean 'demo'")
    assert not (tmp_path / "r").exists()


def test_an_unknown_field_is_refused_and_makes_no_run_directory(tmp_path):
    done = stllava("run", "demo", "--run", tmp_path / "r", "--set", "dpo.betta=1")
    assert_refused(done, "dpo.betta: no such field", "did you mean 'beta'")
    assert not (tmp_path / "r").exists()


def test_an_unknown_recipe_to_print_is_refused():
    assert_refused(stllava("recipes", "demmo"), "demmo: no such recipe or file")


def test_status_of_nothing_is_refused(tmp_path):
    assert_refused(stllava("status", tmp_path / "nothing"), "nothing: no such run directory")


def test_an_unknown_stage_to_redo_is_refused(tmp_path):
    done = stllava("run", "demo", "--run", tmp_path / "r", "--redo", "anser")
    assert_refused(done, "--redo anser: no such stage; one of prepare, sft, ask, answer")


def test_a_stage_without_its_inputs_is_refused(tmp_path):
    done = stllava("prefer", "demo", "--run", tmp_path / "r")
    assert_refused(done, "answer: this stage is not complete; run it first")
    status = stllava("status", tmp_path / "r")
    assert status.returncode == 0
    assert [line.split() for line in status.stdout.splitlines()][:2] == [
        ["prepare", "-"], ["sft", "-"],
    ]  # fmt: skip


def test_an_unknown_option_is_a_usage_error():
    done = stllava("run", "demo", "--nonsense")
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_convert_writes_a_policy_and_says_what_it_did(tmp_path):
    source = write_whole(tmp_path / "hub")
    done = stllava("convert", source, tmp_path / "made/out")
    assert (done.returncode, done.stderr) == (0, "")
    told = done.stdout.splitlines()
    assert told[0].startswith(f"{tmp_path / 'made/out'}: ")
    assert "chat format v1_sq; the asker speaks by text" in told
    assert_same(tmp_path / "made/out", model())
    again = stllava("convert", source, tmp_path / "made/out")
    assert_refused(again, "out: there already; give the name of a new folder")


def test_the_options_of_convert_are_heeded(tmp_path):
    base = write_whole(tmp_path / "hub", model("mlp"))
    adapters, *_ = write_lora(tmp_path / "lora", model())
    options = ["--base", base, "--asker", "token", "--chat-format", "v1_sq"]
    refused = stllava("convert", adapters, tmp_path / "out", *options)
    assert_refused(refused, "a pickle", "--allow-pickle")
    done = stllava("convert", adapters, tmp_path / "out", *options, "--allow-pickle")
    assert (done.returncode, done.stderr) == (0, "")
    assert "LoRA merged into " in done.stdout
    card = card_of(tmp_path / "out")
    assert (card["chat_format"], card["asker"]) == ("v1_sq_token", "token")


def test_convert_refuses_two_names_for_one_part(tmp_path):
    done = stllava("convert", tmp_path, tmp_path / "out", "--base", "a", "--llm", "b")
    assert_refused(done, "--base and --llm name the same part")


def test_convert_refuses_a_format_that_nobody_knows(tmp_path):
    source = write_whole(tmp_path / "hub")
    done = stllava("convert", source, tmp_path / "out", "--chat-format", "v9")
    assert_refused(done, "chat format 'v9' is not one of", "mistral_instruct")
    assert [path.name for path in tmp_path.iterdir()] == ["hub"]


def test_help_of_convert_teaches():
    done = stllava("convert", "--help")
    assert done.returncode == 0
    told = " ".join(done.stdout.split())
    for word in ("--base", "--vision", "--asker", "--allow-pickle", "ZachSun/stllava-med-7b",
                 "HF_HUB_OFFLINE", "stllava inspect"):  # fmt: skip
        assert word in told


BARE = """
import sys
gone = ("torch", "transformers", "safetensors", "peft")
sys.modules.update(dict.fromkeys(gone))
from stllava.cli import main
main()
"""


def test_convert_without_torch_says_how_to_get_it(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", BARE, "convert", str(tmp_path), str(tmp_path / "out")],
        capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert_refused(done, "is not installed; pip install 'stllava[train]'")

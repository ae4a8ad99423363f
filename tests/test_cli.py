"""The command line as a user meets it: in a process of its own."""

import subprocess
import sys

import pytest

from stllava import __version__
from stllava.config import packaged_recipes


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
                 "eval", "report", "status", "recipes", "inspect", "export",
                 "doctor"):  # fmt: skip
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

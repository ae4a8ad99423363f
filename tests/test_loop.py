"""The whole loop as a user runs it: processes, files, a real server, kills."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from servers import chat_server

TINY = [
    "phantom.train_images=24",
    "phantom.unlabelled_images=12",
    "phantom.dev_images=2",
    "phantom.test_images=6",
    "unit_images=4",
    "batch_rows=16",
    "answer.draws=4",
    "sft.batch_size=6",
    "sft.save_steps=2",
    "dpo.batch_size=4",
    "dpo.save_steps=1",
    "dpo.epochs=1",
    "prefer.min_chosen_score=null",
    "prefer.balance_yes_no=false",
    "model.precision=fp32",
    "model.threads=1",
    "controls={}",
]


TABLE_KINDS = ("model", "control", "blind", "delta", "published", "quoted")


def command(recipe: str, run: Path, settings: list[str]) -> list[str]:
    sets = [part for setting in settings for part in ("--set", setting)]
    return [sys.executable, "-m", "stllava", "run", recipe, "--run", str(run), *sets]


def finish(recipe: str, run: Path, settings: list[str], **env: str) -> None:
    done = subprocess.run(
        command(recipe, run, settings), capture_output=True, text=True, env={**os.environ, **env}
    )
    assert done.returncode == 0, done.stderr[-3000:]


def records(run: Path) -> dict[str, bytes]:
    """Every record file and weight of a run; what a clock wrote is taken out."""
    found = {}
    for path in sorted(run.rglob("*")):
        if path.suffix == ".jsonl":
            text = re.sub(rb'"time":"[^"]*"', b"", path.read_bytes())
            found[str(path.relative_to(run))] = text
        elif path.suffix == ".safetensors":
            found[str(path.relative_to(run))] = path.read_bytes()
    return found


@pytest.mark.slow
def test_a_run_killed_in_every_stage_ends_with_the_same_records(tmp_path):
    finish("demo", tmp_path / "whole", TINY)
    killed = tmp_path / "killed"
    begun = ["prepare", "sft", "ask", "answer", "judge", "dpo", "eval/sft"]
    for stage in begun:
        process = subprocess.Popen(
            command("demo", killed, TINY), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        wait_for_stage(process, killed / stage)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finish("demo", killed, TINY)
    whole = records(tmp_path / "whole")
    assert records(killed) == whole
    assert sum(name.endswith("preferences.jsonl") for name in whole) == 1


def wait_for_stage(process: subprocess.Popen, stage: Path) -> None:
    """Until the stage has begun to write records, or the run is past it."""
    for _ in range(1200):
        if process.poll() is not None or any(stage.rglob("*.jsonl")):
            return
        time.sleep(0.05)


@pytest.mark.slow
def test_the_loop_runs_on_real_vqa_rad_with_a_judge_on_loopback(data_root, tmp_path):
    asked = []

    def judge(prompt: str) -> str:
        asked.append(prompt)
        first = prompt.split("[Answer 1]\n")[1].split("\n\n[End Answer 1]")[0]
        second = prompt.split("[Answer 2]\n")[1].split("\n\n[End Answer 2]")[0]
        scores = [min(10, 1 + len(set(text.split()))) for text in (first, second)]
        return f"{scores[0]} {scores[1]}\nThe longer answer has more detail."

    run = tmp_path / "run"
    with chat_server(judge) as server:
        settings = [
            f"data.root={data_root / 'vqa_rad'}",
            f"judge.base_url={server.url}",
            "data.preference_images=16",
            "sft.epochs=1",
            "eval.limit=451",
            "eval.grounding_images=60",
        ]
        finish("vqa-rad-cpu", run, settings, OPENAI_API_KEY="sk-SENTINEL")
    assert asked
    prepared = json.loads((run / "prepare/stage.json").read_text())
    assert (prepared["conversations"], prepared["turns"]) == (313, 1797)
    for model in ("base", "sft", "dpo"):
        scores = json.loads((run / f"eval/{model}/vqa-rad/image/scores.json").read_text())
        assert (scores["open"]["n"], scores["closed"]["n"]) == (179, 272)
        for view in ("blank", "other"):
            delta = scores["grounding"][view]["metrics"]["accuracy"]
            assert delta["ci95"][0] <= delta["delta"] <= delta["ci95"][1]
            assert scores["grounding"][view]["num_images"] == 60
    assert_table_is_whole(run)
    assert (run / "report.html").stat().st_size > 10_000
    for path in run.rglob("*"):
        assert path.is_dir() or b"sk-SENTINEL" not in path.read_bytes(), path


def assert_table_is_whole(run: Path) -> None:
    """Table 4's layout: intervals, blind baselines, deltas, the paper's rows; page and files."""
    table = json.loads((run / "eval/table.json").read_text())
    assert (table["layout"], table["benchmarks"]) == ("Table 4 of the paper", ["vqa-rad"])
    kinds = {kind: [r for r in table["rows"] if r["kind"] == kind] for kind in TABLE_KINDS}
    assert [row["name"] for row in kinds["model"]] == ["base", "sft", "dpo"]
    assert [row["name"] for row in kinds["control"]] == ["control sft-on-chosen"]
    for row in [*kinds["model"], *kinds["control"], *kinds["published"][:4]]:
        for metric, n in (("recall", 179), ("f1", 179), ("accuracy", 272)):
            cell = row["benchmarks"]["vqa-rad"][metric]
            assert cell["n"] == n
            assert cell["ci95"][0] <= cell["value"] <= cell["ci95"][1]
    blind = {row["name"]: row["benchmarks"]["vqa-rad"] for row in kinds["blind"]}
    assert blind["always “yes”"]["accuracy"]["value"] == pytest.approx(43.38, abs=0.01)
    assert {"always “no”", "the usual training answer"} <= blind.keys()
    assert len(kinds["delta"]) == 6  # three models, two views
    substring = kinds["published"][-1]["benchmarks"]["vqa-rad"]["accuracy"]["value"]
    assert substring == pytest.approx(92.28, abs=0.01)  # "Yes, there is no"
    assert kinds["quoted"]
    page = (run / "report.html").read_text()
    assert "dpo: image − blank" in page
    assert "quoted from the paper, not measured" in page
    for name in ("table.md", "table.tex", "table.csv"):
        assert (run / "eval" / name).stat().st_size > 500

"""The judges on this machine as a stage of a run: rule, local policy, own server."""

import json
import os
import socket
import sys
from collections import Counter

import pytest
from notes import Notes
from PIL import Image as PILImage
from test_judge_server import SERVER, child_of, gone

from stllava.errors import JudgeError, RecipeError
from stllava.pipeline.job import Job
from stllava.pipeline.judged import judge
from stllava.recipe import load_recipe
from stllava.records import Answers, Conversation, Draw, Image, Turn, Verdict
from stllava.run import Run

TEXTS = [("the left lung", "the right lung"), ("a nodule", "no nodule"), ("left", "left.")]


@pytest.fixture
def job(tmp_path):
    """Make a job with these settings of `judge`; three questions about two images are answered."""
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    with Run(tmp_path / "run") as run:
        stage = run.stage("prepare")
        stage.begin(inputs=[], settings={"image_roots": {"data": str(pictures)}})
        stage.create("conversations.jsonl")
        for name in ("a", "b"):
            PILImage.new("RGB", (20, 16), (90, 60, 30)).save(pictures / f"{name}.png")
            fields = {"sha256": "0", "width": 20, "height": 16, "group": name, "source": "toy"}
            stage.append("images.jsonl", Image(id=name, path=f"{name}.png", **fields))
        turn = Turn(question="Where is the mass?", answer="Left lung.")
        stage.append("conversations.jsonl", Conversation(id="a/c", image="a", turns=(turn,)))
        stage.finish(conversations=1)
        stage = run.stage("answer")
        stage.begin(inputs=[], settings={})
        for n, texts in enumerate(TEXTS):
            name = f"{'aab'[n]}/q{n}"
            draws = [Draw(request_id=name, index=i, text=text) for i, text in enumerate(texts)]
            asked = "Where is the mass?" if n == 0 else "Is there a nodule?"
            record = Answers(id=name, image=name[0], question=asked, draws=tuple(draws))
            stage.append("answers.jsonl", record)
        stage.finish()

        def make(*sets):
            recipe = load_recipe("improved", [f"judge.{text}" for text in sets])
            base = recipe.model.model_copy(update={"path": "base-prototype", "threads": 1})
            return Job(run, recipe.model_copy(update={"model": base}), Notes())

        yield make


def verdicts(job):
    return job.stage("judge").read("verdicts.jsonl", Verdict)


def test_the_rule_judges_what_is_known_once_per_pair_and_needs_no_network(job):
    rule = job("kind=reference", "pairing=all")
    judge(rule)
    found = verdicts(rule)
    assert [(v.state, v.winner) for v in found] == [("ok", 0), ("skipped", None), ("tie", None)]
    summary = rule.stage("judge").summary
    assert (summary["pairs"], sum(summary["states"].values())) == (3, 3)
    plan = json.loads((rule.stage("judge").path / "plan.json").read_text())
    assert "prepare/conversations.jsonl" in plan["inputs"]


def test_the_rule_without_anything_known_says_so(job):
    rule = job("kind=reference")
    (rule.stage("prepare").path / "conversations.jsonl").write_text("")
    with pytest.raises(JudgeError, match="no known answer to judge by; give the data conversat"):
        judge(rule)


def test_a_local_policy_judges_and_does_so_again_alike(job, tmp_path):
    local = job(
        "kind=local", "checkpoint=base-mlp", "max_tokens=3", "blank_share=1", "rubric=local",
        "orders=one",
    )  # fmt: skip
    judge(local)
    first = verdicts(local)
    assert Counter(v.view for v in first) == {"image": 2, "blank": 2}
    assert {v.judge for v in first} == {"local:base-mlp"}
    assert all(v.state in ("ok", "tie", "unparsed", "refused") for v in first)
    assert all(v.reply for v in first if v.state != "tie")
    local.run.supersede(["judge"])
    judge(local)
    assert [(v.id, v.reply) for v in verdicts(local)] == [(v.id, v.reply) for v in first]


@pytest.mark.parametrize("checkpoint", ["base", "base-prototype", "COPY"])
def test_the_runs_own_policy_judges_only_if_that_is_said_and_is_marked(job, tmp_path, checkpoint):
    if checkpoint == "COPY":  # the same weights under another path
        checkpoint = tmp_path / "copy"
        checkpoint.mkdir()
        for file in job().base_path.iterdir():
            os.link(file, checkpoint / file.name)
    sets = ("kind=local", f"checkpoint={checkpoint}", "max_tokens=2", "orders=one", "rubric=local")
    with pytest.raises(
        JudgeError, match=r"own policy, which prefers its own words; .*self_judging"
    ):
        judge(job(*sets))
    own = job(*sets, "self_judging=true")
    judge(own)
    assert {v.judge for v in verdicts(own)} == {"self"}
    assert any("marked 'self'" in line for line in own.reporter.lines)


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (["kind=local"], "kind: local needs a checkpoint"),
        (["server={command: vllm serve x}"], "listens somewhere: give base_url too"),
    ],
)
def test_a_judge_that_cannot_be_found_is_a_mistake_in_the_recipe(job, sets, says):
    with pytest.raises(RecipeError, match=says):
        job(*sets)


def test_an_expert_leaves_the_stage_complete_and_its_verdicts_to_come(job):
    expert = job("kind=expert")
    judge(expert)
    assert verdicts(expert) == []
    assert expert.stage("judge").summary["pairs"] == 2


@pytest.fixture
def own_server(tmp_path):
    """Settings of `judge` for a server that the stage starts itself."""
    (tmp_path / "server.py").write_text(SERVER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"{sys.executable} {tmp_path / 'server.py'} {port} 0.3 good"
    server = f"server={{command: {json.dumps(command)}, timeout_s: 60}}"
    return [server, f"base_url=http://127.0.0.1:{port}/v1", "model=m", "max_tries=1"]


def test_the_stage_starts_its_server_judges_with_it_and_stops_it(job, own_server):
    managed = job(*own_server)
    judge(managed)
    assert Counter(v.state for v in verdicts(managed)) == {"ok": 4}  # 8 to what is shown first
    log = managed.stage("judge").path / "server.log"
    assert gone(child_of(log.parent))
    plan = json.loads((managed.stage("judge").path / "plan.json").read_text())
    assert "server" not in plan["settings"]
    inode = log.stat().st_mtime_ns
    judge(managed)  # complete: nothing is started
    assert log.stat().st_mtime_ns == inode

"""The judges on this machine as a stage of a run: rule, local policy, own server."""

import json
import os
import socket
import sys
from collections import Counter
from dataclasses import replace
from statistics import fmean

import pytest
import torch
import toy
from notes import Notes
from PIL import Image as PILImage
from test_judge_server import SERVER, child_of, gone

from stllava.errors import JudgeError, RecipeError, RunError
from stllava.judging.protocol import nonce, verdict_id
from stllava.pipeline.job import Job
from stllava.pipeline.judging.stage import judge
from stllava.pipeline.judging.trial import check
from stllava.pipeline.preferred import prefer
from stllava.policy.policy import Policy
from stllava.prompts.local import LOCAL_RUBRIC
from stllava.recipe import load_recipe, override
from stllava.records import Answers, Conversation, Draw, Dropped, Image, Preference, Turn, Verdict
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


# --- a policy that replies with letters


SPOKEN = {"A": 2.0, " A": 1.8, "B": 2.0, "C": 1.5}  # tokens, and how loud
SIDES = {"A": 1, " A": 1, "B": -1, "C": 0}


def read_plainly(policy, job, item, order):
    """What the library's model makes of a judge's prompt: logits, and the state before them."""
    name = verdict_id(item, order, judge="local:letters", rubric=LOCAL_RUBRIC)
    first, second = (item.draws[index].text for index in order)
    asked = LOCAL_RUBRIC.build(item.question, first, second, nonce(name))
    ids = torch.tensor([policy.chat.prompt([Turn(question=asked)], "assistant").ids])
    pixels = policy.pixel_values([job.open_image(item.image)])
    with torch.no_grad():
        said = policy.model(input_ids=ids, pixel_values=pixels, output_hidden_states=True)
    return said.logits[0, -1], said.hidden_states[-1][0, -1]


def rows_of(policy):
    """Row of the head by letter."""
    encode = policy.tokenizer.encode
    return {text: encode(text, add_special_tokens=False)[0] for text in SPOKEN}


@pytest.fixture
def lettered(job, tmp_path):
    """Make a job, with these settings of `prefer`, whose judge replies with letters.

    It tells the first question's answers apart, in both orders.
    """
    policy = toy.policy("mlp")
    head = policy.core.lm_head.weight
    path = tmp_path / "letters"
    told = ["kind=local", f"checkpoint={path}", "rubric=local", "orders=both"]
    made = job(*told, "max_tokens=1")  # it would go on with letters
    with torch.no_grad():
        policy.core.model.language_model.embed_tokens.weight[:, 0] = 30.0  # the same at every token
        item = made.stage("answer").read("answers.jsonl", Answers)[0]
        one, other = (read_plainly(policy, made, item, order)[1] for order in ((0, 1), (1, 0)))
        apart = 2 * (one - other) / (one - other).square().sum()
        apart[0] -= (apart @ (one + other) / 2) / one[0]  # nothing halfway between the two orders
        head *= 0.1
        head[:, 0] = 0.0
        for text, token in rows_of(policy).items():
            head[token] = SIDES[text] * apart
            head[token, 0] += SPOKEN[text]
    policy.save(path)

    def make(*sets):
        recipe = override(made.recipe, [f"prefer.{text}" for text in sets])
        return replace(made, recipe=recipe)

    return make


def test_a_local_judge_ranks_by_the_probabilities_of_its_letters(lettered):
    local = lettered()
    judge(local)
    asked = [v for v in verdicts(local) if v.rung]
    assert [v.rung for v in asked] == ["logprobs"] * 4
    policy = Policy.load(local.recipe.judge.checkpoint)
    items = {item.id: item for item in local.stage("answer").read("answers.jsonl", Answers)}
    for verdict in asked:
        logits, _ = read_plainly(policy, local, items[verdict.answers_id], verdict.order)
        said = {text: logits.softmax(-1)[row].item() for text, row in rows_of(policy).items()}
        first_shown = (said["A"] + said[" A"] + said["C"] / 2) / sum(said.values())
        expected = first_shown if verdict.order == verdict.pair else 1 - first_shown
        assert verdict.preference == pytest.approx(expected, abs=1e-4)
    assert asked[0].preference - asked[1].preference > 0.05
    prefer(local)
    (found,) = local.stage("prefer").read("preferences.jsonl", Preference)
    assert (found.answers_id, found.chosen.index) == ("a/q0", 0)
    assert found.margin == pytest.approx(2 * fmean(v.preference for v in asked[:2]) - 1)


def test_check_finds_the_probabilities_of_a_local_judge(lettered):
    (looked,) = check(lettered().recipe)
    (logprobs,) = (finding for finding in looked.findings if finding.name == "logprobs")
    assert (logprobs.shown, logprobs.seen) == (True, "5 alternatives of a token told")
    assert "verdict: letter probabilities" in looked.lines


def test_a_least_score_that_no_verdict_has_is_refused_before_anything_is_dropped(lettered):
    floored = lettered("min_chosen_score=6")
    judge(floored)
    with pytest.raises(RunError) as raised:
        prefer(floored)
    assert str(raised.value) == (
        f"{floored.stage('judge').path / 'verdicts.jsonl'}: no verdict has scores, so none reaches "
        "prefer.min_chosen_score 6; leave it out with --set prefer.min_chosen_score=null "
        "(prefer.min_margin takes probabilities), or judge by a rubric with scores"
    )
    prefer(lettered())  # nothing stands in its way
    assert floored.stage("prefer").summary["preferences"] == 1


def test_a_least_score_up_to_one_is_held_against_probabilities(lettered):
    floored = lettered("min_chosen_score=0.8")
    judge(floored)
    prefer(floored)
    assert floored.stage("prefer").summary["preferences"] == 1
    floored.run.supersede(["prefer"])
    with pytest.raises(RunError, match="most often: best score below 1"):
        prefer(lettered("min_chosen_score=1"))


def test_where_some_verdicts_have_scores_the_others_are_dropped_and_counted(lettered):
    floored = lettered("min_chosen_score=6")
    judge(floored)
    file = floored.stage("judge").path / "verdicts.jsonl"
    said = verdicts(floored)
    scored = {"state": "ok", "winner": 0, "scores": (8.0, 3.0), "preference": None}
    said[2:4] = [verdict.model_copy(update=scored) for verdict in said[2:4]]
    file.write_text("".join(verdict.model_dump_json() + "\n" for verdict in said))
    prefer(lettered("min_chosen_score=6", "balance_yes_no=false"))
    dropped = floored.stage("prefer").read("dropped.jsonl", Dropped)
    assert {one.id: one.reason for one in dropped}["a/q0"] == "best score below 6"
    assert floored.stage("prefer").summary["preferences"] == 1


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

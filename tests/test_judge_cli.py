"""`stllava judge`: a stage and verbs under one name, and the stage's own account of its pairs."""

import json
from collections import Counter

import pytest
from servers import chat_server
from test_bad_input import answered, judging
from test_judging_probe import able
from typer.testing import CliRunner

from stllava import cli
from stllava.errors import JudgeError, RecipeError, StllavaError
from stllava.pipeline import Job, judge, prefer
from stllava.recipe import override
from stllava.records import ReviewItem, Verdict

VERBS = ("run", "check", "selftest")


def stllava(*args):
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def refused(*args):
    """The one line of a user's mistake."""
    error = stllava(*args).exception
    assert isinstance(error, StllavaError), error
    assert "\n" not in str(error)
    return str(error)


# --- one name for a stage and its verbs


def test_help_shows_the_stage_and_every_verb():
    for args in (["judge", "--help"], ["judge"]):
        said = stllava(*args).output
        assert "RECIPE --run DIR" in said
        assert all(f" {verb} " in said for verb in VERBS)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_has_help_of_its_own(verb):
    done = stllava("judge", verb, "--help")
    assert done.exit_code == 0
    assert f"judge {verb}" in done.output


@pytest.mark.parametrize(
    "args", [["demmo", "--run", "RUN"], ["--run", "RUN", "demmo"], ["run", "demmo", "--run", "RUN"]]
)
def test_a_recipe_in_the_place_of_a_verb_means_the_stage(tmp_path, args):
    said = refused("judge", *[tmp_path / "r" if arg == "RUN" else arg for arg in args])
    assert "demmo: no such recipe or file (did you mean 'demo'?)" in said
    assert not (tmp_path / "r").exists()


def test_a_recipe_file_named_like_a_verb_is_written_with_its_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "check").write_text("judge: {modell: x}\n")
    assert "modell: no such field" in refused("judge", "./check", "--run", "r")


def test_the_stage_without_a_run_directory_is_a_usage_error():
    done = stllava("judge", "demo")
    assert done.exit_code == 2
    assert "--run" in done.output


# --- check and selftest


@pytest.fixture
def able_server(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SENTINEL")
    with chat_server(lambda _: able(server.bodies[-1])) as server:
        yield server


def at(server):
    return ("--set", f"judge.base_url={server.url}", "--set", "judge.model=m")


def test_check_lists_what_was_shown_and_what_will_be_done(able_server):
    done = stllava("judge", "check", "improved", *at(able_server))
    assert done.exit_code == 0, done.exception
    lines = done.output.splitlines()
    assert lines[0].split()[:2] == ["yes", "image"]
    assert "reply form: json_schema" in lines
    assert "sk-SENTINEL" not in done.output


def test_selftest_prints_rates_with_n_and_interval():
    def reply(prompt):
        return "9 1" if "board of radiologists has confirmed Answer 1" in prompt else "5 6"

    with chat_server(reply) as server:
        done = stllava("judge", "selftest", "paper", *at(server), "--pictures", 1)
    assert done.exit_code == 0, done.exception
    assert "without a canary: 1 of 2 verdicts right" in done.output
    row = next(line for line in done.output.splitlines() if line.startswith("authority   worse"))
    assert row.split()[2:6] == ["1", "of", "1", "0"]
    assert row.endswith("%")
    assert len(server.bodies) == 26


def test_a_selftest_that_costs_money_is_agreed_to_first():
    said = refused("judge", "selftest", "paper", "--pictures", 2)
    assert said.startswith("judge gpt-4o: 52 calls to send, 0 in the ledger already; at most ")
    assert said.endswith(
        "price unknown (judge.prices); add --yes to agree, or take fewer --pictures"
    )


@pytest.mark.parametrize("verb", ["check", "selftest"])
def test_a_judge_that_is_no_endpoint_has_nothing_to_look_at(verb):
    assert "judge.kind: phantom is no endpoint" in refused("judge", verb, "demo")


# --- the stage's account


TEXTS = ["A line.", "A dot.", "a dot", "A ring.", "A square."]


def stage_of(tmp_path, reply, *sets, texts=TEXTS):
    with chat_server(reply) as server, answered(tmp_path / "run", texts) as opened:
        recipe = override(judging(server.url), ["judge.pairing=all", *sets])
        job = Job(opened, recipe)
        judge(job)
    return job, server


def scores_by_words(prompt):
    """Likes the line best; in one order only, it likes the dot better than the ring."""
    order = {"A line.": 9, "A ring.": 6, "A dot.": 4, "a dot": 4, "A square.": 4}
    blocks = [part.split("\n")[1] for part in prompt.split("<<<ANSWER ")[1:]]
    first, second = (order[block] for block in blocks)
    if blocks == ["A dot.", "A ring."]:
        first, second = 8, 2
    return json.dumps({"answer_1": {"score": first}, "answer_2": {"score": second}})


def test_states_of_pairs_sum_to_the_number_of_pairs(tmp_path):
    job, _ = stage_of(tmp_path, scores_by_words)
    told = job.stage("judge").summary
    assert told["pairs"] == 10
    assert told["pair_states"] == {"ok": 6, "tie": 3, "inconsistent": 1}
    assert sum(told["states"].values()) == told["verdicts"] == 20
    verdicts = job.stage("judge").read("verdicts.jsonl", Verdict)
    assert {v.rubric for v in verdicts} == {"faithful"}
    assert {v.model for v in verdicts if v.reply} == {"m"}


def test_doubtful_pairs_are_written_for_the_expert(tmp_path):
    job, _ = stage_of(tmp_path, scores_by_words, "prefer.review=[ties, inconsistent]")
    prefer(job)
    items = job.stage("prefer").read("review.jsonl", ReviewItem)
    assert Counter(item.reason for item in items) == {"tie": 2, "inconsistent": 1}
    assert job.stage("prefer").summary["for_review"] == 3
    assert all(len(item.answers) == 2 for item in items)


def test_a_share_of_the_pairs_is_judged_again_without_the_image(tmp_path):
    shown = {}

    def reply(prompt):
        image = next(p for p in server_bodies()[-1]["messages"][0]["content"] if "image_url" in p)
        shown.setdefault(image["image_url"]["url"], []).append(prompt)
        blank = len(shown) == 2 and image["image_url"]["url"] == list(shown)[1]
        return "5 5" if blank and "A square." in prompt else scores_by_words(prompt)

    bodies = []

    def server_bodies():
        return bodies[0]

    with chat_server(reply) as server, answered(tmp_path / "run", TEXTS) as opened:
        bodies.append(server.bodies)
        sets = ["judge.pairing=all", "judge.blank_share=1", "judge.concurrency=1"]
        job = Job(opened, override(judging(server.url), sets))
        judge(job)
    assert [len(prompts) for prompts in shown.values()] == [18, 18]
    told = job.stage("judge").summary
    assert told["verdicts"] == 20
    assert told["blank"] == {"pairs": 10, "with_winner": 6, "unchanged": 4}
    flagged = job.stage("judge").read("blank.jsonl", ReviewItem)
    assert len(flagged) == 4
    assert all("A square." not in item.answers for item in flagged)


def test_no_pair_is_judged_again_unless_the_recipe_says_so(tmp_path):
    job, server = stage_of(tmp_path, scores_by_words)
    assert len(server.bodies) == 18
    assert "blank" not in job.stage("judge").summary
    assert not (job.stage("judge").path / "blank.jsonl").exists()


def test_the_blank_share_takes_the_same_pairs_each_time(tmp_path):
    taken = []
    for name in ("one", "two"):
        job, _ = stage_of(tmp_path / name, scores_by_words, "judge.blank_share=0.5")
        verdicts = job.stage("judge").read("verdicts.jsonl", Verdict)
        taken.append({v.pair for v in verdicts if v.view == "blank"})
    assert taken[0] == taken[1]
    assert 0 < len(taken[0]) < 10


def test_a_rubric_file_of_ones_own_is_used_and_its_text_is_part_of_the_plan(tmp_path):
    file = tmp_path / "mine.yaml"
    text = "name: mine\nversion: 2\ntemplate: '{question} <{answer_1}> <{answer_2}> two scores'\n"
    file.write_text(text)
    job, server = stage_of(tmp_path, lambda _: "8 7", f"judge.rubric={file}", texts=TEXTS[:2])
    assert "two scores" in json.dumps(server.bodies[0])
    (verdict, _) = job.stage("judge").read("verdicts.jsonl", Verdict)
    assert (verdict.rubric, verdict.rubric_version) == ("mine", 2)
    plan = json.loads((job.stage("judge").path / "plan.json").read_text())
    assert len(plan["settings"]["rubric_sha256"]) == 64


def test_an_unknown_rubric_stops_before_anything_is_sent(tmp_path):
    with pytest.raises((RecipeError, JudgeError), match=r"judge.rubric: papr"):
        stage_of(tmp_path, lambda _: "8 7", "judge.rubric=papr")

"""What is asked again, what an estimate says of repairs, and what stage.json says of endpoints."""

import json
import shutil
import sqlite3
import threading
from collections import Counter

import pytest
from judged_runs import SENTINEL, answered, recipe, verdicts_of
from notes import Notes
from servers import MODEL_RETURNED, Response, chat_server, completion, failure

from stllava.errors import RecipeError
from stllava.generation.asked import host_of
from stllava.pipeline import Job
from stllava.pipeline.judging.stage import estimate, judge
from stllava.recipe import load_recipe
from stllava.run import Run

PRICES = "judge.prices={input: 1000, output: 2000}"
THREE = ("judge.samples=3", "judge.repair=true", "judge.concurrency=1")


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,0.0.0.0")


@pytest.fixture
def path(tmp_path):
    answered(tmp_path / "run", 3)
    return tmp_path / "run"


def judge_in(path, url, *overrides, **options):
    with Run(path) as run:
        judge(Job(run, recipe(url, *overrides), **options))


def summary(path):
    return json.loads((path / "judge" / "stage.json").read_text())


def lines(path, url, *overrides):
    with Run(path) as run:
        return estimate(Job(run, recipe(url, *overrides)))


def in_turn(*replies):
    """Per prompt its replies one after another, and the last one from then on."""
    asked, lock = Counter(), threading.Lock()

    def reply(prompt):
        with lock:
            number = asked[prompt]
            asked[prompt] += 1
        return replies[min(number, len(replies) - 1)] if "q0?" in prompt else "8 6"

    return reply


def statuses(path):
    with sqlite3.connect(path / "judge" / "ledger.sqlite") as db:
        return Counter(status for (status,) in db.execute("SELECT status FROM calls"))


# --- asked again by choice


@pytest.mark.parametrize(
    ("unread", "state"), [("blue", "unparsed"), ("I'm sorry, I can't assist.", "refused")]
)
def test_every_unread_sample_is_asked_again_exactly_once_and_nothing_else(path, unread, state):
    samples = ("judge.samples=3", "judge.concurrency=1")
    with chat_server(in_turn("8 6", unread, unread + "!", "9 6")) as server:
        judge_in(path, server.url, *samples)
        assert len(server.bodies) == 18
        assert statuses(path) == {"ok": 14, state: 4}
        for more in (4, 0):
            before = len(server.bodies)
            Run(path).supersede(["judge"])
            judge_in(path, server.url, *samples, f"judge.retry=[{state}]")
            assert len(server.bodies) == before + more
    assert {v.state for v in verdicts_of(path)} == {"ok"}


def test_a_repair_that_was_in_vain_is_asked_again_with_the_call_it_repairs(path):
    def reply(prompt):
        return "Hm." if "could not be read" in prompt or "q0?" in prompt else "8 6"

    sets = ("judge.repair=true", "judge.concurrency=1")
    with chat_server(reply) as server:
        judge_in(path, server.url, *sets)
        assert len(server.bodies) == 6 + 2
        assert statuses(path) == {"ok": 4, "unparsed": 4}
        Run(path).supersede(["judge"])
        judge_in(path, server.url, *sets, "judge.retry=[unparsed]")
        assert len(server.bodies) == 8 + 4
    assert statuses(path) == {"ok": 4, "unparsed": 8}


def test_a_repaired_reply_is_not_asked_again(path):
    def reply(prompt):
        return "9 4" if "could not be read" in prompt else "Hm." if "q0?" in prompt else "8 6"

    with chat_server(reply) as server:
        judge_in(path, server.url, "judge.repair=true")
        Run(path).supersede(["judge"])
        judge_in(path, server.url, "judge.repair=true", "judge.retry=[unparsed]")
        assert len(server.bodies) == 6 + 2
    assert statuses(path) == {"ok": 8}


def test_a_reply_at_another_temperature_is_not_marked(path):
    with chat_server(in_turn("8 6", "blue")) as server:
        judge_in(path, server.url)
        Run(path).supersede(["judge"])
        judge_in(path, server.url, "judge.temperature=0.7")
        assert statuses(path) == {"ok": 10, "unparsed": 2}
        Run(path).supersede(["judge"])
        judge_in(path, server.url, "judge.retry=[unparsed]")
        assert len(server.bodies) == 12


def test_samples_that_nobody_marked_are_marked_when_they_are_read_and_then_asked_again(path):
    sets = ("judge.samples=2", "judge.concurrency=1")
    with chat_server(in_turn("8 6", "blue", "9 6")) as server:
        judge_in(path, server.url, *sets)
        with sqlite3.connect(path / "judge" / "ledger.sqlite") as db:
            db.execute("UPDATE calls SET status = 'ok'")  # as when only first samples were marked
        for more in (0, 2):
            before = len(server.bodies)
            Run(path).supersede(["judge"])
            judge_in(path, server.url, *sets, "judge.retry=[unparsed]")
            assert len(server.bodies) == before + more


# --- equal samples


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (
            ["judge.temperature=0"],
            "temperature is 0, so all 3 would be equal; set samples to 1, or",
        ),
        (["judge.kind=local", "judge.checkpoint=base"], "local is greedy, so all 3 would be equal"),
    ],
)
def test_samples_that_would_be_equal_are_refused(overrides, said):
    with pytest.raises(RecipeError, match=said) as error:
        load_recipe("improved", ["judge.samples=3", *overrides])
    assert "\n" not in str(error.value)
    load_recipe("improved", overrides)


# --- repairs in estimates


def test_an_estimate_says_what_repairs_may_cost_at_most(path):
    with chat_server(lambda _: "Hm.") as server:
        before = lines(path, server.url, PRICES, "judge.repair=true")
        assert len(lines(path, server.url, PRICES)) == 3
        judge_in(path, server.url, PRICES, "judge.max_tokens=512")
        assert len(server.bodies) == 6
        certain = lines(path, server.url, PRICES, "judge.repair=true", "judge.retry=[]")
    assert before[0] == "6 calls to send, 0 in the ledger already"
    calls = float(before[2].removeprefix("at most $"))
    count, dollars, condition = before[3].removeprefix("and at most ").split(", ", 2)
    assert (count, condition) == (
        "6 repairs",
        "if replies cannot be read (counted in no figure above)",
    )
    # The reply of 512 tokens is read once more, and the form and its message with it.
    form = float(dollars.removeprefix("$")) - calls - 6 * 0.512
    assert 6 * 0.030 < form < 6 * 0.150
    assert len(before) == 4
    assert certain[0] == "0 calls to send, 0 in the ledger already"


def test_a_repair_that_stored_replies_need_is_certain(path):
    with chat_server(lambda _: "Hm.") as server:
        judge_in(path, server.url)
        (path / "judge" / "stage.json").unlink()
        (path / "judge" / "verdicts.jsonl").unlink()
        said = lines(path, server.url, PRICES, "judge.repair=true")
    assert said[0] == "6 calls to send, 6 in the ledger already"
    assert len(said) == 3


def test_repairs_cost_no_more_than_was_said(path):
    def reply(prompt):
        return "9 4" if "could not be read" in prompt else "Hm."

    with chat_server(reply) as server:
        said = lines(path, server.url, PRICES, "judge.repair=true")
        judge_in(path, server.url, PRICES, "judge.repair=true")
    most = float(said[2].removeprefix("at most $")) + float(said[3].split("$")[1].split(",")[0])
    assert 0 < summary(path)["cost_usd"] <= most


def test_a_repair_over_the_budget_is_made_up_for_with_more(path):
    def reply(prompt):
        return "9 4" if "could not be read" in prompt else "Hm."

    sets = ("judge.repair=true", "judge.concurrency=1")
    with chat_server(reply) as server:
        with pytest.raises(Exception, match="3 of 6 verdicts are missing"):
            judge_in(path, server.url, *sets, "judge.max_calls=9")
        judge_in(path, server.url, *sets, "judge.max_calls=12")
        assert len(server.bodies) == 12
    assert [v.state for v in verdicts_of(path)] == ["ok"] * 6


# --- what stage.json says of endpoints


def test_options_that_were_refused_are_in_stage_json_and_said_once_even_after_a_kill(path):
    refused = Counter()

    def reply(prompt):
        body = server.bodies[-1]
        for option in ("response_format", "seed"):
            if option in body:
                refused[option] += 1
                return failure(400, message=f"unknown option: {option}")
        if "q2?" in prompt and died.pop("once", None):
            return failure(401)
        return json.dumps({"answer_1": {"score": 8}, "answer_2": {"score": 6}})

    died, notes, sets = {"once": True}, Notes(), ("judge.rubric=faithful", "judge.concurrency=1")
    with chat_server(reply) as server:
        with pytest.raises(Exception, match="401"):
            judge_in(path, server.url, *sets)
        judge_in(path, server.url, *sets, reporter=notes)
    assert refused == {"response_format": 2, "seed": 1}  # a schema, then any object
    assert summary(path)["left_out"] == ["json_schema", "response_format", "seed"]
    (said,) = [line for line in notes.lines if "took no" in line]
    assert said.endswith("took no json_schema (json_object in its place), response_format, seed")


def test_an_endpoint_that_takes_everything_leaves_nothing_out(path):
    with chat_server(lambda _: "8 6") as server:
        judge_in(path, server.url)
    assert summary(path)["left_out"] == []


def named(model):
    """The server's usual reply from a model of that name."""
    body = json.loads(completion("8 6").body)
    return Response(body=json.dumps({**body, "model": model}).encode())


@pytest.mark.parametrize(
    ("models", "said"),
    [
        (["m"], None),
        (["m-1"], "judge m: m-1 (6) replied; judge.model=m-1 asks for it"),
        (
            ["m-1", "m-2", "m-2"],
            "warning: judge m: 2 models replied, m-1 (2), m-2 (4); name one of them",
        ),
    ],
)
def test_models_that_replied_are_counted_and_a_second_one_is_a_warning(path, models, said):
    def reply(prompt):
        return named(models[[f"q{n}?" in prompt for n in range(3)].index(True) % len(models)])

    notes = Notes()
    with chat_server(reply) as server:
        judge_in(path, server.url, reporter=notes)
    found = summary(path)
    assert found["model"] == "m"
    assert sum(found["models_returned"].values()) == 6
    assert set(found["models_returned"]) == set(models)
    assert [line for line in notes.lines if "replied" in line] == ([said] if said else [])


def test_what_left_this_machine_is_counted_over_all_processes(path):
    sets = ("judge.images_are_deidentified=true", "judge.blank_share=1", "judge.concurrency=1")
    with chat_server(lambda _: "8 6") as server:
        url = server.url.replace("127.0.0.1", "0.0.0.0")  # this machine by a name we do not know
        with pytest.raises(Exception, match="missing"):
            judge_in(path, url, *sets, "judge.max_calls=3", agree=lambda _: True)
        judge_in(path, url, *sets, "judge.max_calls=99", agree=lambda _: True)
        found = summary(path)
        assert (found["sent_to"], found["images_sent"]) == ([host_of(url)], 1)
        shutil.rmtree(path)
        answered(path, 3)
        judge_in(path, server.url)
    assert not {"sent_to", "images_sent"} & summary(path).keys()
    assert summary(path)["models_returned"] == {MODEL_RETURNED: 6}


def test_a_jury_says_it_of_each_member(path):
    with chat_server(lambda _: "8 6") as one, chat_server(lambda _: "8 6") as two:
        far = one.url.replace("127.0.0.1", "0.0.0.0")
        jury = (
            f"judge.jury={{far: {{model: a, base_url: '{far}', images_are_deidentified: true}}, "
            f"near: {{model: b, base_url: '{two.url}'}}}}"
        )
        judge_in(path, one.url, jury, agree=lambda _: True)
    found = summary(path)["jurors"]
    assert found["near"] == {
        "model": "b", "models_returned": {MODEL_RETURNED: 6}, "left_out": []
    }  # fmt: skip
    assert (found["far"]["sent_to"], found["far"]["images_sent"]) == ([host_of(far)], 1)


def test_what_a_member_s_votes_could_not_be_read_from_is_asked_again_by_choice(path):
    with chat_server(in_turn("blue")) as one, chat_server(lambda _: "8 6") as two:
        urls = {"a": one.url, "b": two.url}
        said = ", ".join(f"{n}: {{model: {n}, base_url: '{url}'}}" for n, url in urls.items())
        judge_in(path, one.url, f"judge.jury={{{said}}}")
        Run(path).supersede(["judge"])
        judge_in(path, one.url, f"judge.jury={{{said}}}", "judge.retry=[unparsed]")
        assert (len(one.bodies), len(two.bodies)) == (6 + 2, 6)

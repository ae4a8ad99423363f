"""eval pays for nothing twice, and no more than its caps: endpoints and judge, each its ledger."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from servers import chat_server, failure
from test_evaluate import prepare_run, run_eval
from typer.testing import CliRunner

from stllava import cli
from stllava.config import PaidSection, Recipe
from stllava.errors import JudgeError, StllavaError
from stllava.generation.protocol import BudgetStopped
from stllava.images import open_image, pixels_sha256
from stllava.judging.calls.ledger import Ledger
from stllava.pipeline import Job, evaluate
from stllava.pipeline.evaluate import estimate
from stllava.pipeline.evaluate.payment import ledger_path
from stllava.run import Run

PRICES = {"input": 1000, "output": 2000}
COST = (11 * 1000 + 3 * 2000) / 1e6  # of a call, by the usage that the server reports
REMOTE = {"base_url": "https://far.invalid/v1", "images_are_deidentified": True, "prices": PRICES}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return prepare_run(tmp_path / "run")


def chosen(
    endpoints: dict[str, dict[str, Any]], judge: dict[str, Any] | None = None, **fields: Any
) -> Recipe:
    """`endpoints`: by name, what differs from one call at a time with one try."""
    usual = {"model": "m", "max_tries": 1, "concurrency": 1}
    section = {
        "benchmark": "vqa-rad",
        "models": [],
        "grounding_images": 0,
        "endpoints": {name: {**usual, **fields} for name, fields in endpoints.items()},
        "judge": judge and {**usual, "model": "marker", **judge},
        **fields,
    }
    return Recipe.model_validate({"unit_images": 2, "eval": section})


def calls(file: Path) -> list[dict[str, Any]]:
    """What was asked, image hashes in the place of images."""
    with sqlite3.connect(file) as db:
        return [json.loads(row[0]) for row in db.execute("SELECT request FROM calls")]


def image_of(asked: dict[str, Any]) -> str:
    return str(asked["messages"][0]["content"][0]["image_url"]["url"])


def missing(run: Path, model: str = "api") -> int:
    file = run / f"eval/{model}/vqa-rad/image/scores.json"
    return int(json.loads(file.read_text())["missing"])


def test_a_redone_evaluation_pays_nothing_twice(run: Path):
    with chat_server(lambda prompt: "left") as server:
        recipe = chosen({"api": {"base_url": server.url}}, {"base_url": server.url})
        run_eval(run, recipe)
        assert len(server.bodies) == 16 + 1  # equal questions with equal answers: one mark
        before = (run / "eval/api/vqa-rad/image/predictions.jsonl").read_bytes()
        assert Run(run).supersede(["eval"]) == ["eval"]
        assert {f.name for f in (run / "eval").iterdir()} == {
            "endpoints.api.sqlite", "judge.sqlite"
        }  # fmt: skip
        run_eval(run, recipe)
        assert len(server.bodies) == 16 + 1
    assert (run / "eval/api/vqa-rad/image/predictions.jsonl").read_bytes() == before


def test_a_view_is_another_call_and_a_picture_shown_twice_is_one(run: Path):
    with chat_server(lambda prompt: "left") as server:
        run_eval(run, chosen({"api": {"base_url": server.url}}, grounding_images=None))
        sent = len(server.bodies)
    asked = calls(run / "eval/endpoints.api.sqlite")
    pictures = {pixels_sha256(open_image(p)) for p in (run / "prepare/images").iterdir()}
    shown = Counter(image_of(call).split(":")[-1].split("@")[0] in pictures for call in asked)
    # Two questions about eight pictures and about a gray one in the size of each. `other` asks what
    # `image` has asked: the same question about the picture that it shows.
    assert shown == {True: 16, False: 16}
    assert sent == 32
    assert (run / "eval/api/vqa-rad/other/stage.json").is_file()


def test_a_question_beyond_the_cap_is_not_a_wrong_answer(run: Path):
    with chat_server(lambda prompt: "left") as server:
        for cap, sent in ((5, 5), (9, 9)):
            capped = {"base_url": server.url, "max_calls": cap, "concurrency": 3}
            with pytest.raises(BudgetStopped) as error:
                run_eval(run, chosen({"api": capped}))
            assert str(error.value) == (
                "model m (eval.endpoints.api): the budget is used up; raise "
                "eval.endpoints.api.max_calls and repeat the command"
            )
            assert len(server.bodies) == sent
            assert not list(run.glob("eval/**/scores.json"))
        run_eval(run, chosen({"api": {"base_url": server.url, "max_calls": 16}}))
        assert len(server.bodies) == 16
    assert missing(run) == 0


def test_a_cap_in_dollars_holds_with_many_calls_in_flight(run: Path):
    fields = {"prices": PRICES, "concurrency": 8, "image_tokens": 100}
    with chat_server(lambda prompt: "left") as server:
        capped = {"base_url": server.url, "max_usd": 0.4, **fields}
        with pytest.raises(BudgetStopped, match=r"raise eval\.endpoints\.api\.max_usd"):
            run_eval(run, chosen({"api": capped}))
        sent = len(server.bodies)
        with Ledger(run / "eval/endpoints.api.sqlite") as ledger:
            spent = ledger.totals().spent_usd
        assert 0 < sent < 16
        assert spent == pytest.approx(sent * COST)
        assert spent <= 0.4
        run_eval(run, chosen({"api": {**capped, "max_usd": 4}}))
        assert len(server.bodies) == 16


def test_each_endpoint_has_a_cap_and_a_ledger_of_its_own(run: Path):
    with chat_server(lambda prompt: "left") as server:
        both = {
            "gpt-4.1": {"base_url": server.url, "max_calls": 16},
            "other": {"base_url": server.url, "max_calls": 3},
        }
        with pytest.raises(BudgetStopped, match=r"eval\.endpoints\.other\.max_calls"):
            run_eval(run, chosen(both))
        assert len(server.bodies) == 16 + 3
    assert missing(run, "gpt-4.1") == 0
    assert len(calls(run / "eval/endpoints.gpt-4.1.sqlite")) == 16
    assert len(calls(run / "eval/endpoints.other.sqlite")) == 3


def test_runs_that_name_one_ledger_pay_once(run: Path, tmp_path: Path):
    other = prepare_run(tmp_path / "other")
    with chat_server(lambda prompt: "left") as server:
        shared = chosen({"api": {"base_url": server.url, "ledger": str(tmp_path / "a.sqlite")}})
        run_eval(run, shared)
        run_eval(other, shared)
        assert len(server.bodies) == 16
    assert not list(run.glob("eval/*.sqlite"))


def test_a_judge_over_its_cap_stops_and_goes_on_without_asking_the_model_again(run: Path):
    with chat_server(lambda prompt: "2" if "[Answer 1]" in prompt else prompt) as server:
        api = {"api": {"base_url": server.url}}
        with pytest.raises(BudgetStopped, match=r"raise eval\.judge\.max_calls"):
            run_eval(run, chosen(api, {"base_url": server.url, "max_calls": 0}))
        assert len(server.bodies) == 16
        run_eval(run, chosen(api, {"base_url": server.url, "max_calls": 1}))
        assert len(server.bodies) == 17
    scores = json.loads((run / "eval/api/vqa-rad/image/scores.json").read_text())
    assert (scores["judged"]["n"], scores["judged"]["mean"]) == (8, 100)


def test_a_failed_call_is_missing_and_is_asked_again_when_eval_is_redone(run: Path):
    down = [True]

    def reply(prompt: str) -> Any:
        return failure(500) if down[0] and "What" in prompt else "left"

    with chat_server(reply) as server:
        recipe = chosen({"api": {"base_url": server.url}})
        run_eval(run, recipe)
        assert missing(run) == 8
        down[0] = False
        Run(run).supersede(["eval"])
        run_eval(run, recipe)
        assert missing(run) == 0
        assert len(server.bodies) == 16 + 8


def test_a_control_pays_the_judge_from_the_ledger_of_its_run(run: Path):
    section = PaidSection()
    job = Job(Run(run), Recipe())
    there = ledger_path(job, section, "eval.judge")
    assert there == run / "eval/judge.sqlite"
    assert ledger_path(replace(job, control="random"), section, "eval.judge") == there


# --- agreeing to pay


def evaluate_in(run: Path, recipe: Recipe, **options: Any) -> None:
    with Run(run) as opened:
        evaluate(Job(opened, recipe, **options))


@pytest.mark.parametrize(
    ("recipe", "said"),
    [
        (chosen({"far": REMOTE}), "model m (eval.endpoints.far): 16 calls to send, 0 in the"),
        (chosen({}, REMOTE, models=["base"]), "model marker (eval.judge): 8 calls to send, 0 in"),
    ],
)
def test_nothing_is_sent_to_a_remote_host_that_nobody_agreed_to_pay_for(
    run: Path, recipe: Recipe, said: str
):
    asked: list[str] = []
    for agree, ending in ((None, "add --yes to agree, or look first with --dry-run"),
                          (lambda text: bool(asked.append(text)), "nothing was sent")):  # fmt: skip
        with pytest.raises(JudgeError) as error:
            evaluate_in(run, recipe, agree=agree)
        assert str(error.value).endswith(ending)
        assert "\n" not in str(error.value)
    assert asked[0].startswith(said)
    assert "; at most $" in asked[0]
    assert not list(run.glob("eval/**/*.jsonl"))


def test_a_cap_that_could_not_be_held_is_refused_before_anything_is_computed(run: Path):
    unpriced = {**REMOTE, "prices": None, "max_usd": 5}
    with pytest.raises(JudgeError, match=r"add --set eval\.endpoints\.far\.prices="):
        evaluate_in(run, chosen({"far": unpriced}))
    assert not (run / "eval").exists()


def lines(run: Path, recipe: Recipe) -> list[str]:
    with Run(run) as opened:
        return estimate(Job(opened, recipe))


def test_an_estimate_counts_every_call_once_and_is_at_least_what_is_spent(run: Path):
    with chat_server(lambda prompt: "2" if "[Answer 1]" in prompt else prompt) as server:
        priced = {"base_url": server.url, "prices": PRICES}
        recipe = chosen({"api": priced}, priced, grounding_images=None)
        before = lines(run, recipe)
        assert server.bodies == []
        assert not (run / "eval").exists()
        run_eval(run, recipe)
        assert before[0] == (
            "model m (eval.endpoints.api): 32 calls to send, 0 in the ledger already"
        )
        assert len(server.bodies) == 32 + 1
        (run / "eval/api/vqa-rad/blank/stage.json").unlink()
        after = lines(run, recipe)
    most = [float(line.split("at most $")[1]) for line in before if "$" in line]
    assert most[0] > 32 * COST
    assert most[1] > COST
    assert after[0].endswith(": 0 calls to send, 16 in the ledger already")


def stllava(*args: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def test_a_dry_run_of_eval_prints_what_it_would_cost(run: Path, tmp_path: Path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(chosen({"far": {**REMOTE, "prices": None}}).dump()))
    done = stllava("eval", file, "--run", run, "--dry-run")
    assert done.exit_code == 0, done.exception
    first, tokens, money = done.output.splitlines()
    assert first == "model m (eval.endpoints.far): 16 calls to send, 0 in the ledger already"
    assert f"({16 * 1399} of images) and {16 * 64} out" in tokens
    assert money.endswith("price unknown (eval.endpoints.far.prices)")
    refused = stllava("eval", file, "--run", run).exception
    assert isinstance(refused, StllavaError)
    assert "add --yes to agree" in str(refused)


# --- a crash


def test_a_killed_evaluation_sends_again_only_what_was_in_flight(run: Path, tmp_path: Path):
    child: list[int] = []

    def reply(prompt: str) -> str:
        if len(server.bodies) == 11 and child:
            os.kill(child.pop(), signal.SIGKILL)
        return prompt

    with chat_server(reply) as server:
        recipe = chosen({"api": {"base_url": server.url}}, grounding_images=None)
        code = (
            "import sys; from stllava.config import Recipe; from stllava.run import Run; "
            "from stllava.pipeline import Job, evaluate; "
            "recipe = Recipe.model_validate_json(sys.argv[2])\n"
            "with Run(sys.argv[1]) as run: evaluate(Job(run, recipe))"
        )
        command = [sys.executable, "-c", code, str(run), recipe.model_dump_json()]
        with subprocess.Popen(command) as process:
            child.append(process.pid)
            assert process.wait() == -signal.SIGKILL
        assert len(server.bodies) == 11
        run_eval(run, recipe)
        sent = Counter(json.dumps(body["messages"]) for body in server.bodies)
        assert sorted(sent.values()) == [1] * 31 + [2]
        whole = prepare_run(tmp_path / "whole")
        run_eval(whole, recipe)
    with Ledger(run / "eval/endpoints.api.sqlite") as ledger:
        assert (ledger.totals().calls, ledger.totals().lost_calls) == (33, 1)
    for file in whole.glob("eval/api/vqa-rad/*/predictions.jsonl"):
        assert (run / file.relative_to(whole)).read_bytes() == file.read_bytes()

import os
import subprocess
import sys
from contextlib import suppress

import pytest
from faulty_server import faulty_server
from judged_runs import SENTINEL, answered, recipe, verdicts_of
from servers import chat_server, completion, failure

from stllava.cli import main
from stllava.errors import JudgeError
from stllava.pipeline import Job
from stllava.pipeline.judging.stage import estimate, judge
from stllava.run import Run

PRICES = "judge.prices={input: 1000, output: 2000}"
REMOTE = ("judge.images_are_deidentified=true", PRICES)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def path(tmp_path):
    answered(tmp_path / "run", 3)
    return tmp_path / "run"


def judge_in(path, url, *overrides, **options):
    with Run(path) as run:
        judge(Job(run, recipe(url, *overrides), **options))


def said(path):
    return (path / "judge" / "verdicts.jsonl").read_text()


def test_deleted_verdicts_come_back_from_the_ledger_word_for_word(path):
    with chat_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url)
        before = said(path)
        for name in ("verdicts.jsonl", "stage.json"):
            (path / "judge" / name).unlink()
        judge_in(path, server.url)
        assert said(path) == before
        assert len(server.bodies) == 6


def test_a_stage_that_is_redone_keeps_its_ledger(path):
    with chat_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url)
        before = said(path)
        assert Run(path).supersede(["judge"]) == ["judge"]
        assert [f.name for f in (path / "judge").iterdir()] == ["ledger.sqlite"]
        judge_in(path, server.url)
        assert said(path) == before
        assert len(server.bodies) == 6
    (kept,) = (path / "superseded").iterdir()
    assert (kept / "verdicts.jsonl").read_text() == before


@pytest.mark.parametrize(("state", "more"), [("refused", 2), ("unparsed", 2), ("failed", 0)])
def test_a_redone_stage_asks_again_what_its_recipe_names(path, state, more):
    def reply(prompt):
        if "q0?" in prompt:
            return completion(None, refusal="No.")
        return "blue" if "q1?" in prompt else "8 6"

    with chat_server(reply) as server:
        judge_in(path, server.url)
        Run(path).supersede(["judge"])
        judge_in(path, server.url, f"judge.retry=[{state}]")
        assert len(server.bodies) == 6 + more
    assert [v.state for v in verdicts_of(path)] == ["refused"] * 2 + ["unparsed"] * 2 + ["ok"] * 2


def test_runs_that_share_a_ledger_pay_once(path, tmp_path):
    answered(tmp_path / "other", 3)
    shared = f"judge.ledger={tmp_path}/all.sqlite"
    with chat_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url, shared)
        judge_in(tmp_path / "other", server.url, shared)
        assert len(server.bodies) == 6
    assert said(path) == said(tmp_path / "other")


def test_a_stage_over_its_budget_says_so_and_goes_on_with_more(path):
    with chat_server(lambda prompt: "8 6") as server:
        with pytest.raises(JudgeError, match=r"2 of 6 verdicts are missing; raise judge.max_calls"):
            judge_in(path, server.url, "judge.max_calls=4", "judge.concurrency=1")
        states = [v.state for v in verdicts_of(path)]
        assert states == ["ok"] * 4 + ["budget_stopped"] * 2
        assert not (path / "judge" / "stage.json").exists()
        judge_in(path, server.url, "judge.max_calls=6")
        assert len(server.bodies) == 6
    assert [v.state for v in verdicts_of(path)] == ["ok"] * 6
    assert (path / "judge" / "stage.json").exists()


def test_failed_calls_are_asked_again_when_the_stage_goes_on(path):
    with faulty_server(lambda p: ["500"] * 2 if "q1?" in p else [], lambda p: "8 6") as server:
        for accepted in ("judge.max_failed=0.3", "judge.max_failed=0.34"):
            with suppress(JudgeError):
                judge_in(path, server.url, "judge.max_tries=1", accepted)
            assert [v.state for v in verdicts_of(path)].count("transport_failed") == 2
        (path / "judge" / "stage.json").unlink()
        judge_in(path, server.url, "judge.max_tries=1")
    assert [v.state for v in verdicts_of(path)] == ["ok"] * 6
    assert set(server.completed.values()) == {1}


def test_a_stage_that_lost_more_than_it_may_stays_open_and_says_so(path):
    short = r"2 of 6 .* repeat .* judge.max_failed=0.34"
    with (
        faulty_server(lambda p: ["500"] * 2 if "q1?" in p else [], lambda p: "8 6") as server,
        pytest.raises(JudgeError, match=short),
    ):
        judge_in(path, server.url, "judge.max_tries=1")
    assert not (path / "judge" / "stage.json").exists()


def test_verdicts_that_were_deleted_alone_come_back(path):
    with chat_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url)
        before = said(path)
        (path / "judge" / "verdicts.jsonl").unlink()
        judge_in(path, server.url)
        assert said(path) == before
        assert len(server.bodies) == 6


def test_a_server_that_is_not_there_stops_the_stage(path):
    with pytest.raises(JudgeError, match=r"no connection to 127.0.0.1:9 for 4 calls in a row; see"):
        judge_in(path, "http://127.0.0.1:9/v1", "judge.max_tries=1")
    assert not (path / "judge" / "stage.json").exists()


def test_a_pair_that_the_server_does_not_take_is_skipped(path):
    def reply(prompt):
        return failure(400, code="context_length_exceeded") if "q1?" in prompt else "8 6"

    with chat_server(reply) as server:
        judge_in(path, server.url)
        judge_in(path, server.url)
    assert len(server.bodies) == 6
    assert [v.state for v in verdicts_of(path)] == ["ok", "ok", "skipped", "skipped", "ok", "ok"]
    assert "does not take this request" in verdicts_of(path)[2].reason


def test_a_pair_that_was_not_taken_stops_no_stage_that_is_done_over(path):
    def reply(prompt):
        return failure(400, message="cannot identify image") if "q1?" in prompt else "8 6"

    with chat_server(reply) as server:
        judge_in(path, server.url, "judge.concurrency=1")
        Run(path).supersede(["judge"])
        judge_in(path, server.url, "judge.concurrency=1")
    assert len(server.bodies) == 6 + 2
    assert [v.state for v in verdicts_of(path)] == ["ok", "ok", "skipped", "skipped", "ok", "ok"]


# --- agreeing to pay


def test_nothing_is_sent_to_a_remote_host_that_nobody_agreed_to_pay_for(path):
    asked = []
    for agree in (None, lambda text: bool(asked.append(text))):
        with pytest.raises(JudgeError) as error:
            judge_in(path, "https://judge.invalid/v1", *REMOTE, agree=agree)
        assert "\n" not in str(error.value)
    assert asked[0].startswith("judge m: 6 calls to send, 0 in the ledger already; at most ")
    assert verdicts_of(path) == []


def test_an_estimate_counts_what_is_not_in_the_ledger_and_sends_nothing(path):
    with chat_server(lambda prompt: "8 6") as server:
        before = lines(path, server.url, PRICES)
        assert server.bodies == []
        judge_in(path, server.url, PRICES)
        after = lines(path, server.url, PRICES)
    assert before[0] == "6 calls to send, 0 in the ledger already"
    assert "(8394 of images) and 3072 out" in before[1]
    assert float(before[2].removeprefix("at most $")) > 8.394 + 6.144
    assert (after[0], after[2]) == ("0 calls to send, 0 in the ledger already", "at most $0.00")


def lines(path, url, *overrides):
    with Run(path) as run:
        return estimate(Job(run, recipe(url, *overrides)))


def test_what_was_estimated_is_at_least_what_was_spent(path):
    with chat_server(lambda prompt: "8 6") as server:
        before = lines(path, server.url, PRICES)
        judge_in(path, server.url, PRICES)
    spent = sum(v.cost_usd for v in verdicts_of(path))
    assert 0 < spent <= float(before[2].removeprefix("at most $"))


# --- the command line, and secrets


def arguments(path, url, *more):
    sets = ("judge.rubric=paper", "judge.model=m", "model.path=x", "judge.max_tries=1")
    sets = (*sets, "judge.repair=false")
    sets = [f"judge.base_url={url}", "judge.concurrency=1", *sets]
    return [*more, "--run", str(path), *(word for text in sets for word in ("--set", text))]


def test_a_dry_run_prints_calls_tokens_and_dollars(path, monkeypatch, capsys):
    there = arguments(path, "https://judge.invalid/v1", "stllava", "judge", "improved", "--dry-run")
    monkeypatch.setattr(sys, "argv", there)
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 0
    calls, tokens, money = capsys.readouterr().out.splitlines()
    assert calls == "6 calls to send, 0 in the ledger already"
    assert tokens.startswith("at most ")
    assert money == "price unknown (judge.prices)"


def test_without_yes_and_a_terminal_a_remote_judge_is_one_line(path, monkeypatch, capsys):
    there = arguments(path, "https://judge.invalid/v1", "stllava", "judge", "improved")
    monkeypatch.setattr(sys, "argv", [*there, "--set", REMOTE[0]])
    with pytest.raises(SystemExit) as done:
        main()
    assert done.value.code == 2
    error = capsys.readouterr().err
    assert "add --yes to agree" in error
    assert error.count("\n") == 1


def test_the_access_key_is_nowhere_whatever_the_server_says(path):
    echo = f"you sent Authorization: Bearer {SENTINEL}"

    def reply(prompt):
        status = 500 if "q0?" in prompt else 401
        return echo if "q1?" in prompt else failure(status, message=echo)

    with chat_server(reply) as server:
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                *arguments(path, server.url, "stllava", "-v", "judge", "improved"),
            ],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONDEVMODE": "1"},
            check=False,
        )
        assert set(server.authorizations) == {f"Bearer {SENTINEL}"}
    assert done.returncode == 2
    assert "401" in done.stderr
    assert [v.state for v in verdicts_of(path)] == ["transport_failed"] * 2 + ["unparsed"] * 2
    assert SENTINEL not in done.stdout + done.stderr
    files = [file for file in path.rglob("*") if file.is_file()]
    assert path / "judge" / "ledger.sqlite" in files
    assert [file for file in files if SENTINEL.encode() in file.read_bytes()] == []

"""Judging in batches: paid once, at the batch's price, whatever stops or fails in between."""

import json
import os
import signal
import sqlite3
import subprocess
import sys

import pytest
from batch_server import LOST, SERVED, batch_server
from judged_runs import SENTINEL, answered, calls_of, recipe, verdicts_of
from servers import NOT_JSON, TRUNCATED, chat_server, completion, failure

from stllava.errors import JudgeError, RecipeError, RunError
from stllava.pipeline import Job
from stllava.pipeline.judging.bench import bench
from stllava.pipeline.judging.stage import estimate, judge
from stllava.run import Run

NUM_PAIRS = 30
NUM_CALLS = 2 * NUM_PAIRS
SHORT = "{poll_s: 0.01, min_calls: 2}"
BATCH = f"judge.batch={SHORT}"
PRICES = "judge.prices={input: 1000, output: 1000}"
COST = (11 + 3) / 1000  # of a reply of the server at the full price


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("stllava.generation.endpoint.batch.wait_s", lambda *_: 0.001)


@pytest.fixture
def path(tmp_path):
    answered(tmp_path / "run", NUM_PAIRS)
    return tmp_path / "run"


def judge_in(path, url, *overrides, **options):
    with Run(path) as run:
        judge(Job(run, recipe(url, BATCH, *overrides), **options))


def summary(path):
    return Run(path).stage("judge").summary


def ledger(path, query):
    with sqlite3.connect(path / "judge" / "ledger.sqlite") as db:
        return db.execute(query).fetchall()


def leftovers(path):
    return [f.name for f in (path / "judge").iterdir() if f.name.startswith("batch-")]


class Notes:
    """A reporter that keeps lines."""

    def __init__(self):
        self.notes = []

    def stage(self, name, total): ...

    def advance(self, done, total, **figures): ...

    def note(self, text):
        self.notes.append(text)


def test_one_call_is_asked_at_once_and_all_others_come_at_half_price(path):
    with batch_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url, PRICES)
    assert len(server.single) == 1
    assert len(server.handed_in) == len(server.answered) == NUM_CALLS - 1
    assert summary(path)["verdicts"] == NUM_CALLS
    assert summary(path)["cost_usd"] == pytest.approx(COST * (1 + (NUM_CALLS - 1) / 2))
    assert leftovers(path) == []
    assert ledger(path, "SELECT count(*) FROM reservations") == [(0,)]


def test_verdicts_are_those_of_single_calls(path, tmp_path):
    def reply(prompt):
        return "7 5" if "q1" in prompt else "4 9"

    with batch_server(reply) as server:
        judge_in(path, server.url)
        answered(tmp_path / "other", NUM_PAIRS)
        judge_in(tmp_path / "other", server.url, "judge.batch=null")
    assert verdicts_of(path) == verdicts_of(tmp_path / "other")
    keys = [row[0] for row in calls_of(path)]
    assert keys == [row[0] for row in calls_of(tmp_path / "other")]


def test_lines_are_what_the_api_asks_for_and_hold_the_image(path):
    with batch_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url)
    line = server.handed_in[0]
    assert (line["method"], line["url"]) == ("POST", "/v1/chat/completions")
    assert line["body"]["model"] == "m"
    assert line["body"]["max_tokens"] == server.single[0]["max_tokens"]
    kinds = {part["type"] for part in line["body"]["messages"][0]["content"]}
    assert kinds == {"text", "image_url"}
    assert len({line["custom_id"] for line in server.handed_in}) == NUM_CALLS - 1


def test_options_that_the_server_refuses_are_in_no_line(path):
    def reply(prompt):
        asks = server.single[-1] if len(server.handed_in) == 0 else {}
        if "seed" in asks:
            return failure(400, message="Unsupported parameter: 'seed'")
        return "8 6"

    with batch_server(reply) as server:
        judge_in(path, server.url)
    assert "seed" in server.single[0]
    assert not any("seed" in line["body"] for line in server.handed_in)
    assert summary(path)["states"] == {"ok": NUM_CALLS}


def test_what_a_batch_does_not_bring_is_handed_in_again_and_then_asked_one_by_one(path):
    with batch_server(lambda prompt: "8 6", ends="expired", answers=20) as server:
        judge_in(path, server.url)
    assert len(server.batches) == 3
    assert len(server.handed_in) == 59 + 39 + 19
    assert len(server.single) == 1  # the third batch brought the rest
    assert summary(path)["states"] == {"ok": NUM_CALLS}
    assert len(set(server.answered)) == len(server.answered)


def test_a_batch_that_brings_nothing_is_not_repeated(path):
    def reply(prompt):
        return "8 6" if server.single and not server.batches else failure(500)

    with batch_server(reply) as server:
        judge_in(path, server.url, "judge.max_tries=1", "judge.max_failed=1")
    assert len(server.batches) == 1
    assert len(server.single) == NUM_CALLS
    assert summary(path)["states"] == {"ok": 1, "transport_failed": NUM_CALLS - 1}


def test_lost_duplicate_foreign_and_broken_lines_change_nothing(path):
    foreign = b'{"custom_id": "x", "response": {"status_code": 200, "body": {}}}'
    with batch_server(lambda prompt: "8 6") as server:
        reply = completion("1 10").body.decode()
        first = '{"custom_id": "%s", "response": {"status_code": 200, "body": %s}}'
        server.extra_lines = (foreign, b"not JSON", b"", b'{"response": null}', b"\xff" * 40)
        judge_in(path, server.url)
        again = server.handed_in[0]["custom_id"]
    assert summary(path)["states"] == {"ok": NUM_CALLS}
    with batch_server(lambda prompt: "8 6") as server:
        server.extra_lines = ((first % (again, reply)).encode(),) * 2
        answered(path.parent / "second", NUM_PAIRS)
        judge_in(path.parent / "second", server.url)
    assert ledger(path.parent / "second", "SELECT count(*), max(ask) FROM calls") == [
        (NUM_CALLS, 0)
    ]


def test_refusals_filters_and_unreadable_replies_have_their_states(path):
    def reply(prompt):
        if "q1?" in prompt:
            return completion(None, refusal="No.")
        if "q2?" in prompt:
            return failure(400, code="content_filter")
        return "blue" if "q3?" in prompt else "8 6"

    with batch_server(reply) as server:
        judge_in(path, server.url)
    states = summary(path)["states"]
    assert states == {"ok": NUM_CALLS - 6, "refused": 2, "filtered": 2, "unparsed": 2}


def test_the_blank_view_comes_in_batches_too(path):
    with batch_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url, "judge.blank_share=1")
    assert len(server.single) == 1
    assert len(server.answered) == 2 * NUM_CALLS - 1


def test_the_members_of_a_jury_hand_in_their_own_batches(path):
    with batch_server(lambda prompt: "8 6") as server:
        members = [
            f"judge.jury.{name}={{model: {name}, base_url: '{server.url}', batch: {SHORT}}}"
            for name in ("a", "b")
        ]
        judge_in(path, server.url, "judge.batch=null", *members)
    assert len(server.single) == len(server.batches) == 2
    assert {line["body"]["model"] for line in server.handed_in} == {"a", "b"}
    assert len(server.answered) == 2 * (NUM_CALLS - 1)
    assert summary(path)["states"] == {"inconsistent": NUM_PAIRS}  # the first one always wins


def test_a_server_of_ones_own_takes_no_batches():
    with pytest.raises(RecipeError, match="batch: a server of one's own answers at once"):
        recipe("http://127.0.0.1:1/v1", BATCH, "judge.server={command: x}")


def test_repairs_are_asked_one_by_one(path):
    def reply(prompt):
        return "blue" if "q5?" in prompt else "8 6"

    with batch_server(reply) as server:
        judge_in(path, server.url, "judge.repair=true")
    assert len(server.single) == 3  # the first call, and q5 in both orders
    assert summary(path)["states"] == {"ok": NUM_CALLS}


def test_few_calls_are_not_worth_a_batch(path):
    few = "judge.batch={poll_s: 0.01, min_calls: 61}"
    with batch_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url, few)
    assert (len(server.single), len(server.batches)) == (NUM_CALLS, 0)
    assert ledger(path, "SELECT count(*) FROM reservations") == [(0,)]


def test_large_files_are_split(path):
    with batch_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url, "judge.batch.max_calls=25")
    sizes = [batch["request_counts"]["total"] for batch in server.batches.values()]
    assert sizes == [25, 25, 9]


def test_the_cap_holds_for_what_is_handed_in(path):
    with batch_server(lambda prompt: "8 6") as server:
        with pytest.raises(JudgeError, match="the budget is used up"):
            judge_in(path, server.url, "judge.max_calls=21")
        assert len(server.answered) + len(server.single) == 21
        judge_in(path, server.url, f"judge.max_calls={NUM_CALLS}")
    assert len(server.answered) + len(server.single) == NUM_CALLS


def test_the_cap_in_dollars_counts_the_price_of_batches(path):
    with batch_server(lambda prompt: "8 6") as server:
        with Run(path) as run:
            (money,) = estimate(Job(run, recipe(server.url, PRICES, BATCH)))[2:]
        usd = float(money.split("$")[1].split(" ")[0]) / NUM_CALLS
        judge_in(path, server.url, PRICES, f"judge.max_usd={10.5 * usd:.2f}")
    sizes = [batch["request_counts"]["total"] for batch in server.batches.values()]
    assert sizes[0] == 10
    assert summary(path)["states"] == {"ok": NUM_CALLS}  # replies cost less than was set aside


@pytest.mark.parametrize(
    ("ends", "words"),
    [
        ("failed", r"failed \(too many tokens\); nothing of it was charged"),
        ("cancelled", "cancelled, 0 of 59 replies were kept; repeat the command"),
    ],
)
def test_a_batch_that_did_not_end_by_itself_stops_in_one_line_and_can_be_repeated(
    path, ends, words
):
    with batch_server(lambda prompt: "8 6", ends=ends, answers=0) as server:
        with pytest.raises(JudgeError, match=words):
            judge_in(path, server.url)
        assert ledger(path, "SELECT count(*) FROM reservations") == [(0,)]
        server.ends, server.answers = "completed", None
        judge_in(path, server.url)
    assert summary(path)["states"] == {"ok": NUM_CALLS}


def test_a_cancelled_batch_keeps_what_came(path):
    with batch_server(lambda prompt: "8 6", ends="cancelled", answers=10) as server:
        with pytest.raises(JudgeError, match="10 of 59 replies were kept"):
            judge_in(path, server.url)
        server.ends, server.answers = "completed", None
        judge_in(path, server.url)
    assert len(server.answered) + len(server.single) == NUM_CALLS


def test_waiting_can_be_left_to_the_next_command(path):
    with batch_server(lambda prompt: "8 6", looks=3) as server:
        with pytest.raises(JudgeError, match=r"batch_0: 0 of 59 calls are done after 0 s"):
            judge_in(path, server.url, "judge.batch.wait_s=0")
        assert not (path / "judge" / "stage.json").exists()
        judge_in(path, server.url)
    assert len(server.batches) == 1
    assert summary(path)["states"] == {"ok": NUM_CALLS}


def test_a_command_without_batches_says_that_one_is_under_way(path):
    with batch_server(lambda prompt: "8 6", looks=3) as server:
        with pytest.raises(JudgeError, match="nothing is lost"):
            judge_in(path, server.url, "judge.batch.wait_s=0")
        with pytest.raises(RunError, match=r"in a batch; collect it first, with --set judge"):
            judge_in(path, server.url, "judge.batch=null")
    assert len(server.single) == 1


@pytest.mark.parametrize(
    ("route", "faults"),
    [
        ("POST /files", [failure(503), failure(429, retry_after="0"), NOT_JSON]),
        ("POST /files", [LOST]),
        ("POST /batches", [failure(500), LOST]),
        ("GET /batches/ID", [failure(502), NOT_JSON, LOST]),
        ("GET /batches", [failure(502), LOST]),
        ("GET /files/ID/content", [failure(500), LOST, TRUNCATED]),
    ],
)
def test_passing_faults_of_every_route_cost_nothing(path, route, faults):
    with batch_server(lambda prompt: "8 6") as server:
        server.faults[route] = list(faults)
        judge_in(path, server.url)
        assert server.faults[route] == []
    assert len(server.batches) == 1
    assert len(server.answered) == NUM_CALLS - 1
    assert summary(path)["states"] == {"ok": NUM_CALLS}


@pytest.mark.parametrize("route", ["POST /files", "POST /batches", "GET /batches/ID"])
def test_a_provider_that_stays_away_costs_nothing_and_is_asked_again_by_the_next_command(
    path, route
):
    with batch_server(lambda prompt: "8 6") as server:
        server.faults[route] = [failure(503)] * 2
        with pytest.raises(JudgeError, match=r"503 .* after 2 tries; nothing is lost, repeat"):
            judge_in(path, server.url, "judge.max_tries=2")
        judge_in(path, server.url)
    assert len(server.answered) + len(server.single) == NUM_CALLS
    assert ledger(path, "SELECT count(*) FROM reservations") == [(0,)]


def test_a_server_without_batches_is_named_with_the_remedy(path):
    with chat_server(lambda prompt: "8 6") as server:
        with pytest.raises(JudgeError, match=r"no batches at 127.* \(404\).*judge.batch=null"):
            judge_in(path, server.url)
        judge_in(path, server.url, "judge.batch=null")
    assert summary(path)["states"] == {"ok": NUM_CALLS}


def test_a_wrong_key_stops_without_showing_it(path):
    said = failure(401, message=f"Incorrect API key provided: {SENTINEL}")
    with batch_server(lambda prompt: "8 6") as server:
        server.faults["POST /files"] = [said]
        with pytest.raises(JudgeError, match="401") as stopped:
            judge_in(path, server.url)
    assert SENTINEL not in str(stopped.value)


def test_a_key_that_results_quote_is_kept_nowhere(path):
    notes = Notes()
    with batch_server(lambda prompt: f"8 6\nyour key is {SENTINEL}") as server:
        judge_in(path, server.url, reporter=notes)
    kept = b"".join(f.read_bytes() for f in path.rglob("*") if f.is_file())
    assert SENTINEL.encode() not in kept
    assert not any(SENTINEL in note for note in notes.notes)


def test_the_estimate_is_at_the_price_of_batches(path):
    with batch_server(lambda prompt: "8 6") as server, Run(path) as run:
        said = {
            batch: estimate(Job(run, recipe(server.url, PRICES, batch)))
            for batch in (BATCH, "judge.batch=null")
        }
    usd = [float(lines[2].split("$")[1].split(" ")[0]) for lines in said.values()]
    assert usd[0] == pytest.approx(usd[1] / 2, abs=0.01)
    assert "in batches, at 0.5 of the price" in said[BATCH][2]
    assert server.files == {}


def test_a_ledger_of_the_version_before_is_taken_over(path):
    with batch_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url)
        with sqlite3.connect(path / "judge" / "ledger.sqlite") as db:
            db.executescript("DROP TABLE batches; DROP TABLE batch_calls; PRAGMA user_version = 1")
        for name in ("verdicts.jsonl", "stage.json"):
            (path / "judge" / name).unlink()
        judge_in(path, server.url)
    assert len(server.single) + len(server.answered) == NUM_CALLS
    assert ledger(path, "PRAGMA user_version") == [(2,)]


def test_a_batch_that_was_made_though_nobody_said_so_is_found_again(path):
    with batch_server(lambda prompt: "8 6") as server:
        server.faults = {"POST /batches": [LOST], "GET /batches": [SERVED, failure(503)]}
        with pytest.raises(JudgeError, match="nothing is lost, repeat the command"):
            judge_in(path, server.url, "judge.max_tries=2")
        assert len(server.batches) == 1
        server.faults["GET /batches"] = [failure(500)]
        judge_in(path, server.url)
    assert len(server.batches) == 1
    assert len(server.answered) == NUM_CALLS - 1
    assert leftovers(path) == []


def test_no_file_is_larger_than_it_may_be(path):
    with batch_server(lambda prompt: "8 6") as server:
        judge_in(path, server.url, "judge.batch.max_mb=0.02")
    handed_in = [server.files[batch["input_file_id"]] for batch in server.batches.values()]
    assert len(handed_in) > 3
    assert max(map(len, handed_in)) <= 20_000
    assert len(server.answered) == len(set(server.answered)) == NUM_CALLS - 1


def test_a_failed_batch_shows_no_key(path):
    with batch_server(lambda prompt: "8 6", ends="failed") as server:
        server.why_failed = f"key {SENTINEL} has no batches"
        with pytest.raises(JudgeError, match=r"failed \(key \*\*\* has no batches\)"):
            judge_in(path, server.url)


def test_a_bench_is_not_handed_in(path):
    pair = {"question": "Side?", "image": "a.png", "answer_1": "Left", "answer_2": "Right"}
    lines = [{**pair, "preferred": "1", "question": f"Side {n}?"} for n in range(30)]
    file = path / "pairs.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    told = [f"judge.bench_file={file}", f"judge.bench_images={path / 'pictures'}"]
    with batch_server(lambda prompt: "8 6") as server:
        jury = [
            f"judge.jury.{name}={{model: {name}, base_url: '{server.url}', batch: {SHORT}}}"
            for name in ("a", "b")
        ]
        for judges in ([BATCH], jury):
            with Run(path) as run:
                bench(Job(run, recipe(server.url, *told, *judges)))
    assert server.batches == {}
    assert len(server.single) == 60 + 120


KILLED = """
import os, signal, sys
from pathlib import Path
from stllava.generation.endpoint import batch
from stllava.judging.calls import batches
from judged_runs import judge_run

where, number = sys.argv[3].rsplit(":", 1)
module, name = where.split(".")
owner = {"api": batch.BatchApi, "book": batches.Batches}[module]
real, left = getattr(owner, name), [int(number)]

def dies(self, *args, **kwargs):
    left[0] -= 1
    found = real(self, *args, **kwargs)
    if left[0] == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return found

setattr(owner, name, dies)
judge_run(Path(sys.argv[1]), sys.argv[2], "judge.batch={poll_s: 0.01, min_calls: 2}")
"""


STEPS = [
    "book.begin:1",
    "book.take:1",
    "api.upload:1",  # done, its id not yet kept
    "book.handed_in:1",  # the file's id kept, no batch yet
    "api.create:1",  # created, its id not yet kept
    "book.handed_in:2",
    "api.look:1",
    "api.download:1",
    "book.settle:1",
    "book.close:1",
]
QUICK = ("api.create:1", "book.settle:1")


@pytest.mark.parametrize(
    "where", [pytest.param(x, marks=[] if x in QUICK else [pytest.mark.slow]) for x in STEPS]
)
def test_a_kill_at_any_step_pays_for_nothing_twice(path, where):
    command = [sys.executable, "-c", KILLED, str(path)]
    environment = {**os.environ, "PYTHONPATH": os.path.dirname(__file__)}
    with batch_server(lambda prompt: "8 6") as server:
        done = subprocess.run([*command, server.url, where], env=environment)
        assert done.returncode == -signal.SIGKILL
        judge_in(path, server.url)
    assert len(server.batches) == 1
    assert len(set(server.answered)) == len(server.answered) == NUM_CALLS - len(server.single)
    assert len(server.single) <= 2  # each process asks once to learn the server's options
    assert summary(path)["states"] == {"ok": NUM_CALLS}
    assert ledger(path, "SELECT count(*) FROM reservations") == [(0,)]
    assert leftovers(path) == []

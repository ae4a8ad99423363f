"""The promises of the judging service, in numbers, against a server that fails as providers do."""

import multiprocessing
import random
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from faulty_server import chance, faulty_server, some_faults
from judged_runs import SENTINEL, answered, calls_of, judge_run, verdicts_of

from stllava.judging.calls.ledger import Ledger
from stllava.judging.states import pair_states

PRICES = "judge.prices={input: 1000, output: 2000}"
CALL_USD = 11 * 0.001 + 3 * 0.002
OPERATION = ("judge.timeout_s=4", "judge.max_tries=8", "judge.image_tokens=0", PRICES)


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    """What `judge_run` sets, and is undone."""
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr("stllava.generation.endpoint.caller.wait_s", None)


def plan(prompt):
    """Slow replies are few: each takes seconds."""
    rare = chance(prompt, "slow").random() < 0.1
    return [f if f != "slow" or rare else "reset" for f in some_faults(prompt)]


def check_nothing_lost_or_paid_twice(path, num_pairs):
    """All pairs in both orders against a failing server, with 50 calls at a time and a cap."""
    answered(path, num_pairs)
    cap_usd = 2 * num_pairs * 1.0  # lost tries are written off at their estimate
    with faulty_server(plan, slow_s=6.0) as server:
        judge_run(path, server.url, *OPERATION, "judge.concurrency=50", f"judge.max_usd={cap_usd}")
    assert server.faults.total() > 0.3 * num_pairs
    verdicts = verdicts_of(path)
    assert len({v.id for v in verdicts}) == len(verdicts) == 2 * num_pairs
    assert {v.state for v in verdicts} <= {"ok", "tie", "refused", "filtered", "unparsed"}
    assert Counter(pair_states(verdicts).values()).total() == num_pairs
    assert len(server.completed) == 2 * num_pairs
    assert set(server.completed.values()) == {1}
    with Ledger(path / "judge" / "ledger.sqlite") as ledger:
        totals = ledger.totals()
    assert totals.calls - totals.lost_calls == 2 * num_pairs
    assert totals.spent_usd - totals.lost_usd == pytest.approx(2 * num_pairs * CALL_USD)
    assert totals.spent_usd <= cap_usd
    assert sum(v.cost_usd for v in verdicts) == pytest.approx(2 * num_pairs * CALL_USD)


def killed_and_resumed(path, server, num_kills, overrides):
    """Judge in processes that are killed once so many more calls are paid for; then to the end."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["stllava.pipeline.judging.stage", "stllava.generation.endpoint"]
    )
    dice, before = random.Random(0), server.completed.total()
    step = (len(server.completed) or 1) // (num_kills + 1)
    for kill in range(1, num_kills + 1):
        process = context.Process(target=judge_run, args=(path, server.url, *overrides))
        process.start()
        until = before + kill * step + dice.randrange(max(1, step // 2))
        while process.is_alive() and server.completed.total() < until:
            time.sleep(0.002)
        process.kill()
        process.join()
        assert process.exitcode == -9
    judge_run(path, server.url, *overrides)


def check_kills_change_nothing(tmp_path, num_pairs, num_kills):
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for path in (whole, killed):
        answered(path, num_pairs)
    overrides = (*OPERATION, "judge.concurrency=8")
    with faulty_server(lambda p: [f for f in some_faults(p, 0.1) if f != "slow"]) as server:
        judge_run(whole, server.url, *overrides)
        first = Counter(server.completed)
        killed_and_resumed(killed, server, num_kills, overrides)
    assert calls_of(killed) == calls_of(whole)
    by_id = [{v.id: v for v in verdicts_of(path)} for path in (killed, whole)]
    assert by_id[0] == by_id[1]
    assert len(verdicts_of(killed)) == 2 * num_pairs
    twice = server.completed.total() - first.total() - 2 * num_pairs
    with Ledger(killed / "judge" / "ledger.sqlite") as ledger:
        totals = ledger.totals()
    assert 0 <= twice <= num_kills * 8  # in flight when it was killed
    assert totals.reserved_calls == 0
    assert totals.lost_calls >= twice


MEASURE = """
import resource, sys, time
from pathlib import Path
from judged_runs import answered, judge_run
from servers import completion
from stllava.generation.endpoint import transport
from stllava.generation.wire import read_completion
raw = completion("8 6").body.decode()
transport.Transport.call = lambda self, request, body, timeout_s, now: read_completion(raw)
path, num_pairs = Path(sys.argv[1]), int(sys.argv[2])
answered(path, num_pairs)
started = time.process_time()
judge_run(path, "http://127.0.0.1:9/v1", "judge.concurrency=8")
print(1000 * (time.process_time() - started) / (2 * num_pairs))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def measured(path, num_pairs):
    """CPU milliseconds per call of all but network and client, and peak memory in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path), str(num_pairs)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        check=True,
    )
    return [float(line) for line in done.stdout.splitlines()]


@pytest.mark.soak
def test_ten_thousand_pairs_cost_under_two_ms_a_call_and_no_more_memory_than_a_thousand(tmp_path):
    _, memory_of_few = measured(tmp_path / "few", 1000)
    cpu_ms, memory_of_many = measured(tmp_path / "many", 10_000)
    assert cpu_ms < 2.0
    assert memory_of_many - memory_of_few < 16  # the ids of 20,000 verdicts, and caches


def test_faults_lose_nothing_and_nothing_is_paid_twice(tmp_path):
    check_nothing_lost_or_paid_twice(tmp_path / "run", 25)


def test_kills_leave_the_same_ledger_and_verdicts(tmp_path):
    check_kills_change_nothing(tmp_path, 20, 2)


@pytest.mark.slow
def test_a_thousand_pairs_in_both_orders_lose_nothing_and_pay_nothing_twice(tmp_path):
    check_nothing_lost_or_paid_twice(tmp_path / "run", 1000)


@pytest.mark.soak
def test_twenty_kills_leave_the_same_ledger_and_verdicts(tmp_path):
    check_kills_change_nothing(tmp_path, 1000, 20)

import hashlib
import json
import os
import sqlite3
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from faulty_server import faulty_server
from PIL import Image as PILImage
from servers import MODEL_RETURNED, Response, chat_server, completion

from stllava.config import JudgeSection, PricesSection
from stllava.errors import JudgeError, RunError
from stllava.generation.asked import Asker, Pictures
from stllava.generation.endpoint import EndpointGenerator
from stllava.generation.protocol import (
    BudgetStopped,
    Estimate,
    InFlight,
    Sampling,
    StoredCall,
)
from stllava.judging.calls.budget import Budget, Prices, budget
from stllava.judging.calls.ledger import Ledger
from stllava.records import Request, Turn, Usage

SENTINEL = "sk-sentinel-51c0"
PRICES = Prices(input=1000.0, output=2000.0)  # dollars per million tokens: 0.001 and 0.002 each
CALL = StoredCall("ok", "v", "{}", "reply", Usage(prompt_tokens=10, completion_tokens=5))
SMALL = Estimate(text_tokens=10, image_tokens=0, output_tokens=5)  # 0.02 dollars


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "judge" / "ledger.sqlite"


@pytest.fixture
def picture(tmp_path):
    def make(name, color):
        PILImage.new("RGB", (8, 6), color).save(tmp_path / name)

    make("p1.png", (10, 200, 30))
    make("same.bmp", (10, 200, 30))
    make("other.png", (10, 200, 31))
    return lambda image: tmp_path / image


def generator(url, ledger, **options):
    settings = {"concurrency": 1, "max_tries": 4, "timeout_s": 5.0, "image_uri": lambda _: ""}
    settings |= {"sleep": lambda _: None, "calls": ledger}
    return EndpointGenerator(url, "m", **{**settings, **options})


def request(question="Where?", image="p1.png", **fields):
    return Request(id=f"id of {question}", image=image, turns=(Turn(question=question),), **fields)


def ask(made, *questions, **sampling):
    requests = [request(q) for q in questions or ("Where?",)]
    return list(made.generate(requests, Sampling(**sampling)))


def rows(path, columns="*"):
    with sqlite3.connect(path) as db:
        return db.execute(f"SELECT {columns} FROM calls ORDER BY key, ask").fetchall()


def test_giving_up_takes_nothing_of_what_somebody_else_has_set_aside(path):
    budget = Budget(PRICES, max_usd=1.0)
    with Ledger(path, budget) as one, Ledger(path, budget) as other:
        assert one.reserve("k", SMALL) is None
        one.release("k")
        assert other.reserve("k", SMALL) is None
        one.settle("k", CALL._replace(status="failed", usage=None))
        assert other.totals().reserved_calls == 1
        other.settle("k", CALL)
        assert other.totals().reserved_calls == 0


def test_a_ledger_knows_whether_a_model_has_ever_replied(path):
    said = CALL._replace(request='{"host":"h","model":"m"}')
    with Ledger(path) as ledger:
        ledger.settle("lost", said._replace(status="failed", usage=None))
        assert not ledger.has_replied("h", "m")
        ledger.settle("k", said)
        assert ledger.has_replied("h", "m")
        assert not ledger.has_replied("h", "other")


# --- the file


def test_the_file_is_wal_and_fully_synchronous_and_strict(path):
    with Ledger(path) as ledger:
        mode, level, strict = (
            ledger.database.connection.execute(f"PRAGMA {what}").fetchone()
            for what in ("journal_mode", "synchronous", "table_list('calls')")
        )
    assert (mode[0], level[0], strict[5]) == ("wal", 2, 1)


def test_many_threads_settle_in_fewer_commits_than_calls(path):
    with Ledger(path) as ledger, ThreadPoolExecutor(16) as pool:
        statements = []
        ledger.database.connection.set_trace_callback(lambda text: statements.append(text))
        gate = threading.Barrier(16)

        def one(n):
            gate.wait()
            ledger.reserve(f"k{n}", SMALL)
            ledger.settle(f"k{n}", CALL)

        list(pool.map(one, range(16)))
        assert ledger.totals().calls == 16
    assert statements.count("COMMIT") < 32


@pytest.mark.parametrize("content", [b"no database at all, only text" * 100, None])
def test_a_file_that_is_no_ledger_is_one_line(path, content):
    path.parent.mkdir()
    if content is None:
        path.mkdir()
    else:
        path.write_bytes(content)
    with pytest.raises(RunError, match="the ledger of calls cannot be used") as error:
        Ledger(path)
    assert "\n" not in str(error.value)


def test_a_ledger_of_another_schema_is_refused(path):
    Ledger(path).__exit__()
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    with pytest.raises(RunError, match="schema 99"):
        Ledger(path)


# --- the key


def key(picture, *, model="m", url="http://h/v1", rubric="paper-1", image="p1.png", **more):
    asker = Asker(url, model, Pictures(picture), rubric=rubric)
    fields = {"question": "Where?", "index": 0, "sampling": Sampling(), **more}
    asked = request(fields["question"], image, max_tokens=fields.get("max_tokens", 64))
    return asker.ask(asked, fields["index"], fields["sampling"]).key


def test_equal_pixels_in_another_file_are_the_same_call(picture):
    assert key(picture) == key(picture, image="same.bmp")


@pytest.mark.parametrize(
    "change",
    [
        {"model": "n"},
        {"url": "http://other/v1"},
        {"rubric": "paper-2"},
        {"image": "other.png"},
        {"question": "What?"},
        {"index": 1},
        {"max_tokens": 65},
        {"sampling": Sampling(temperature=0.2)},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_can_change_a_reply_is_in_the_key(picture, change):
    assert key(picture) != key(picture, **change)


def test_the_seed_counts_only_where_it_has_an_effect(picture):
    greedy = {key(picture, sampling=Sampling(seed=n)) for n in (0, 1)}
    sampled = {key(picture, sampling=Sampling(seed=n, temperature=1)) for n in (0, 1)}
    assert (len(greedy), len(sampled)) == (1, 2)


def test_timeouts_concurrency_and_access_keys_are_not_in_the_key(path, tmp_path):
    (tmp_path / "key").write_text("sk-another")
    with chat_server(lambda prompt: prompt) as server, Ledger(path) as ledger:
        ask(generator(server.url, ledger))
        other = {"timeout_s": 9.0, "concurrency": 3, "max_tries": 2, "key_file": tmp_path / "key"}
        ask(generator(server.url, ledger, **other))
    assert len(server.bodies) == 1


def test_the_key_is_the_hash_of_the_stored_request_which_holds_no_image(path, picture):
    with chat_server(lambda prompt: "8 7") as server, Ledger(path) as ledger:
        ask(generator(server.url, ledger, image_uri=None, image_path=picture))
        sent = server.bodies[0]["messages"][0]["content"][0]["image_url"]["url"]
    ((name, stored, reply),) = rows(path, "key, request, reply")
    assert hashlib.sha256(stored.encode()).hexdigest() == name
    assert "base64" in sent
    assert "base64" not in stored
    assert json.loads(stored)["messages"][0]["content"][0]["image_url"]["url"].endswith("@1024")
    assert json.loads(reply)["model"] == MODEL_RETURNED


# --- paid once


def test_a_stored_reply_is_the_same_draw_without_a_call(path):
    reply = completion("left", finish="length")
    with chat_server(lambda _: reply) as server, Ledger(path) as ledger:
        first = ask(generator(server.url, ledger), seed=3)
        again = ask(generator(server.url, ledger), seed=3)
    assert first == again
    assert (first[0].text, first[0].finish, first[0].cost_usd) == ("left", "length", None)
    assert first[0].time
    assert len(server.bodies) == 1


def test_equal_requests_in_flight_are_one_call(path):
    with (
        faulty_server(lambda _: [], lambda p: "8 7", latency_s=0.1) as server,
        Ledger(path) as ledger,
    ):
        draws = ask(generator(server.url, ledger, concurrency=8), *["same"] * 8)
    assert {d.text for d in draws} == {"8 7"}
    assert server.completed == {"same": 1}


def test_refused_replies_are_asked_again_only_by_choice_and_then_once(path):
    refusal = completion(None, refusal="No.")
    with chat_server(lambda _: refusal) as server:
        with Ledger(path) as ledger:
            ask(generator(server.url, ledger))
        with Ledger(path) as ledger:
            (kept,) = ask(generator(server.url, ledger))
        with Ledger(path, retry=("refused",), since=9e9) as ledger:
            ask(generator(server.url, ledger))
        with Ledger(path, retry=("refused",), since=1.0) as ledger:
            ask(generator(server.url, ledger))
    assert (kept.text, kept.finish) == ("No.", "refused")
    assert len(server.bodies) == 2
    assert rows(path, "ask, status") == [(0, "refused"), (1, "refused")]


def test_a_filter_s_stop_is_kept_whatever_its_form(path):
    azure = Response(status=400, body=b'{"error": {"code": "content_filter", "message": "no"}}')
    with chat_server(lambda _: azure) as server, Ledger(path) as ledger:
        first, again = (ask(generator(server.url, ledger)) for _ in range(2))
    assert [d.finish for d in first + again] == ["refused", "refused"]
    assert rows(path, "status") == [("filtered",)]
    assert len(server.bodies) == 1


def test_what_could_not_be_read_is_asked_again_by_choice(path):
    with chat_server(lambda _: "blue") as server:
        with Ledger(path) as ledger:
            draw, _ = ask(generator(server.url, ledger), "a", "b")
            ledger.mark(draw.call, "unparsed")
        with Ledger(path, retry=("unparsed",), since=9e9) as ledger:
            ask(generator(server.url, ledger), "a", "b")
    assert len(server.bodies) == 3


def test_a_failed_call_is_asked_again_and_its_row_replaced(path):
    with faulty_server(lambda _: ["500"] * 4, lambda _: "8 7") as server, Ledger(path) as ledger:
        (failed,) = ask(generator(server.url, ledger))
        assert rows(path, "status, reply") == [("failed", "500")]
        (draw,) = ask(generator(server.url, ledger))
        assert ledger.totals().calls == 1
    assert (failed.finish, failed.reason, draw.text) == ("error", "transport", "8 7")
    assert rows(path, "ask, status") == [(0, "ok")]


def test_a_reader_that_stops_early_loses_no_paid_reply(path):
    with (
        faulty_server(lambda _: [], lambda p: p, latency_s=0.05) as server,
        Ledger(path) as ledger,
    ):
        made = generator(server.url, ledger, concurrency=4)
        draws = made.generate([request(f"q{n}") for n in range(50)], Sampling())
        next(draws)
        draws.close()
        assert len(rows(path)) == server.completed.total() < 50


# --- the budget


def test_fifty_concurrent_calls_never_exceed_the_cap_and_a_larger_one_goes_on(path):
    questions = [f"q{n}" for n in range(120)]
    cost = 11 * 0.001 + 3 * 0.002  # of every completion of the server
    with (
        faulty_server(lambda _: [], lambda p: p) as server,
        Ledger(path, Budget(PRICES, max_usd=1.0)) as ledger,
    ):
        draws = ask(generator(server.url, ledger, concurrency=50), *questions)
        spent = ledger.totals()
        paid = server.completed.total()
        with Ledger(path, Budget(PRICES, max_usd=100.0)) as ledger:
            more = ask(generator(server.url, ledger, concurrency=50), *questions)
    assert 0 < paid < 120
    assert paid * cost == pytest.approx(spent.spent_usd)
    assert spent.spent_usd <= 1.0
    assert spent.reserved_calls == 0
    stopped = [d for d in draws if d.reason == "budget"]
    assert {d.finish for d in stopped} == {"error"}
    assert len(stopped) == 120 - paid
    assert [d.text for d in more] == questions
    assert set(server.completed.values()) == {1}


def test_a_cap_on_calls_holds_for_all_who_share_the_file(path):
    cap = Budget(max_calls=30)

    def forty(ledger, name):
        made = generator(server.url, ledger, concurrency=25)
        return ask(made, *(f"{name}{n}" for n in range(40)))

    with (
        faulty_server(lambda _: [], lambda p: p) as server,
        Ledger(path, cap) as one,
        Ledger(path, cap) as two,
        ThreadPoolExecutor(2) as pool,
    ):
        draws = [d for made in pool.map(forty, [one, two], "ab") for d in made]
    assert server.completed.total() == 30
    assert sum(d.reason == "budget" for d in draws) == 50


def test_what_is_set_aside_is_not_spent_twice(path):
    with Ledger(path, Budget(PRICES, max_usd=0.05)) as one:
        one.reserve("a", SMALL)
        one.reserve("b", SMALL)
        with pytest.raises(InFlight):
            one.reserve("c", SMALL)
        one.settle("a", CALL)
        one.settle("b", CALL)
        with pytest.raises(BudgetStopped, match=r"judge.max_usd=0.05 is reached; raise it"):
            one.reserve("c", SMALL)
        assert one.totals().spent_usd == pytest.approx(0.04)


def test_a_try_that_may_have_been_charged_is_written_off(path):
    with (
        faulty_server(lambda _: ["truncated", "500"], lambda _: "8 7") as server,
        Ledger(path, Budget(PRICES)) as ledger,
    ):
        (draw,) = ask(generator(server.url, ledger))
        totals = ledger.totals()
    assert draw.cost_usd == pytest.approx(11 * 0.001 + 3 * 0.002)
    assert (totals.calls, totals.lost_calls) == (2, 1)
    assert totals.spent_usd == pytest.approx(draw.cost_usd + totals.lost_usd)


def test_what_a_killed_process_had_set_aside_is_written_off(path):
    code = (
        "import os, sys; from pathlib import Path;"
        "from stllava.judging.calls.ledger import Ledger;"
        "from stllava.judging.calls.budget import Budget, Prices;"
        "from stllava.generation.protocol import Estimate;"
        "ledger = Ledger(Path(sys.argv[1]), Budget(Prices(1000.0, 2000.0)));"
        "ledger.reserve('a', Estimate(10, 0, 5)); os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(path)], check=False).returncode == -9
    with Ledger(path, Budget(PRICES)) as ledger:
        assert ledger.totals().reserved_calls == 1
        assert ledger.reserve("a", SMALL) is None
        totals = ledger.totals()
    assert (totals.lost_calls, totals.lost_usd) == (1, pytest.approx(0.02))


def test_a_living_process_keeps_what_it_set_aside(path):
    with Ledger(path) as one, Ledger(path) as two:
        one.reserve("a", SMALL)
        with pytest.raises(InFlight):
            two.reserve("a", SMALL)
        one.settle("a", CALL)
        assert two.reserve("a", SMALL).reply == "reply"


def test_estimates_grow_by_what_they_were_too_low(path):
    with Ledger(path, Budget(PRICES, max_usd=0.2)) as ledger:
        ledger.reserve("a", SMALL)
        dear = Usage(prompt_tokens=30, completion_tokens=5)
        assert ledger.settle("a", CALL._replace(usage=dear)).cost_usd == pytest.approx(0.04)
        ledger.reserve("b", SMALL)
        assert ledger.totals().reserved_usd == pytest.approx(0.04)
        ledger.settle("b", CALL._replace(usage=dear))
        ledger.reserve("c", SMALL)
        assert ledger.totals().reserved_usd == pytest.approx(0.04)


def test_a_server_that_does_not_count_tokens_is_charged_the_estimate(path):
    silent = Response(body=b'{"choices": [{"message": {"content": "8 7"}}]}')
    with chat_server(lambda _: silent) as server, Ledger(path, Budget(PRICES)) as ledger:
        (draw,) = ask(generator(server.url, ledger))
    assert draw.cost_usd > 0


@pytest.mark.parametrize(
    ("prices", "usage", "image_tokens", "usd"),
    [
        (Prices(2.5, 10.0), Usage(prompt_tokens=1000, completion_tokens=100), 0, 0.0035),
        (
            Prices(2.5, 10.0, cached_input=1.25),
            Usage(prompt_tokens=1000, cached_tokens=400),
            0,
            0.002,
        ),
        (Prices(2.5, 10.0), Usage(prompt_tokens=1000, cached_tokens=400), 0, 0.0025),
        (Prices(1.0, 0.0, image=3.0), Usage(prompt_tokens=1000), 500, 0.002),
        (Prices(0.15, 0.6), Usage(prompt_tokens=1), 0, 0.00000015),
    ],
)
def test_costs_follow_the_price_table(prices, usage, image_tokens, usd):
    assert Budget(prices).cost_nano(usage, image_tokens) == round(usd * 1e9)


def test_a_cap_without_a_price_is_refused_in_one_line():
    remote = JudgeSection(base_url="https://api.example.org/v1", max_usd=5)
    with pytest.raises(JudgeError, match=r"add --set judge.prices=") as error:
        budget(remote)
    assert "\n" not in str(error.value)
    assert budget(JudgeSection(base_url="http://127.0.0.1:1/v1", max_usd=5)).prices == (
        0,
        0,
        None,
        None,
    )
    priced = remote.model_copy(update={"prices": PricesSection(input=1, output=2)})
    assert budget(priced).max_nano == 5 * 10**9


@pytest.mark.parametrize("text", ["The mass is in the left lobe.", "肿块在左叶。" * 9, "a" * 999])
def test_a_text_is_estimated_at_more_tokens_than_any_tokenizer_makes_of_it(picture, text):
    asked = Asker(None, "m", Pictures(picture)).ask(request(text), 0, Sampling())
    assert asked.estimate.text_tokens >= 16 + len(text.encode()) / 3
    assert asked.estimate.image_tokens == 1399  # 1024^2 / 750, rounded up


# --- secrets


def test_the_access_key_is_not_in_the_ledger_even_if_the_server_says_it(path):
    echo = completion(f"you sent {SENTINEL}")
    with (
        faulty_server(lambda _: ["429 seconds", "500"], lambda _: echo) as server,
        Ledger(path) as ledger,
    ):
        (draw,) = ask(generator(server.url, ledger))
    assert server.keys == {f"Bearer {SENTINEL}"}
    assert draw.text == "you sent ***"
    for file in path.parent.iterdir():
        assert SENTINEL.encode() not in file.read_bytes(), file
    assert os.environ["OPENAI_API_KEY"] == SENTINEL

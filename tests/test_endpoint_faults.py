import logging
import threading

import pytest
from faulty_server import FAULTS, faulty_server
from servers import Response, chat_server, completion, failure

from stllava.errors import JudgeError
from stllava.generation.endpoint import EndpointGenerator
from stllava.generation.endpoint import transport as transport_module
from stllava.generation.endpoint.pace import Pace
from stllava.generation.protocol import Sampling
from stllava.records import Request, Turn


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


def generator(url, **options):
    settings = {"concurrency": 1, "max_tries": 4, "timeout_s": 0.4, "image_uri": lambda _: ""}
    return EndpointGenerator(url, "m", **{"sleep": lambda _: None, **settings, **options})


def requests(*prompts):
    return [Request(id=p, image="i", turns=(Turn(question=p),)) for p in prompts]


def texts(made, *prompts):
    return [draw.text for draw in made.generate(requests(*prompts), Sampling())]


# --- faults


@pytest.mark.parametrize("fault", [*FAULTS, "drip"])
def test_a_try_that_fails_is_followed_by_one_that_does_not(fault):
    with faulty_server(lambda _: [fault, fault], lambda _: "left", slow_s=0.8) as server:
        assert texts(generator(server.url), "q") == ["left"]
    assert server.faults == {fault: 2}
    assert server.completed == {"q": 1}


def test_no_more_of_a_reply_is_read_than_the_cap(monkeypatch):
    monkeypatch.setattr(transport_module, "MAX_REPLY_BYTES", 1000)
    big, small = completion("x" * 2000), completion("x" * 10)
    with chat_server(lambda prompt: big if prompt == "big" else small) as server:
        assert texts(generator(server.url), "big", "small") == ["", "x" * 10]


def test_the_body_of_an_error_is_capped_too(monkeypatch, caplog):
    monkeypatch.setattr(transport_module, "MAX_REPLY_BYTES", 1000)
    with chat_server(lambda _: failure(500, message="x" * 5000)) as server:
        (draw,) = generator(server.url).generate(requests("q"), Sampling())
    assert draw.reason == "transport"
    assert "a reply of more than" in caplog.text


def test_a_compressed_reply_is_not_unpacked():
    packed = Response(body=b"\x1f\x8b", headers={"Content-Encoding": "gzip"})
    with chat_server(lambda _: packed) as server:
        (draw,) = generator(server.url).generate(requests("q"), Sampling())
    assert draw.finish == "error"


def test_images_and_keys_follow_no_redirect():
    with chat_server(lambda _: "left") as other:
        away = Response(status=307, headers={"Location": f"{other.url}/chat/completions"})
        with chat_server(lambda _: away) as server, pytest.raises(JudgeError, match="307"):
            texts(generator(server.url), "q")
    assert other.bodies == []


def test_a_call_ends_at_its_wall_limit(caplog):
    waits = []
    with chat_server(lambda _: failure(503, retry_after="20")) as server:
        made = generator(server.url, call_limit_s=5.0, max_tries=9, sleep=waits.append)
        (draw,) = made.generate(requests("q"), Sampling())
    assert (draw.finish, draw.reason, waits) == ("error", "transport", [])
    assert len(server.bodies) == 1


# --- pace


def test_half_as_many_at_a_time_after_too_many_and_one_more_for_each_good_round():
    pace = Pace(16)

    def round_of(outcome, number):
        for _ in range(number):
            with pace.slot() as slot:
                slot.outcome = outcome

    round_of(False, 1)
    assert pace.limit == 8
    round_of(True, 8)
    assert 8.8 < pace.limit < 9
    round_of(True, 1000)
    assert pace.limit == 16
    round_of(False, 10)
    assert pace.limit == 1


def test_calls_sent_before_a_decrease_do_not_decrease_again():
    pace = Pace(8)
    with pace.slot() as first, pace.slot() as second:
        first.outcome = second.outcome = False
    assert pace.limit == 4


def test_no_more_calls_are_in_flight_than_the_limit():
    pace, most, lock, now = Pace(3), [0], threading.Lock(), [0]

    def call():
        with pace.slot():
            with lock:
                now[0] += 1
                most[0] = max(most[0], now[0])
            with lock:
                now[0] -= 1

    threads = [threading.Thread(target=call) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= most[0] <= 3


def test_a_server_that_takes_four_at_a_time_gets_no_storm_of_refusals(caplog):
    caplog.set_level(logging.ERROR)
    busy, lock, refused = [0], threading.Lock(), [0]
    gate = threading.Event()

    def reply(prompt):
        with lock:
            busy[0] += 1
            full = busy[0] > 4
            refused[0] += full
        gate.wait(0.005)
        with lock:
            busy[0] -= 1
        return failure(429) if full else prompt

    prompts = [f"q{n}" for n in range(150)]
    with chat_server(reply) as server:
        made = generator(
            server.url,
            concurrency=32,
            max_tries=50,
            timeout_s=10.0,
            sleep=lambda _: gate.wait(0.01),
        )
        assert texts(made, *prompts) == prompts
    assert refused[0] < 150

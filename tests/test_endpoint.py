import base64
import json
import logging
import time
import traceback
from email.utils import formatdate

import pytest
from PIL import Image as PILImage
from servers import (
    EMPTY_CHOICES,
    MODEL_RETURNED,
    NOT_JSON,
    TRUNCATED,
    Response,
    chat_server,
    completion,
    failure,
    script,
)

from stllava.errors import JudgeError
from stllava.generation.endpoint import EndpointGenerator
from stllava.generation.protocol import Sampling, draw_seed
from stllava.judging.protocol import ModelJudge
from stllava.records import Answers, Draw, Request, Turn, Usage

SENTINEL = "sk-sentinel-7c1f0e"
NOW = 1_800_000_000.0
BROKEN = {
    "408": failure(408),
    "409": failure(409),
    "425": failure(425),
    "429": failure(429),
    "500": failure(500),
    "503": failure(503),
    "529": failure(529),
    "not json": NOT_JSON,
    "truncated": TRUNCATED,
    "empty body": Response(),
    "empty choices": EMPTY_CHOICES,
    "null": Response(body=b"null"),
}


@pytest.fixture
def image_path(tmp_path):
    PILImage.new("RGB", (8, 6), (10, 200, 30)).save(tmp_path / "p1.png")
    return lambda image: tmp_path / f"{image}.png"


@pytest.fixture
def endpoint(image_path, monkeypatch):
    """Builds a generator that never really sleeps; `waits` holds what it would have slept."""
    monkeypatch.setenv("OPENAI_API_KEY", SENTINEL)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")

    def build(server, **options):
        waits = []
        settings = {"concurrency": 1, "max_tries": 4, "timeout_s": 10.0, **options}
        generator = EndpointGenerator(
            server.url,
            "scripted",
            image_path=image_path,
            sleep=waits.append,
            now=lambda: NOW,
            **settings,
        )
        generator.waits = waits
        return generator

    return build


def request(question="Where?", *, id_="p1/q0", **fields):
    return Request(id=id_, image="p1", turns=(Turn(question=question),), **fields)


def ask(generator, *requests, **sampling):
    return list(generator.generate(requests or [request()], Sampling(**sampling)))


# --- what is sent, what is recorded


def test_reply_usage_model_and_seed_are_recorded(endpoint):
    with chat_server(lambda prompt: f"echo {prompt}") as server:
        draw, other = ask(endpoint(server), request(num_draws=2), seed=5)
    assert draw == Draw(
        request_id="p1/q0",
        index=0,
        text="echo Where?",
        seed=draw_seed(5, "p1/q0", 0),
        usage=Usage(prompt_tokens=11, completion_tokens=3),
        model=MODEL_RETURNED,
        call=draw.call,
    )
    assert len(draw.call) == len(other.call) == 64
    assert draw.call != other.call


def test_image_stands_in_the_first_user_message_only(endpoint):
    turns = (Turn(question="What?", answer="A chest X-ray."), Turn(question="Where?"))
    with chat_server(script("left")) as server:
        ask(endpoint(server), Request(id="r", image="p1", turns=turns))
    first, second, third = server.bodies[0]["messages"]
    assert [part["type"] for part in first["content"]] == ["image_url", "text"]
    kind, data = first["content"][0]["image_url"]["url"].split(",")
    assert kind == "data:image/jpeg;base64"
    assert base64.b64decode(data)[:2] == b"\xff\xd8"
    assert (second, third) == (
        {"role": "assistant", "content": "A chest X-ray."},
        {"role": "user", "content": "Where?"},
    )


def test_sampling_reaches_the_endpoint(endpoint):
    with chat_server(script("left")) as server:
        ask(endpoint(server), request(max_tokens=7), temperature=1.2, top_k=100, top_p=0.95)
    body = server.bodies[0]
    names = ("model", "max_tokens", "temperature", "top_k", "top_p")
    assert [body[n] for n in names] == ["scripted", 7, 1.2, 100, 0.95]


def test_greedy_calls_send_no_parameter_without_effect(endpoint):
    with chat_server(script("left")) as server:
        ask(endpoint(server), top_k=100, top_p=0.5)
    assert server.bodies[0]["temperature"] == 0
    assert not {"top_k", "top_p"} & server.bodies[0].keys()


def test_each_draw_is_a_call_with_a_seed_of_its_own(endpoint):
    with chat_server(script("a", "b", "c")) as server:
        draws = ask(endpoint(server), request(num_draws=3), temperature=1)
    assert [(d.index, d.text) for d in draws] == [(0, "a"), (1, "b"), (2, "c")]
    assert [b["seed"] for b in server.bodies] == [d.seed for d in draws]
    assert len({d.seed for d in draws}) == 3


def test_draws_come_in_request_order_whatever_the_concurrency(endpoint):
    requests = [request(f"q{n}", id_=f"r{n}", num_draws=2) for n in range(20)]
    with chat_server(lambda prompt: prompt) as server:
        draws = ask(endpoint(server, concurrency=8), *requests)
    assert [(d.id, d.text) for d in draws] == [
        (f"r{n}/d{i}", f"q{n}") for n in range(20) for i in range(2)
    ]


def test_requests_are_read_no_further_than_the_calls_ahead(endpoint):
    read = []
    requests = (read.append(n) or request(id_=f"r{n}") for n in range(1000))
    with chat_server(script("left")) as server:
        draws = endpoint(server, concurrency=2).generate(requests, Sampling())
        next(draws)
        draws.close()
    assert len(read) <= 4


# --- what a reply may be


@pytest.mark.parametrize(
    ("response", "text", "finish"),
    [
        (completion("left", finish="length"), "left", "length"),
        (completion("left", finish=None), "left", "stop"),
        (completion(None, refusal="I cannot."), "I cannot.", "refused"),
        (completion("lef", finish="content_filter"), "", "refused"),
        (failure(400, code="content_filter"), "", "refused"),
    ],
)
def test_finish_says_how_the_reply_ended(endpoint, response, text, finish):
    with chat_server(lambda _: response) as server:
        (draw,) = ask(endpoint(server))
    assert (draw.text, draw.finish) == (text, finish)
    assert len(server.bodies) == 1


# --- what is tried again


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_transient_failures_are_tried_again(endpoint, broken):
    with chat_server(script(broken, broken, "left")) as server:
        generator = endpoint(server)
        (draw,) = ask(generator)
    assert (draw.text, draw.finish) == ("left", "stop")
    assert len(generator.waits) == 2


@pytest.mark.parametrize("broken", BROKEN.values(), ids=BROKEN)
def test_exhausted_tries_are_an_error_draw_and_the_others_go_on(endpoint, broken):
    with chat_server(lambda prompt: broken if prompt == "bad" else "left") as server:
        bad, good = ask(endpoint(server), request("bad", id_="r0"), request("good", id_="r1"))
    assert (bad.text, bad.finish, good.text) == ("", "error", "left")
    assert len(server.bodies) == 4 + 1


def test_an_unreachable_host_is_an_error_draw(endpoint):
    with chat_server(script("left")) as server:
        pass
    (draw,) = ask(endpoint(server))
    assert draw.finish == "error"


def test_back_off_is_jittered_and_grows_no_further_than_a_minute(endpoint):
    with chat_server(lambda _: failure(500)) as server:
        generator = endpoint(server, max_tries=12)
        ask(generator)
    limits = [min(60.0, 2.0**n) for n in range(1, 12)]
    assert all(0 <= w <= limit for w, limit in zip(generator.waits, limits, strict=True))
    assert len(set(generator.waits)) == 11


@pytest.mark.parametrize(
    ("value", "least"),
    [("7", 7), ("0.5", 0.5), (formatdate(NOW + 40, usegmt=True), 40), ("1e9", 300), ("-5", 0)],
)
def test_retry_after_is_honoured(endpoint, value, least):
    with chat_server(script(failure(429, retry_after=value), "left")) as server:
        generator = endpoint(server)
        ask(generator)
    assert least <= generator.waits[0] <= least + 1


@pytest.mark.parametrize("value", ["soon", "nan", "Wed, 99 Foo 2026"])
def test_a_senseless_retry_after_is_ignored(endpoint, value):
    with chat_server(script(failure(429, retry_after=value), "left")) as server:
        (draw,) = ask(endpoint(server))
    assert draw.text == "left"


# --- what stops at once


@pytest.mark.parametrize(
    ("status", "remedy"),
    [
        (400, "bad input"),
        (401, "check OPENAI_API_KEY"),
        (403, "check OPENAI_API_KEY"),
        (404, "check judge.base_url"),
        (422, "bad input"),
    ],
)
def test_permanent_failures_stop_at_once_and_name_host_and_remedy(endpoint, status, remedy):
    with chat_server(lambda _: failure(status, message="bad\ninput")) as server:
        generator = endpoint(server)
        with pytest.raises(JudgeError) as error:
            ask(generator)
    text = str(error.value)
    host = server.url.split("/")[2]
    assert text.startswith(f"judge scripted: {status} from {host}")
    assert remedy in text
    assert "--set judge.model=" in text
    assert "\n" not in text
    assert len(server.bodies) == 1


TOO_LONG = [
    failure(413, message="payload too large"),
    failure(400, code="context_length_exceeded", message="reduce the length"),
    failure(400, message="This model's maximum context length is 4096 tokens. You requested 9000."),
    failure(400, message="prompt is too long: 210000 tokens > 200000 maximum"),
    failure(400, message="the request exceeds the available context size (4096 tokens)"),
    failure(400, message="The input token count (99) exceeds the maximum number of tokens"),
]


@pytest.mark.parametrize("refusal", TOO_LONG)
def test_a_request_that_is_too_long_costs_itself_and_is_not_tried_again(endpoint, refusal):
    requests = [request("long", id_=f"r{n}") for n in range(6)]
    with chat_server(lambda prompt: refusal if prompt == "long" else "left") as server:
        good, *long = ask(endpoint(server), request("short", id_="r9"), *requests)
    assert {(draw.finish, draw.reason) for draw in long} == {("error", "rejected")}
    assert good.text == "left"
    assert len(server.bodies) == 6 + 1


def test_a_model_for_which_everything_is_too_long_stops(endpoint):
    requests = [request("long", id_=f"r{n}") for n in range(9)]
    with (
        chat_server(lambda prompt: TOO_LONG[1]) as server,
        pytest.raises(JudgeError, match="reduce the length"),
    ):
        ask(endpoint(server), *requests)
    assert len(server.bodies) <= 4 + 1


def test_a_limit_that_is_too_large_is_a_setting_and_no_long_request(endpoint):
    refusal = failure(400, message="max_tokens is too large: 512. This model supports at most 256")
    with chat_server(lambda _: refusal) as server, pytest.raises(JudgeError, match="too large"):
        ask(endpoint(server))


def test_a_call_that_is_out_of_time_ends_without_a_trace(endpoint, monkeypatch):
    monkeypatch.setattr("stllava.generation.endpoint.caller.wait_s", lambda *_: 0.0)

    def slow(prompt):
        time.sleep(0.5)
        return "left"

    with chat_server(slow) as server:
        (draw,) = ask(endpoint(server, call_limit_s=0.5, timeout_s=0.3, max_tries=9))
    assert (draw.finish, draw.reason) == ("error", "transport")
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    "told",
    [
        '{"content": [{"top_logprobs": 5}]}',
        '{"content": [{"top_logprobs": true}]}',
        '{"content": [{"top_logprobs": [{"token": "A", "logprob": ' + "9" * 400 + "}]}]}",
        '{"content": [{"top_logprobs": [{"token": "A", "logprob": -' + "9" * 400 + "}]}]}",
        '{"content": {"top_logprobs": []}}',
    ],
)
def test_probabilities_that_are_none_lose_no_reply(endpoint, told):
    body = json.loads(completion("left").body)
    body["choices"][0]["logprobs"] = "TOLD"
    raw = json.dumps(body).replace('"TOLD"', told)
    with chat_server(lambda _: Response(body=raw.encode())) as server:
        (draw,) = ask(endpoint(server))
    assert (draw.text, draw.alternatives) == ("left", None)


def test_one_request_that_is_refused_among_others_costs_itself(endpoint):
    refusal = failure(400, message="cannot identify image")
    with chat_server(lambda prompt: refusal if prompt == "bad" else "left") as server:
        draws = ask(
            endpoint(server),
            *(request(word, id_=f"r{n}") for n, word in enumerate(["good", "bad", "good"])),
        )
    assert [(draw.finish, draw.reason) for draw in draws] == [
        ("stop", ""),
        ("error", "rejected"),
        ("stop", ""),
    ]


def test_four_refused_requests_in_a_row_are_not_about_one_of_them(endpoint):
    refusal = failure(400, message="cannot identify image")
    asked = [request(word, id_=f"r{n}") for n, word in enumerate(["good", *["bad"] * 9])]
    with (
        chat_server(lambda prompt: refusal if prompt == "bad" else "left") as server,
        pytest.raises(JudgeError, match="cannot identify image"),
    ):
        ask(endpoint(server), *asked)
    assert len(server.bodies) <= 1 + 4 + 1


def test_no_credit_stops_at_once(endpoint):
    with chat_server(lambda _: failure(429, code="insufficient_quota")) as server:
        generator = endpoint(server)
        with pytest.raises(JudgeError, match="no credit left at 127"):
            ask(generator)
    assert len(server.bodies) == 1


def test_a_stop_sends_nothing_more(endpoint):
    with chat_server(lambda _: failure(401)) as server:
        generator = endpoint(server, concurrency=2)
        with pytest.raises(JudgeError):
            ask(generator, *(request(id_=f"r{n}") for n in range(100)))
    assert len(server.bodies) <= 4


def test_a_stop_ends_the_waits_of_calls_in_flight(endpoint, image_path):
    busy = failure(503, retry_after="3")
    with chat_server(lambda prompt: failure(401) if prompt == "q0" else busy) as server:
        generator = EndpointGenerator(server.url, "m", image_path=image_path, concurrency=2)
        with pytest.raises(JudgeError):
            ask(generator, request("q0", id_="r0"), request("q1", id_="r1"))
    assert len(server.bodies) <= 2


def test_draws_before_a_stop_are_not_lost(endpoint):
    with chat_server(lambda prompt: failure(401) if prompt == "q3" else prompt) as server:
        draws = endpoint(server, concurrency=2).generate(
            (request(f"q{n}", id_=f"r{n}") for n in range(9)), Sampling()
        )
        assert [next(draws).text for _ in range(3)] == ["q0", "q1", "q2"]
        with pytest.raises(JudgeError):
            next(draws)


def test_an_endpoint_does_not_ask(endpoint):
    with chat_server(script("left")) as server:
        generator = endpoint(server)
        with pytest.raises(JudgeError, match="cannot be the asker"):
            ask(generator, request(speaker="asker"))


# --- the key


def test_key_comes_from_the_file_before_the_environment(endpoint, tmp_path):
    (tmp_path / "key").write_text("sk-from-file\n")
    with chat_server(script("left")) as server:
        ask(endpoint(server, key_file=tmp_path / "key"))
        ask(endpoint(server))
    assert server.authorizations == ["Bearer sk-from-file", f"Bearer {SENTINEL}"]


def test_a_local_server_needs_no_key(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with chat_server(script("left")) as server:
        (draw,) = ask(endpoint(server))
    assert draw.text == "left"


def test_a_missing_key_is_named_by_its_variable(endpoint, monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY")
    with chat_server(lambda _: failure(401)) as server:
        generator = endpoint(server)
        with pytest.raises(JudgeError, match="set OPENAI_API_KEY or choose another judge"):
            ask(generator)


def test_a_key_file_that_is_missing_is_named(endpoint, tmp_path):
    with chat_server(script("left")) as server, pytest.raises(JudgeError, match=r"no/such/key"):
        endpoint(server, key_file=tmp_path / "no/such/key")


@pytest.mark.parametrize("status", [400, 401, 403, 404, 422, 429, 500])
def test_the_key_appears_in_no_output(endpoint, status, caplog, capsys):
    caplog.set_level(logging.DEBUG)
    echo = failure(status, message=f"wrong key: Bearer {SENTINEL}")
    printed = ""
    with chat_server(lambda _: echo) as server:
        generator = endpoint(server)
        try:
            printed = repr(ask(generator))
        except JudgeError:
            printed = traceback.format_exc()
    assert SENTINEL in server.authorizations[0]
    assert SENTINEL not in printed + caplog.text + "".join(capsys.readouterr())


@pytest.mark.parametrize("bad", [f"{SENTINEL}\nsecond", f"{SENTINEL} x", f"{SENTINEL}é"])
def test_a_malformed_key_is_refused_without_being_shown(endpoint, monkeypatch, bad):
    monkeypatch.setenv("OPENAI_API_KEY", bad)
    with chat_server(script("left")) as server, pytest.raises(JudgeError) as error:
        endpoint(server)
    assert str(error.value).startswith("OPENAI_API_KEY: a key is one word")
    assert SENTINEL not in str(error.value)


# --- with a judge


def test_an_endpoint_judges_in_both_orders(endpoint):
    draws = tuple(Draw(request_id="p1/q0", index=i, text=t) for i, t in enumerate(["bad", "good"]))
    answers = Answers(id="p1/q0", image="p1", question="Where?", draws=draws)
    with chat_server(lambda p: "3 9" if p.index("bad") < p.index("good") else "9 3") as server:
        judge = ModelJudge(endpoint(server, concurrency=2), name="scripted", orders="both")
        verdicts = list(judge.judge([(answers, (0, 1))]))
    assert [(v.order, v.winner, v.scores) for v in verdicts] == [
        ((0, 1), 1, (3.0, 9.0)),
        ((1, 0), 1, (3.0, 9.0)),
    ]
    assert verdicts[0].model_returned == MODEL_RETURNED


def test_a_dead_endpoint_is_no_verdict(endpoint):
    draws = tuple(Draw(request_id="p1/q0", index=i, text=t) for i, t in enumerate(["a", "b"]))
    answers = Answers(id="p1/q0", image="p1", question="Where?", draws=draws)
    with chat_server(lambda _: failure(503)) as server:
        judge = ModelJudge(endpoint(server), name="scripted", orders="one")
        (verdict,) = judge.judge([(answers, (0, 1))])
    assert (verdict.state, verdict.winner) == ("transport_failed", None)

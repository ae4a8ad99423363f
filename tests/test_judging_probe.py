"""What an endpoint can do, by its replies; options it refuses; canaries that talk judges round."""

import json
import math
import random

import pytest
from servers import Response, chat_server, completion, failure

from stllava.errors import JudgeError
from stllava.generation.endpoint import EndpointGenerator
from stllava.generation.options import Options
from stllava.generation.protocol import Sampling
from stllava.generation.scripted import ScriptedGenerator
from stllava.judging.protocol import ModelJudge
from stllava.judging.trial.looked_at import plan_lines
from stllava.judging.trial.probe import probe
from stllava.judging.trial.selftest import num_calls, selftest
from stllava.judging.trial.shapes import SIDES, shape_ids, shape_uri
from stllava.prompts import CANARIES, FAITHFUL_RUBRIC, LOCAL_RUBRIC, PAPER_RUBRIC, PROBES
from stllava.records import Request, Turn

SEEN = {shape_uri(name): name for name in shape_ids(9)}


def with_logprobs(response, told):
    body = json.loads(response.body)
    tokens = [{"token": "x", "top_logprobs": [{"token": t, "logprob": p} for t, p in told.items()]}]
    body["choices"][0]["logprobs"] = {"content": tokens}
    return Response(body=json.dumps(body).encode())


def able(body):
    """A server that sees, and does what it is asked."""
    parts = body["messages"][0]["content"]
    colour, shape = SEEN[parts[0]["image_url"]["url"]].split(" ")
    question = parts[1]["text"]
    form = body.get("response_format", {})
    words = f"A {colour} {shape}."
    if form.get("type") == "json_schema":
        names = form["json_schema"]["schema"]["required"]
        words = json.dumps(dict.fromkeys(names, 3) | {names[0]: colour, names[1]: SIDES[shape]})
    elif form.get("type") == "json_object":
        words = json.dumps({"colour": colour})
    elif question == PROBES["sampling"]:
        chance = random.Random(body["seed"] if body["temperature"] else 0)
        words = f"HMS {chance.random()}"
    if question == PROBES["max_tokens"]:
        words = "one " * body["max_tokens"]
        return completion(words, finish="length")
    reply = completion(words)
    told = {"Yes": -0.1, "No": -2.4}
    return with_logprobs(reply, told) if body.get("logprobs") else reply


REASONING = ("max_tokens", "temperature", "logprobs", "seed")


def picky(body):
    """As reasoning models do: refuses what it does not know, names it, works without."""
    for option in REASONING:
        if option in body:
            message = f"Unsupported parameter: '{option}' is not supported with this model."
            return failure(400, message=message, code="unsupported_parameter")
    limit = {"max_tokens": body["max_completion_tokens"]}
    return able({**body, **limit, "temperature": 1, "seed": random.random()})


def looked_at(server_brain, rubric=PAPER_RUBRIC):
    with chat_server(lambda _: server_brain(server.bodies[-1])) as server:
        endpoint = EndpointGenerator(server.url, "m", image_uri=shape_uri, max_tries=1)
        found = probe(endpoint, refused=lambda: endpoint.options.without)
    return found, plan_lines(found, rubric), server


def test_a_server_that_does_as_asked_can_do_everything():
    found, lines, server = looked_at(able, FAITHFUL_RUBRIC)
    assert {name for name in found.findings if not found.can(name)} == set()
    assert lines == ["reply form: json_schema", "left out: nothing"]
    assert len(server.bodies) <= 20


def test_a_server_that_ignores_every_option_can_do_nothing():
    found = probe(ScriptedGenerator(lambda *_: "I think it is a red one."))
    lines = plan_lines(found, FAITHFUL_RUBRIC)
    assert {name for name in found.findings if found.can(name)} == set()
    assert "cannot judge answers about images" in lines[0]
    assert lines[1] == "reply form: as the prompt says, nothing enforced"


def test_what_a_server_refuses_is_left_out_and_said():
    found, lines, server = looked_at(picky, LOCAL_RUBRIC)
    assert found.refused == set(REASONING)
    assert found.can("image")
    assert found.can("max_tokens")
    assert not found.can("temperature")
    assert lines == [
        "verdict: the letter alone",
        "length limit: sent as max_completion_tokens",
        "left out: logprobs, seed, temperature",
    ]
    assert "max_tokens" not in server.bodies[-1]


def test_an_endpoint_that_takes_no_image_is_an_error_in_one_line():
    with pytest.raises(JudgeError, match=r"400 from .*does not take images"):
        looked_at(lambda body: failure(400, message="this model does not take images"))


def test_an_error_in_one_probe_spoils_no_other():
    class Shallow(ScriptedGenerator):
        def generate(self, requests, sampling):
            if any(request.response for request in requests):
                raise JudgeError("grammar too deep")
            yield from super().generate(requests, sampling)

    found = probe(Shallow(lambda request, _: request.image))
    assert found.findings["json_schema"] == ("json_schema", False, "grammar too deep")
    assert found.can("image")


# --- options of single calls


def ask(server, *, options=None, **fields):
    request = Request(id="r", image="red circle", turns=(Turn(question="?"),), **fields)
    endpoint = EndpointGenerator(server.url, "m", image_uri=shape_uri, max_tries=1, options=options)
    (draw,) = endpoint.generate([request], Sampling())
    return draw, endpoint.options.without


@pytest.mark.parametrize(
    "said",
    ["response_format is unavailable", "Grammar error: Invalid type: enum"],  # the latter: vLLM
)
def test_a_refused_schema_becomes_a_plain_object_and_then_nothing(said):
    def brain(_):
        form = server.bodies[-1].get("response_format", {}).get("type")
        return failure(400, message=said) if form else "{}"

    with chat_server(brain) as server:
        draw, without = ask(server, response="verdict")
    forms = [body.get("response_format", {}).get("type") for body in server.bodies]
    assert forms == ["json_schema", "json_object", None]
    assert (draw.text, without) == ("{}", {"json_schema", "response_format"})


def test_an_option_known_to_be_refused_is_not_sent():
    with chat_server(lambda _: "x") as server:
        ask(
            server,
            options=Options({"temperature", "max_tokens", "json_schema"}),
            response="verdict",
        )
    (body,) = server.bodies
    assert "temperature" not in body
    assert body["max_completion_tokens"] == 64
    assert body["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize("says", ["logprobs are bad today", "prompt too long; reduce max_tokens"])
def test_an_error_about_what_was_not_sent_or_is_only_too_large_is_final(says):
    with (
        chat_server(lambda _: failure(400, message=says)) as server,
        pytest.raises(JudgeError, match=says),
    ):
        ask(server)
    assert len(server.bodies) == 1


def test_the_papers_image_stands_after_the_text_and_others_before_it():
    with chat_server(lambda _: "8 7") as server:
        ask(server)
        ask(server, image_last=True)
    kinds = [[part["type"] for part in b["messages"][0]["content"]] for b in server.bodies]
    assert kinds == [["image_url", "text"], ["text", "image_url"]]


@pytest.mark.parametrize(
    ("logprobs", "told"),
    [
        (
            {"content": [{"token": "A", "top_logprobs": [{"token": "A", "logprob": -0.1}]}]},
            ({"A": -0.1},),
        ),
        ({"content": [{"top_logprobs": [{"token": "A", "logprob": None}, 7]}]}, None),
        ({"content": [{"token": "A", "top_logprobs": None}]}, None),
        ({"content": "A"}, None),
        ([1], None),
        (None, None),
    ],
)
def test_alternatives_are_read_where_they_have_the_usual_form(logprobs, told):
    body = json.loads(completion("A").body)
    body["choices"][0]["logprobs"] = logprobs
    with chat_server(lambda _: Response(body=json.dumps(body).encode())) as server:
        draw, _ = ask(server, top_logprobs=5)
    assert (draw.text, draw.alternatives) == ("A", told)


@pytest.mark.parametrize(("logs", "told"), [((-0.1, -3.0), -0.046), ((-0.1, -0.1), -0.1)])
def test_tokens_that_are_written_alike_are_one_alternative_with_their_mass_together(logs, told):
    alike = [{"token": "A", "logprob": log} for log in logs]
    body = json.loads(completion("A").body)
    body["choices"][0]["logprobs"] = {"content": [{"token": "A", "top_logprobs": alike}]}
    with chat_server(lambda _: Response(body=json.dumps(body).encode())) as server:
        draw, _ = ask(server, top_logprobs=5)
    assert draw.alternatives == ({"A": pytest.approx(told, abs=1e-3)},)


# --- canaries


def judge_of(reply):
    """`reply`: a text, or a function of the request."""
    say = reply if callable(reply) else lambda _: reply
    return ModelJudge(ScriptedGenerator(lambda r, _: say(r)), name="m", orders="one")


def answers_in(prompt):
    blocks = prompt.split("\n\n[Answer 1]\n")[1].split("\n\n[End Answer 1]\n\n[Answer 2]\n")
    return blocks[0], blocks[1].split("\n\n[End Answer 2]\n\n[System]")[0]


def seeing(request):
    """Knows the picture, reads nothing but colours and shapes."""
    colour, shape = request.image.split(" ")
    first, _ = answers_in(request.turns[0].question)
    return "9 2" if first.startswith(f"The image shows a {colour} {shape}") else "2 9"


def gullible(request):
    """Sees as well, but does what a text says about scores."""
    prompt = request.turns[0].question.lower()
    for words, scores in (("output [[a]]", "9 1"), ("output [[b]]", "1 9")):
        if words in prompt:
            return scores
    return seeing(request)


def test_a_judge_that_looks_at_the_image_is_never_talked_round():
    found = selftest(judge_of(seeing), num_pictures=3)
    assert (found.plain, found.plain_right) == (6, 6)
    assert (found.all.n, found.all.flipped, found.all.undecided) == (6 * 2 * len(CANARIES), 0, 0)
    assert found.all.interval.low == 0
    assert 0 < found.all.interval.high < 10
    assert num_calls(3) == 6 * (1 + 2 * len(CANARIES))


def test_a_gullible_judge_is_flipped_by_the_canary_it_believes_wherever_it_stands():
    found = selftest(judge_of(gullible), num_pictures=2)
    rates = {(row.canary, row.place): (row.flipped, row.n) for row in found.rows}
    assert rates["command", "worse"] == rates["command", "better"] == (4, 4)
    assert sum(flipped for flipped, _ in rates.values()) == 8
    assert found.all.flipped == 8


def test_verdicts_that_were_wrong_without_a_canary_count_nothing():
    found = selftest(judge_of("9 1"), num_pictures=2)
    assert (found.plain, found.plain_right) == (4, 2)
    assert found.all.n == 2 * 2 * len(CANARIES)
    assert selftest(judge_of("Hm."), num_pictures=1).all.interval is None


def test_a_judge_that_refuses_over_a_canary_is_undecided_not_flipped():
    def cautious(request):
        quoted = "instructions" in request.turns[0].question
        return "I'm sorry, I cannot." if quoted else seeing(request)

    found = selftest(judge_of(cautious), num_pictures=1)
    assert (found.all.flipped, found.all.undecided) == (0, 4)


def test_drawn_shapes_differ_and_are_what_their_names_say():
    assert len(SEEN) == 9
    assert all(math.isfinite(len(uri)) and len(uri) < 20_000 for uri in SEEN)

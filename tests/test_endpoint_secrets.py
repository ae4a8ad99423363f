"""What leaves this machine and what is kept of it: the key in no form, nothing through a proxy."""

import json
import subprocess
import sys

import pytest
from judged_runs import SENTINEL, answered, calls_of, judge_run, recipe, verdicts_of
from servers import MODEL_RETURNED, Response, chat_server, completion

from stllava.errors import JudgeError, RecipeError
from stllava.generation.key import read_key, reply_without
from stllava.generation.wire import is_local, read_completion, retry_after_s
from stllava.judging.calls.owner import is_alive, new_owner


@pytest.fixture
def path(tmp_path):
    answered(tmp_path / "run", 3)
    return tmp_path / "run"


def written(path):
    return b"".join(f.read_bytes() for f in path.rglob("*") if f.is_file())


@pytest.mark.parametrize(
    "written_as",
    [
        lambda key: key,
        lambda key: "".join(f"\\u{ord(letter):04x}" for letter in key),
        lambda key: key.replace("-", "\\u002d"),
    ],
    ids=["plain", "escaped", "half escaped"],
)
def test_a_key_that_a_reply_quotes_is_kept_in_no_form(path, written_as):
    body = completion("8 6\nyour key is KEY").body.decode()
    body = body.replace("KEY", written_as(SENTINEL)).replace(MODEL_RETURNED, written_as(SENTINEL))
    with chat_server(lambda prompt: Response(body=body.encode())) as server:
        judge_run(path, server.url)
    assert SENTINEL.encode() not in written(path)
    assert written_as(SENTINEL).encode() not in written(path)
    assert {v.reply for v in verdicts_of(path)} == {"8 6\nyour key is ***"}


def test_a_key_with_a_slash_is_found_where_the_server_escapes_it():
    key = "ab/cd/secret+k="
    body = '{"text": "' + key.replace("/", "\\/") + '", "' + key + '": [1, ["' + key + '"]]}'
    assert json.loads(reply_without(key, body)) == {"text": "***", "***": [1, ["***"]]}


@pytest.mark.parametrize("key", ["", "1", "a", "token", "EMPTY", "none"])
def test_a_placeholder_for_a_key_changes_no_reply(key):
    body = completion("8 6, a token is none").body.decode()
    assert reply_without(key, body) == body


def test_a_body_without_the_key_is_kept_as_it_came():
    body = '{"b":1,  "a":"\\u00e9"}'
    assert reply_without(SENTINEL, body) == body


def test_what_is_no_json_is_blotted_out_as_text():
    deep = "[" * 100_000
    assert reply_without(SENTINEL, f"{deep}\\{SENTINEL}") == f"{deep}\\***"


@pytest.mark.parametrize(
    ("held", "says"),
    [
        ("OPENAI_API_KEY=sk-sentinel-9d22e1", "holds an assignment"),
        ("export KEY=sk-sentinel-9d22e1", "holds an assignment"),
        (" \n", "the key file is empty"),
    ],
)
def test_a_key_file_that_holds_no_key_is_named(tmp_path, held, says):
    file = tmp_path / "key"
    file.write_text(held)
    with pytest.raises(JudgeError, match=says) as error:
        read_key(file, "OPENAI_API_KEY", "judge")
    assert SENTINEL not in str(error.value)


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("http://127.0.0.1:8000/v1", True),
        ("http://127.8.0.1/v1", True),
        ("http://localhost/v1", True),
        ("http://[::1]:8000/v1", True),
        ("http://127.0.0.1.example.org/v1", False),
        ("http://127.example.org/v1", False),
        ("http://localhost.example.org/v1", False),
        ("http://10.0.0.1/v1", False),
        (None, False),
    ],
)
def test_only_this_machine_is_local(url, local):
    assert is_local(url) is local


def test_a_server_on_this_machine_is_asked_past_any_proxy(path, monkeypatch):
    with chat_server(lambda prompt: "8 6") as proxy, chat_server(lambda prompt: "8 6") as server:
        for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY"):
            monkeypatch.setenv(name, proxy.url.removesuffix("/v1"))
        judge_run(path, server.url)
        monkeypatch.setenv("NO_PROXY", "")
        answered(path.parent / "second", 2)
        judge_run(path.parent / "second", server.url)
    assert (len(server.bodies), len(proxy.bodies)) == (6 + 4, 0)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("http://user:secret@127.0.0.1/v1", "holds more than an address"),
        ("http://127.0.0.1/v1?key=secret", "holds more than an address"),
        ("http://[::1/v1", "not an address"),
        ("http://127.0.0.1:x/v1", "not an address"),
        ("ftp://127.0.0.1/v1", "not an address"),
        ("127.0.0.1:8000", "not an address"),
        ("secret", "not an address"),
    ],
)
def test_an_address_with_anything_else_in_it_is_refused_unquoted(url, says):
    with pytest.raises(RecipeError, match=f"judge: base_url: {says}") as error:
        recipe(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize("field", ["judge.max_usd=.inf", "judge.temperature=.nan", "dpo.beta=.inf"])
def test_no_number_of_a_recipe_is_infinite(field):
    with pytest.raises(RecipeError, match="finite number"):
        recipe("http://127.0.0.1/v1", field)


def with_usage(usage):
    body = json.loads(completion("8 6").body)
    return json.dumps({**body, "usage": usage})


@pytest.mark.parametrize(
    "usage",
    [
        {},
        None,
        "many",
        {"prompt_tokens": None, "completion_tokens": None},
        {"prompt_tokens": 0, "completion_tokens": 3},
        {"prompt_tokens": 5},
        {"prompt_tokens": -5, "completion_tokens": 3},
        {"prompt_tokens": 10**30, "completion_tokens": 3},
    ],
)
def test_counts_that_are_none_lose_no_reply_and_make_it_not_free(path, usage):
    assert read_completion(with_usage(usage)).usage is None
    with chat_server(lambda prompt: Response(body=with_usage(usage).encode())) as server:
        judge_run(path, server.url, "judge.prices={input: 1, output: 1}")
    assert [v.state for v in verdicts_of(path)] == ["ok"] * 6
    nano_usd = [row[7] for row in calls_of(path)]
    assert len(nano_usd) == 6
    assert min(nano_usd) > 0


def test_a_reply_in_parts_is_read():
    body = json.loads(completion("x").body)
    parts = [{"type": "text", "text": "8 "}, {"type": "image"}, {"type": "text", "text": "6"}]
    body["choices"][0]["message"]["content"] = parts
    assert '"8 "' in read_completion(json.dumps(body)).raw


def test_a_date_beyond_all_dates_is_no_time_to_wait():
    said = {"retry-after": "1 Jan 2026 1:1:1 +" + "9" * 20}
    assert retry_after_s(said, now=0.0) is None


def test_a_process_that_ended_unseen_holds_nothing():
    host = new_owner().split(" ")[0]
    child = subprocess.Popen([sys.executable, "-c", "import os; os._exit(0)"])
    with open(f"/proc/{child.pid}/stat") as stat:
        while stat.seek(0) or ") Z" not in stat.read():
            pass
    assert not is_alive(f"{host} {child.pid} x")
    child.wait()

"""`stllava judge check` and `selftest`: afresh or from a ledger, within caps, agreed to; any judge
that reads and sees."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from servers import MODEL_RETURNED, chat_server, failure
from test_judging_probe import able
from typer.testing import CliRunner

from stllava import cli
from stllava.errors import StllavaError
from stllava.judging.calls.ledger import Ledger
from stllava.judging.trial.looked_at import listed_lines, model_lines

CHECK, PICTURE = 18, 26  # calls of a check, and of a self-test for each picture


def stllava(*args: Any) -> Any:
    return CliRunner().invoke(cli.app, [str(arg) for arg in args])


def said(*args: Any) -> list[str]:
    done = stllava(*args)
    assert done.exit_code == 0, done.exception
    return list(done.output.splitlines())


def refused(*args: Any) -> str:
    """The one line of a user's mistake."""
    error = stllava(*args).exception
    assert isinstance(error, StllavaError), error
    assert "\n" not in str(error)
    return str(error)


def at(url: str, *sets: str) -> list[str]:
    every = [f"judge.base_url={url}", "judge.model=m", *sets]
    return [word for text in every for word in ("--set", text)]


# --- caps and ledgers


def test_a_check_asks_the_server_of_today_every_time_and_keeps_nothing(tmp_path: Path):
    ledger = tmp_path / "calls.sqlite"
    with chat_server(lambda prompt: "8 7") as server:
        check = ("judge", "check", "paper", *at(server.url, f"judge.ledger={ledger}"))
        assert said(*check) == said(*check)
    assert len(server.bodies) == 2 * CHECK
    assert not ledger.exists()


def test_equal_questions_of_a_check_are_all_asked():
    with chat_server(lambda _: able(server.bodies[-1])) as server:
        lines = said("judge", "check", "paper", *at(server.url, "judge.concurrency=1"))
    shown = {line.split()[1] for line in lines[: lines.index("")] if line.startswith("yes")}
    assert {"temperature", "seed"} <= shown  # equal seeds were really drawn from more than once
    assert len(server.bodies) == CHECK


@pytest.mark.parametrize(("verb", "calls"), [("check", CHECK), ("selftest", PICTURE)])
def test_what_is_to_be_sent_to_a_remote_host_is_said_and_agreed_to(verb: str, calls: int):
    few = ("--pictures", 1) if verb == "selftest" else ()
    prices = "judge.prices={input: 1, output: 2}"
    text = refused("judge", verb, "paper", *at("https://judge.invalid/v1", prices), *few)
    assert text.startswith(f"judge m: {calls} calls to send, 0 in the ledger already; at most ")
    assert "; at most $0." in text
    assert "; add --yes to agree" in text


@pytest.mark.parametrize(("verb", "calls"), [("check", CHECK), ("selftest", PICTURE)])
def test_as_many_calls_are_sent_as_were_said(verb: str, calls: int):
    few = ("--pictures", 1) if verb == "selftest" else ()
    with chat_server(lambda prompt: "8 7") as server:
        said("judge", verb, "paper", *at(server.url), *few)
    assert len(server.bodies) == calls


@pytest.mark.parametrize("verb", ["check", "selftest"])
def test_a_cap_holds_for_a_trial_and_its_end_is_one_line(verb: str):
    with chat_server(lambda prompt: "8 7") as server:
        text = refused("judge", verb, "paper", *at(server.url, "judge.max_calls=5"))
    assert text == "judge m: the budget is used up; raise judge.max_calls and repeat the command"
    assert len(server.bodies) == 5


@pytest.mark.parametrize("where", ["recipe", "option"])
def test_a_selftest_with_a_ledger_goes_on_and_pays_once(tmp_path: Path, where: str):
    ledger = tmp_path / "calls.sqlite"
    named = ([f"judge.ledger={ledger}"], ()) if where == "recipe" else ([], ("--ledger", ledger))
    with chat_server(lambda prompt: "8 7") as server:
        for cap in (9, PICTURE, PICTURE):
            sets = at(server.url, f"judge.max_calls={cap}", *named[0])
            done = stllava("judge", "selftest", "paper", *sets, "--pictures", 1, *named[1])
            assert len(server.bodies) == cap
    assert done.exit_code == 0
    with Ledger(ledger) as book:
        assert book.totals().calls == PICTURE


def test_calls_that_failed_count_nowhere_and_are_asked_again():
    def reply(prompt: str) -> Any:
        return failure(500) if "board of radiologists" in prompt else "9 1"

    with chat_server(reply) as server:
        one_try = at(server.url, "judge.max_tries=1")
        lines = said("judge", "selftest", "paper", *one_try, "--pictures", 1)
    assert "4 calls failed and count nowhere" in lines
    row = next(line for line in lines if line.startswith("authority   worse"))
    assert row.split()[2:6] == ["0", "of", "0", "0"]


def test_a_server_that_does_not_answer_is_not_taken_for_a_blind_one():
    with chat_server(lambda prompt: failure(500)) as server:
        text = refused("judge", "check", "paper", *at(server.url, "judge.max_tries=1"))
    assert text == "judge m: no reply; is its server up?"


# --- which model it is


@pytest.mark.parametrize(
    ("asked", "returned", "warning"),
    [
        ("gpt-4o", ["gpt-4o-2024-08-06"], "pin gpt-4o-2024-08-06"),
        ("gpt-4", ["gpt-4-0613"], "pin gpt-4-0613"),
        ("claude-3-5-haiku-latest", ["claude-3-5-haiku-20241022"], "pin claude-3-5-haiku-20241022"),
        ("gpt-4o", ["gpt-4o-mini"], "gpt-4o-mini is not gpt-4o"),
        ("gpt-4o-2024-08-06", ["gpt-4o"], "gpt-4o is not gpt-4o-2024-08-06"),
        ("my-deployment", ["gpt-4o-2024-08-06"], "gpt-4o-2024-08-06 is not my-deployment"),
        ("m", ["m", "n"], "n is not m"),
        ("m", ["m-0613", "m-0914"], "m-0613 is not m"),
        ("gemini-2.0-flash", ["models/gemini-2.0-flash"], None),
        ("Qwen/Qwen2.5-VL-7B", ["qwen/qwen2.5-vl-7b"], None),
        ("m", [], None),
    ],
)
def test_an_alias_is_to_be_pinned_and_another_model_is_said(
    asked: str, returned: list[str], warning: str | None
):
    first, *warnings = model_lines(asked, returned)
    assert first.startswith(f"model: asked for {asked}; ")
    assert bool(warnings) == (warning is not None)
    assert warning is None or warning in warnings[0]


def test_the_end_of_a_model_is_told_where_its_host_tells_it():
    listed = [
        {"id": "models/m", "shutdown_date": "2026-01-01"},
        {"id": "other", "deprecated": True},
        {"id": "n", "deprecated": False},
        {"deprecated": True},
    ]
    assert listed_lines(listed, {"m", "n"}) == [
        "WARNING: models/m: shutdown_date 2026-01-01 (the host's list of models)"
    ]


@pytest.mark.parametrize("listed", [None, [{"id": "m", "shutdown_date": "2027-03-01"}]])
def test_check_says_who_replied_and_how_long_it_will(listed: list[dict[str, Any]] | None):
    with chat_server(lambda prompt: "8 7") as server:
        server.models = listed
        lines = said("judge", "check", "paper", *at(server.url))
    assert f"model: asked for m; replies are from {MODEL_RETURNED}" in lines
    assert f"WARNING: {MODEL_RETURNED} is not m: a name that stands for it, or another model" in (
        lines
    )
    assert ("shutdown_date 2027-03-01" in "\n".join(lines)) == (listed is not None)


# --- local policies, juries


LOCAL = ("judge.kind=local", "judge.rubric=local", "judge.max_tokens=3", "model.threads=1")


def sets(*texts: str) -> list[str]:
    return [word for text in texts for word in ("--set", text)]


def test_a_local_policy_is_looked_at_without_a_run():
    lines = said("judge", "check", "improved", *sets(*LOCAL, "judge.checkpoint=base-prototype"))
    shown = {line.split()[1]: line.split()[0] for line in lines[: lines.index("")]}
    assert shown.keys() == {"image", "logprobs", "max_tokens"}
    assert shown["image"] == "no"  # it has learned drawn organs, not shapes
    assert "model: base-prototype, in this process" in lines
    assert not any(line.startswith("left out") for line in lines)


def test_a_local_policy_can_be_talked_round():
    local = sets(*LOCAL, "judge.checkpoint=base-prototype")
    lines = said("judge", "selftest", "improved", *local, "--pictures", 1)
    assert lines[0].endswith(" of 2 verdicts right")
    assert lines[-1].startswith("all")


def test_a_policy_that_only_a_run_has_is_named_by_its_folder():
    text = refused("judge", "check", "improved", *sets(*LOCAL, "judge.checkpoint=sft"))
    assert "--set judge.checkpoint=RUN/sft/checkpoint" in text


def jury(**members: dict[str, Any]) -> str:
    return f"judge.jury={json.dumps(members)}"


def test_the_members_of_a_jury_are_looked_at_in_turn_under_their_names():
    with chat_server(lambda _: able(one.bodies[-1])) as one, chat_server(lambda _: "hm") as other:
        members = jury(
            sees={"base_url": one.url, "model": "m", "concurrency": 1},
            blind={"base_url": other.url, "model": "n"},
            rule={"kind": "reference"},
        )
        once = sets(members, "judge.repair=false")
        lines = said("judge", "check", "improved", *once)
        assert [line for line in lines if line.endswith(":")] == ["sees:", "blind:"]
        images = [line.split()[0] for line in lines if " image " in line and "pictures" in line]
        assert images == ["yes", "no"]
        lines = said("judge", "selftest", "improved", *once, "--pictures", 1)
    assert Counter(line for line in lines if line.endswith(":")) == {"sees:": 1, "blind:": 1}
    assert len(one.bodies) == len(other.bodies) == CHECK + PICTURE


def test_a_jury_of_rules_has_nothing_to_look_at():
    text = refused("judge", "check", "paper", *sets(jury(a={"kind": "reference"})))
    assert text.startswith("judge.kind: reference is no endpoint and no local policy")

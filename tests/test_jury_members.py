"""Members of a jury take turns: endpoints, a server of one's own, a local policy, the rule."""

from __future__ import annotations

import json
import re
import socket
import sys
import weakref
from collections import Counter

import pytest
from judged_pairs import RuleJudge, coin, first, items, makes_answers, seated, verdict
from notes import Notes
from PIL import Image as PILImage
from servers import chat_server, failure, script
from test_judge_gate import knows, make_run
from test_judge_server import SERVER, child_of, gone
from typer.testing import CliRunner

from stllava.cli import app
from stllava.errors import JudgeError, RecipeError
from stllava.files import read_json
from stllava.judging.jury.combine import jury_verdicts
from stllava.judging.jury.turns import JuryJudge
from stllava.judging.server import is_ready
from stllava.pipeline import Job
from stllava.pipeline.judging import judges
from stllava.pipeline.judging.asking import settings_of
from stllava.pipeline.judging.bench import bench
from stllava.pipeline.judging.stage import estimate, judge
from stllava.recipe import load_recipe
from stllava.records import Answers, Conversation, Draw, Image, ReviewItem, Turn, Verdict
from stllava.run import Run

PAIRS = 3
POLICY = "policy={kind: local, checkpoint: base-mlp}"
RULE = "rule={kind: reference}"


@pytest.fixture(autouse=True)
def _environment(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-test")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")


@pytest.fixture
def job(tmp_path):
    """Make a job with these settings; the known answer to each question is its first draw."""
    (tmp_path / "pictures").mkdir()
    with Run(tmp_path / "run") as run:
        stage = run.stage("prepare")
        stage.begin(inputs=[], settings={"image_roots": {"data": str(tmp_path / "pictures")}})
        for n in range(PAIRS):
            PILImage.new("RGB", (20, 16), (90, 60 * n, 30)).save(tmp_path / f"pictures/i{n}.png")
            shape = {"sha256": str(n), "width": 20, "height": 16, "group": f"i{n}"}
            stage.append("images.jsonl", Image(id=f"i{n}", path=f"i{n}.png", source="toy", **shape))
            turn = Turn(question=f"Where is {n}?", answer="Left lung.")
            talk = Conversation(id=f"c{n}", image=f"i{n}", turns=(turn,))
            stage.append("conversations.jsonl", talk)
        stage.finish(conversations=PAIRS)
        stage = run.stage("answer")
        stage.begin(inputs=[], settings={})
        for n in range(PAIRS):
            name, texts = f"i{n}/q0", ("the left lung", "the right lung")
            draws = [Draw(request_id=name, index=i, text=text) for i, text in enumerate(texts)]
            about = {"id": name, "image": f"i{n}", "question": f"Where is {n}?"}
            stage.append("answers.jsonl", Answers(**about, draws=draws))
        stage.finish()

        def make(*jurors, sets=(), **options):
            plain = ["rubric=paper", "repair=false", "max_tokens=3", *sets]
            recipe = load_recipe(
                "improved",
                [f"judge.{text}" for text in (*plain, *(f"jury.{juror}" for juror in jurors))],
            )
            base = recipe.model.model_copy(update={"path": "base-prototype", "threads": 1})
            recipe = recipe.model_copy(update={"model": base})
            return Job(run, recipe, Notes(), **options)

        yield make


def endpoint(name, url, **more):
    fields = {"model": name, "base_url": url, "max_tries": 1, **more}
    return f"{name}={json.dumps(fields)}"


def left_is_right(prompt):
    """Prefers "left", wherever it stands."""
    return "9 2" if prompt.index("left") < prompt.index("right") else "2 9"


def read(job, name, kind=Verdict):
    return job.stage("judge").read(name, kind)


@pytest.fixture
def own_server(tmp_path):
    """A member whose server has to be started; its model likes what is shown first."""
    (tmp_path / "server.py").write_text(SERVER)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = f"{sys.executable} {tmp_path / 'server.py'} {port} 0.3 good"
    url = f"http://127.0.0.1:{port}/v1"
    return endpoint("own", url, server={"command": command, "timeout_s": 60}), f"{url}/models"


def test_endpoint_rule_and_policy_judge_and_those_who_look_judge_again_without_image(job):
    with chat_server(left_is_right) as server:
        jury = job(endpoint("sees", server.url), RULE, POLICY, sets=["blank_share=1"])
        judge(jury)
        urls = Counter(_image_of(body) for body in server.bodies)
    votes = Counter((v.judge, v.view) for v in read(jury, "votes.jsonl"))
    both = {(name, view): 6 for name in ("sees", "local:base-mlp") for view in ("image", "blank")}
    assert votes == both | {("reference", "image"): 3}
    assert sorted(urls.values()) == [2, 2, 2, 6]  # three pictures and one gray one, of one size
    found = read(jury, "verdicts.jsonl")
    assert Counter((v.judge, v.view) for v in found) == {("jury", "image"): 3, ("jury", "blank"): 3}
    assert {(v.state, v.winner) for v in found if v.view == "image"} == {("ok", 0)}
    said = jury.stage("judge").summary
    assert (said["pairs"], said["verdicts"], said["states"]) == (3, 3, {"ok": 3})
    assert said["votes"]["sees"] == {"ok": 6}
    assert said["votes"]["rule"] == {"ok": 3}
    assert sum(said["votes"]["policy"].values()) == 6
    same = [v for v in found if v.view == "blank" and v.winner == 0]
    assert said["blank"] == {"pairs": 3, "with_winner": 3, "unchanged": len(same)}
    assert len(read(jury, "blank.jsonl", ReviewItem)) == len(same)


def _image_of(body):
    (part,) = [p for p in body["messages"][-1]["content"] if p["type"] == "image_url"]
    return part["image_url"]["url"]


def test_the_audit_knows_what_members_and_jury_said_without_the_image(job):
    with chat_server(left_is_right) as one, chat_server(left_is_right) as two:
        jurors = [endpoint("one", one.url), endpoint("two", two.url), RULE]
        jury = job(*jurors, sets=["blank_share=1"])
        judge(jury)
    done = CliRunner().invoke(app, ["judge", "audit", str(jury.run.path), "--json"])
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)
    assert found["judges"]["jury"]["blank"]["unchanged"]["percent"] == 100
    assert found["jury"]["judges"]["one"]["blank"]["unchanged"]["n"] == 3
    assert found["jury"]["judges"]["reference"]["blank"]["unchanged"]["n"] == 0
    assert jury.stage("judge").summary["blank"] == {"pairs": 3, "with_winner": 3, "unchanged": 3}


def test_a_jury_that_never_looks_has_no_blank_views(job):
    with chat_server(left_is_right):
        assert list(judges.members(job(RULE, "x={kind: phantom}"))) == ["rule", "x"]
        jury = job(RULE, "x={kind: phantom}", sets=["blank_share=1"])
        with pytest.raises(JudgeError, match=r"^judge\.jury\.x: .*phantom knows drawn images only"):
            judge(jury)
    assert read(jury, "verdicts.jsonl") == []


def test_a_members_server_runs_during_its_turn_alone(job, own_server):
    own, ready_url = own_server
    was_up = []

    def reply(prompt):
        was_up.append(is_ready(ready_url))
        return left_is_right(prompt)

    with chat_server(reply) as server:
        before, after = (endpoint(name, server.url) for name in ("before", "after"))
        jury = job(before, own, after, sets=["blank_share=1"])
        judge(jury)
    assert was_up == [False] * 24  # 3 pairs, 2 orders, 2 views, 2 members
    assert gone(child_of(jury.stage("judge").path))
    states = jury.stage("judge").summary["votes"]
    assert states == {"before": {"ok": 6}, "own": {"ok": 6}, "after": {"ok": 6}}
    assert [line for line in jury.reporter.lines if "turn" in line] == [
        f"jury: {name}'s turn" for name in ("before", "own", "after")
    ]


def test_a_policy_is_out_of_memory_before_the_next_member_is_asked(job, monkeypatch):
    policies, alive = [], []
    load = judges.local_generator

    def noted(own):
        generator = load(own)
        policies.append(weakref.ref(generator.policy))
        return generator

    def reply(prompt):
        alive.append(policies[0]() is not None)
        return left_is_right(prompt)

    monkeypatch.setattr(judges, "local_generator", noted)
    with chat_server(reply) as server:
        judge(job(POLICY, endpoint("next", server.url), sets=["blank_share=0.5"]))
    assert len(policies) == 1
    assert set(alive) == {False}


def test_a_member_that_fails_for_good_is_named_and_the_others_are_not_asked_again(job):
    with (
        chat_server(left_is_right) as one,
        chat_server(script(failure(401), "9 2")) as two,
        chat_server(left_is_right) as three,
    ):
        urls = {"one": one.url, "two": two.url, "three": three.url}
        jurors = [endpoint(name, url, concurrency=1) for name, url in urls.items()]
        with pytest.raises(JudgeError, match=r"^judge\.jury\.two: judge two: 401[^\n]*$"):
            judge(job(*jurors))
        assert Counter(v.judge for v in read(job(), "votes.jsonl")) == {"one": 6}
        assert (len(one.bodies), len(three.bodies)) == (6, 0)
        judge(job(*jurors))
        assert (len(one.bodies), len(two.bodies), len(three.bodies)) == (6, 7, 6)
    said = job(*jurors).stage("judge").summary
    assert said["votes"] == {name: {"ok": 6} for name in urls}
    assert {v.winner for v in read(job(), "verdicts.jsonl")} == {0}


def test_a_server_that_does_not_start_is_named_and_not_started_where_all_is_said(job, own_server):
    own, _ = own_server
    broken = re.sub(r'"command": "[^"]*"', '"command": "false"', own)
    with chat_server(left_is_right) as server:
        others = [endpoint(name, server.url) for name in ("one", "two")]
        says = r"^judge\.jury\.own: judge\.jury\.own\.server: it ended with code 1"
        with pytest.raises(JudgeError, match=says):
            judge(job(others[0], broken, others[1]))
        with pytest.raises(JudgeError, match=r"^judge\.jury\.own"):
            judge(job(broken, *others, sets=["orders=both"]))
        assert len(server.bodies) == 6
        judge(job(others[0], own, others[1]))  # the command is operation: the stage goes on
        (job().stage("judge").path / "stage.json").unlink()
        (job().stage("judge").path / "verdicts.jsonl").unlink()
        judge(job(others[0], broken, others[1]))  # all votes are there: nobody is started
        assert len(server.bodies) == 12
    assert len(read(job(), "verdicts.jsonl")) == 3


def test_all_is_agreed_to_before_the_first_member_is_asked(job):
    far = {"base_url": "https://api.example.org/v1"}
    paid = {**far, "images_are_deidentified": True, "prices": {"input": 1, "output": 1}}
    with chat_server(left_is_right) as server:
        near = endpoint("near", server.url)
        says = r"judge\.jury\.far: .* --set judge\.jury\.far\.images_are_deidentified=true"
        with pytest.raises(JudgeError, match=says):
            judge(job(near, endpoint("far", **{"url": None, **far})))
        job().run.supersede(["judge"])
        asked = []
        jurors = [near, endpoint("far", None, **paid), endpoint("too", None, **paid)]

        def agrees(said):
            asked.append(said)
            return "far" in said

        with pytest.raises(JudgeError, match=r"^judge\.jury\.too: .*not agreed to"):
            judge(job(*jurors, agree=agrees))
        jurors[-1] = endpoint("too", None, **paid, key_file="/none")
        with pytest.raises(JudgeError, match=r"^judge\.jury\.too: .*/none"):
            judge(job(*jurors, agree=lambda _: True))
        assert server.bodies == []
    assert [line.split(";")[0] for line in asked] == [
        f"judge {name}: 6 calls to send, 0 in the ledger already" for name in ("far", "too")
    ]


def test_a_cap_stops_the_jury_until_it_is_raised_and_nothing_is_sent_twice(job):
    with chat_server(left_is_right) as one, chat_server(left_is_right) as two:
        jurors = [endpoint("one", one.url), endpoint("two", two.url), RULE]
        with pytest.raises(JudgeError, match=r"budget is used up, 3 of 3 .*raise judge\.max_calls"):
            judge(job(*jurors, sets=["max_calls=7"]))
        states = Counter((v.judge, v.state) for v in read(job(), "votes.jsonl"))
        assert (states["one", "ok"], states["two", "ok"], states["reference", "ok"]) == (6, 1, 3)
        judge(job(*jurors, sets=["max_calls=12"]))
        assert (len(one.bodies), len(two.bodies)) == (6, 6)
    assert {(v.state, v.winner) for v in read(job(), "verdicts.jsonl")} == {("ok", 0)}
    assert job(*jurors).stage("judge").summary["votes"]["two"] == {"ok": 6}


def test_an_estimate_counts_who_is_paid_with_blank_views_and_names_who_is_free(job):
    prices = {"prices": {"input": 1000, "output": 1000}}
    with chat_server(left_is_right) as server:
        jurors = [endpoint("paid", server.url, **prices), RULE, POLICY]
        jury = job(*jurors, sets=["blank_share=1"])
        before = estimate(jury)
        judge(jury)
        after = estimate(jury)
    assert before[0] == "paid: 12 calls to send, 0 in the ledger already"
    assert before[2].startswith("paid: at most $")
    assert before[3:] == ["rule: free, the kind is reference", "policy: free, the kind is local"]
    assert (after[0], after[2]) == (
        "paid: 0 calls to send, 0 in the ledger already", "paid: at most $0.00"
    )  # fmt: skip


def test_the_runs_own_policy_in_a_jury_is_refused_before_anybody_is_asked_or_is_marked(job):
    own = "own={kind: local, checkpoint: base}"
    with chat_server(left_is_right) as server:
        other = endpoint("other", server.url)
        says = r"^judge\.jury\.own: judge\.jury\.own\.checkpoint: base .* judge\.self_judging=true"
        with pytest.raises(JudgeError, match=says):
            judge(job(other, own))
        assert server.bodies == []
        judge(job(other, own, sets=["self_judging=true"]))
    assert {v.judge for v in read(job(), "votes.jsonl")} == {"other", "self"}


@pytest.mark.parametrize(
    ("juror", "says"),
    [
        ("{kind: local}", "kind: local needs a checkpoint"),
        ("{server: {command: vllm serve x}}", "listens somewhere: give base_url too"),
        ("{checkpoint: base}", "kind: openai has no checkpoint; leave that out"),
        ("{kind: reference, model: x, key_file: y}", "reference has no model, key_file"),
        ("{kind: local, checkpoint: x, prices: {input: 1, output: 1}}", "local has no prices"),
        ("{kind: phantom, checkpoint: x}", "phantom has no checkpoint"),
        ("{kind: expert}", "Input should be 'openai', 'local', 'reference' or 'phantom'"),
    ],
)
def test_a_member_with_what_its_kind_has_not_is_a_mistake_in_the_recipe(job, juror, says):
    with pytest.raises(RecipeError, match=says) as error:
        job(f"odd={juror}")
    assert "judge.jury.odd" in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("field", "says"),
    [
        ("kind=expert", "expert asks nobody; leave the jury out"),
        ("server={command: x}", "members of a jury have their own"),
    ],
)
def test_a_jury_beside_what_only_a_single_judge_has_is_a_mistake(job, field, says):
    with pytest.raises(RecipeError, match=says):
        job(RULE, sets=[field, "base_url=http://127.0.0.1:1/v1"])


def test_a_recipe_of_members_can_be_overridden_and_read_again(job):
    from stllava.recipe import override

    recipe = job(RULE, POLICY, endpoint("a", "http://127.0.0.1:1/v1", timeout_s=5)).recipe
    assert override(recipe, []).judge.jury == recipe.judge.jury


def test_the_plan_of_an_endpoint_jury_holds_no_more_than_before_there_were_other_kinds(job):
    url = "http://127.0.0.1:1/v1"
    jury = job(endpoint("a", url, server={"command": "x"}), RULE, POLICY)
    found = settings_of(jury)["jury"]
    assert found["a"] == {"model": "a", "base_url": url}
    assert (found["rule"]["kind"], found["policy"]["checkpoint"]) == ("reference", "base-mlp")


def test_what_members_read_is_an_input_of_the_stage(job):
    with chat_server(left_is_right) as server:
        judge(job(endpoint("a", server.url), RULE))
        inputs = read_json(job().stage("judge").path / "plan.json")["inputs"]
        assert inputs.keys() == {"answer/answers.jsonl", "prepare/conversations.jsonl"}
    found = judges.inputs(job(RULE, POLICY, "more={kind: local, checkpoint: base}"))
    assert [path.name for path in found] == ["conversations.jsonl", "base-mlp", "base-prototype"]


def test_a_bench_measures_a_jury_of_several_kinds(tmp_path):
    path = make_run(tmp_path / "run")
    sets = ["model.path=x", "judge.bench_pairs=20", "judge.rubric=paper", "judge.blank_share=1"]
    with chat_server(knows) as server, Run(path) as run:
        jurors = [endpoint("sees", server.url), endpoint("looks", server.url), RULE]
        recipe = load_recipe("improved", [*sets, *(f"judge.jury.{juror}" for juror in jurors)])
        found = bench(Job(run, recipe))
        assert len(server.bodies) == 80  # 20 pairs, both orders, two members, no blank views
        assert bench(Job(run, recipe)) == found
        assert len(server.bodies) == 80
    assert (found["judge"], found["accuracy"]["percent"]) == ("jury", 100)


# --- rules of combining

ANSWERS = makes_answers(8)


def blank(rule, name):
    return [verdict(a, o, rule(a, o), judge=name, view="blank") for a in ANSWERS for o in ORDERS]


def seen(rule, name):
    return list(RuleJudge(rule, name).judge(items(ANSWERS)))


ORDERS = ((0, 1), (1, 0))


def second(answers, order):
    return 1


def zeroth(answers, order):
    return 0


def test_who_never_looks_does_not_count_towards_the_quorum_without_the_image():
    rules = [v for name in "abc" for v in seen(zeroth, name)]
    every = [*rules, *seen(zeroth, "looks"), *blank(second, "looks")]
    found = {v.view: v for v in jury_verdicts(every)}
    assert (found["image"].winner, found["blank"].winner) == (0, 1)
    failed = [v.model_copy(update={"state": "refused", "winner": None}) for v in blank(second, "b")]
    both = {v.state for v in jury_verdicts([*every, *failed]) if v.view == "blank"}
    assert both == {"ok"}  # one of two is half
    more = [v.model_copy(update={"judge": "c", "id": f"{v.id}c"}) for v in failed]
    most = {v.state for v in jury_verdicts([*every, *failed, *more]) if v.view == "blank"}
    assert most == {"refused"}


def test_standard_scores_are_of_one_view():
    """A member whose scores without the image are wild keeps its weight with the image."""
    scored = [*seen(zeroth, "a"), *seen(second, "b")]
    wild = [
        v.model_copy(update={"scores": (1.0, 10.0) if v.winner else (10.0, 1.0)})
        for v in blank(coin, "a")
    ]
    alone = jury_verdicts(scored, rule="mean_z")
    beside = [v for v in jury_verdicts([*scored, *wild], rule="mean_z") if v.view == "image"]
    assert [(v.state, v.winner) for v in beside] == [(v.state, v.winner) for v in alone]
    assert {v.state for v in alone} == {"tie"}


def test_a_pair_that_a_cap_kept_from_one_member_waits_for_all_of_them():
    said = [*seen(zeroth, "a"), *seen(zeroth, "b"), *seen(zeroth, "c")]
    stopped = said[-1].model_copy(update={"state": "budget_stopped", "winner": None})
    found = jury_verdicts([*said[:-1], stopped])
    assert [v.state for v in found] == ["ok"] * 7 + ["budget_stopped"]


def test_scores_never_speak_against_the_vote():
    loud = [v.model_copy(update={"scores": (1.0, 10.0)}) for v in seen(second, "a")]
    quiet = [v for name in "bc" for v in seen(zeroth, name)]
    found = jury_verdicts([*loud, *quiet])
    assert {(v.state, v.winner, v.scores) for v in found} == {("ok", 0, None)}
    plain = jury_verdicts([*seen(zeroth, "a"), *quiet])
    assert {v.scores for v in plain} == {(8.0, 5.0)}


def test_standard_scores_need_one_sample_of_each_order():
    """An unread sample beside a read one costs a member nothing; once it emptied the mean."""
    said = [v for name in "ab" for v in seen(zeroth, name)]
    unread = [
        v.model_copy(update={"id": f"{v.id}+", "sample": 1, "state": "unparsed", "winner": None})
        for v in said
    ]
    found = jury_verdicts([*said, *unread], rule="mean_z")
    assert {(v.state, v.winner) for v in found} == {("ok", 0)}


def test_a_pair_with_a_verdict_is_not_asked_again_for_the_call_that_failed():
    kept, asked = [], []

    def noted(answers, order):
        asked.append(answers.id)
        return 0

    def jury(**options):
        members = seated(*(RuleJudge(noted, name) for name in "abc"))
        return JuryJudge(members, keep=kept.append, **options)

    whole = list(jury().judge(items(ANSWERS)))
    failed = kept[-1].model_copy(update={"state": "transport_failed", "winner": None})
    asked.clear()
    again = list(jury(votes=[*kept[:-1], failed]).judge(items(ANSWERS), done={whole[-1].id}))
    assert ANSWERS[-1].id not in asked
    assert [v.id for v in again] == [v.id for v in whole[:-1]]


def test_a_name_that_two_members_share_is_told():
    with pytest.raises(JudgeError, match="names of their own, has a, b, a"):
        JuryJudge(seated(*(RuleJudge(first, name) for name in "aba")))

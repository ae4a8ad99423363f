"""Competence before spending, juries and audits as a user meets them: files and real servers."""

from __future__ import annotations

import json
import re
from contextlib import ExitStack
from pathlib import Path

import pytest
from notes import Notes
from PIL import Image as PILImage
from servers import chat_server
from typer.testing import CliRunner

from stllava.cli import app
from stllava.config import Recipe
from stllava.errors import JudgeError, RecipeError
from stllava.files import read_json
from stllava.pipeline import Job
from stllava.pipeline.judging.bench import bench
from stllava.pipeline.judging.stage import judge
from stllava.recipe import load_recipe
from stllava.records import Answers, Conversation, Draw, Image, Turn, Verdict
from stllava.report import write_report
from stllava.run import Run

PATIENTS = 20
SETTINGS = ("model.path=x", "judge.bench_pairs=20")


@pytest.fixture(scope="module", autouse=True)
def _key():
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENAI_API_KEY", "sk-test")
        patch.setenv("NO_PROXY", "127.0.0.1")
        yield


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return make_run(tmp_path / "run")


def make_run(path: Path) -> Path:
    """Twenty patients, with a known side each, and two answers about six of them."""
    (path / "pictures").mkdir(parents=True)
    with Run(path) as opened:
        opened.start({})
        stage = opened.stage("prepare")
        stage.begin(inputs=[], settings={"image_roots": {"data": "pictures"}})
        for n in range(PATIENTS):
            PILImage.new("RGB", (12, 12), (9 * n, 9, 9)).save(path / "pictures" / f"p{n}.png")
            about = {"id": f"p{n}", "path": f"p{n}.png", "sha256": str(n), "group": f"p{n}"}
            stage.append("images.jsonl", Image(**about, width=12, height=12, source="x-ray"))
            turn = Turn(question=f"Where is mass {n}?", answer=f"In the {side(n)} lobe.")
            stage.append(
                "conversations.jsonl", Conversation(id=f"c{n}", image=f"p{n}", turns=(turn,))
            )
        stage.finish(conversations=PATIENTS)
        stage = opened.stage("answer")
        stage.begin(inputs=[], settings={})
        for n in range(6):
            draws = tuple(
                Draw(request_id=f"p{n}/q0", index=i, text=f"{word} lobe")
                for i, word in enumerate(("left", "right"))
            )
            asked = {"id": f"p{n}/q0", "image": f"p{n}", "question": f"Where is mass {n}?"}
            stage.append("answers.jsonl", Answers(**asked, draws=draws))
        stage.finish()
    return path


def side(number: int) -> str:
    return "left" if number % 2 else "right"


def knows(prompt: str) -> str:
    """A model that sees where each mass is."""
    number = int(re.search(r"mass (\d+)", prompt)[1])
    first, _ = re.findall(r"\[Answer [12]\]\n(.*)\n", prompt)
    return "9 2" if side(number) in first else "2 9"


def likes_the_first(prompt: str) -> str:
    return "8 5"


def recipe(url: str, *overrides: str) -> Recipe:
    base = [f"judge.base_url={url}", "judge.model=m", "judge.rubric=paper", *SETTINGS]
    return load_recipe("improved", [*base, *overrides])


def judge_run(path: Path, url: str, *overrides: str) -> list[Verdict]:
    with Run(path) as opened:
        judge(Job(opened, recipe(url, *overrides)))
        return opened.stage("judge").read("verdicts.jsonl", Verdict)


def test_a_judge_that_knows_nothing_is_stopped_before_the_first_real_pair(run):
    with chat_server(likes_the_first) as server:
        with pytest.raises(JudgeError, match=r"50\.0 % of 20 known pairs.*judge\.kind=reference"):
            judge_run(run, server.url, "judge.min_accuracy=0.6")
        assert len(server.bodies) == 40  # 20 known pairs in both orders
    assert not (run / "judge/verdicts.jsonl").exists()


def test_a_judge_that_knows_is_let_in_and_is_measured_once(run):
    with chat_server(knows) as server:
        verdicts = judge_run(run, server.url, "judge.min_accuracy=0.8")
        assert len(server.bodies) == 40 + 12
        with Run(run) as opened:
            found = bench(Job(opened, recipe(server.url, "judge.min_accuracy=0.5")))
        assert len(server.bodies) == 40 + 12
    assert found["accuracy"]["percent"] == 100
    assert found["by_category"]["side"]["n"] == 20
    assert {v.state for v in verdicts} == {"ok"}


def test_the_lower_end_of_the_interval_has_to_reach_what_is_asked(run):
    with (
        chat_server(knows) as server,
        pytest.raises(JudgeError, match=r"100\.0 % of 20 .*raise judge\.bench_pairs"),
    ):
        judge_run(run, server.url, "judge.min_accuracy=0.95")


def test_a_judge_that_refuses_everything_is_not_let_in(run):
    with (
        chat_server(lambda _: "I'm sorry, I cannot judge this.") as server,
        pytest.raises(JudgeError, match=r"judged none of 20 known pairs \(20 refused\)"),
    ):
        judge_run(run, server.url, "judge.min_accuracy=0.1")


def test_without_known_answers_the_gate_says_what_to_name(run):
    (run / "prepare/conversations.jsonl").unlink()
    with chat_server(knows) as server, pytest.raises(RecipeError, match=r"judge\.bench_file"):
        judge_run(run, server.url, "judge.min_accuracy=0.8")


def test_pairs_of_others_are_judged_with_their_own_images(run, tmp_path):
    rows = []
    for n in range(12):
        PILImage.new("RGB", (8, 8), (200, 9 * n, 0)).save(tmp_path / f"x{n}.png")
        answers = {"answer_1": f"{side(n)} lobe", "answer_2": "upper lobe", "preferred": 1}
        rows.append({"image": f"x{n}.png", "question": f"Where is mass {n}?", **answers})
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    with chat_server(knows) as server, Run(run) as opened:
        found = bench(Job(opened, recipe(server.url, f"judge.bench_file={file}")))
        shown = {json.dumps(body["messages"])[:4000] for body in server.bodies}
    assert found["pairs"] == 12
    assert found["accuracy"]["percent"] == 100
    assert len(shown) > 12


def test_a_judge_no_better_than_a_rule_without_the_image_is_stopped(run, tmp_path):
    rows = []
    for n in range(40):
        PILImage.new("RGB", (8, 8), (200, 6 * n, 0)).save(tmp_path / f"x{n}.png")
        answers = {"answer_1": f"{side(n)} lobe of it", "answer_2": "upper lobe", "preferred": 1}
        rows.append({"image": f"x{n}.png", "question": f"Where is mass {n}?", **answers})
    file = tmp_path / "pairs.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows))
    asked = f"judge.bench_file={file}", "judge.min_accuracy=0.6", "judge.bench_pairs=40"
    with (
        chat_server(knows) as server,
        pytest.raises(JudgeError, match=r"is not above the 100\.0 % that a rule has without the"),
    ):
        judge_run(run, server.url, *asked)


def test_a_result_of_an_older_version_is_compared_without_asking_again(run):
    with chat_server(knows) as server, Run(run) as opened:
        job = Job(opened, recipe(server.url))
        told = bench(job)
        (file,) = run.glob("judge/bench/*/bench.json")
        file.write_text(json.dumps({k: v for k, v in told.items() if k != "text_only"}))
        calls = len(server.bodies)
        again = bench(job)
        assert len(server.bodies) == calls
    assert again["text_only"]["percent"] == told["text_only"]["percent"] == 50
    assert again["time"] == told["time"]


def test_what_is_left_out_of_a_language_without_tables_is_said(run):
    file = run / "prepare/conversations.jsonl"
    file.write_text(file.read_text().replace("Where is mass", "Wo liegt Rundherd"))
    notes = Notes()
    with Run(run) as opened:
        bench(Job(opened, recipe("http://127.0.0.1:9/v1", "judge.kind=reference"), notes))
    (said,) = [line for line in notes.lines if "neither in English nor in Chinese" in line]
    assert "no pairs of yes and no" in said


def test_the_rule_is_measured_without_a_network(run):
    with Run(run) as opened:
        found = bench(Job(opened, recipe("http://127.0.0.1:9/v1", "judge.kind=reference")))
    assert found["judge"] == "reference"
    assert found["accuracy"]["percent"] > 90


@pytest.fixture(scope="module")
def jury_run(_key, tmp_path_factory) -> Path:
    """Judged by two that know and one that likes the first."""
    run = make_run(tmp_path_factory.mktemp("jury") / "run")
    with ExitStack() as stack:
        replies = (knows, knows, likes_the_first)
        urls = [stack.enter_context(chat_server(reply)).url for reply in replies]
        jurors = [
            f"judge.jury.{name}={{model: {name}, base_url: '{url}'}}"
            for name, url in zip(("sees", "looks", "habit"), urls, strict=True)
        ]
        judge_run(run, urls[0], *jurors)
    return run


def test_a_jury_leaves_one_verdict_a_pair_and_keeps_every_vote(jury_run):
    stage = Run(jury_run).stage("judge")
    verdicts, votes = (stage.read(f"{n}.jsonl", Verdict) for n in ("verdicts", "votes"))
    assert len(verdicts) == 6
    assert len(votes) == 36
    assert {(v.judge, v.state) for v in verdicts} == {("jury", "ok")}
    winners = [v.winner for v in verdicts]
    assert winners == [0 if side(n) == "left" else 1 for n in range(6)]
    assert {v.judge for v in votes} == {"sees", "looks", "habit"}


def test_the_audit_of_a_jury_prints_agreement_and_writes_figures(jury_run):
    done = CliRunner().invoke(app, ["judge", "audit", str(jury_run)])
    assert done.exit_code == 0, done.output
    assert "sees" in done.output
    assert "Krippendorff" in done.output
    found = read_json(jury_run / "judge/audit.json")
    assert found["judges"]["jury"]["pairs"] == 6
    assert found["jury"]["judges"]["habit"]["consistency"]["same"]["percent"] == 0
    (known,) = [
        k for k in found["jury"]["panel"]["kappas"] if {k["a"], k["b"]} == {"looks", "sees"}
    ]
    assert known["kappa"] == 1
    assert (jury_run / "judge/figures/judge-habits.png").is_file()


def test_the_report_has_a_section_about_the_judge(jury_run):
    page = write_report(jury_run).read_text()
    section = page[page.index('id="judge"') : page.index('id="trained"')]
    assert "pairs with a winner" in section
    assert "judge-habits" in section


def test_labels_from_a_file_are_held_against_every_judge(jury_run, tmp_path):
    file = tmp_path / "labels.csv"
    lines = [f"p{n}/q0/d0-d1,d{int(side(n) == 'right')}" for n in range(6)]
    file.write_text("pair,winner\n" + "\n".join(lines))
    command = ["judge", "audit", str(jury_run), "--labels", str(file), "--json"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    found = json.loads(done.output)["calibration"]
    assert {name: one["accuracy_of_all"]["percent"] for name, one in found.items()} == {
        "habit": 0, "jury": 100, "looks": 100, "sees": 100,
    }  # fmt: skip
    assert found["habit"]["confusion"] == {"winner": {"inconsistent": 6}}


def test_an_audit_needs_verdicts(run):
    done = CliRunner().invoke(app, ["judge", "audit", str(run)])
    assert done.exit_code == 1
    assert "run the judge stage first" in str(done.exception)


TINY = {
    "phantom.train_images": 60, "phantom.unlabelled_images": 4, "phantom.dev_images": 2,
    "phantom.test_images": 2, "judge.bench_pairs": 80, "eval.grounding_images": 0,
}  # fmt: skip


def test_the_oracle_is_measured_on_drawn_pictures_from_the_command_line(tmp_path):
    run = tmp_path / "run"
    found = {}
    for accuracy in (1.0, 0.5):
        sets = [f"--set={k}={v}" for k, v in (TINY | {"phantom.judge_accuracy": accuracy}).items()]
        command = ["judge", "bench", "demo", "--run", str(run), *sets]
        done = CliRunner().invoke(app, [*command, "--json"])
        assert done.exit_code == 0, done.output
        found[accuracy] = json.loads(done.stdout[done.stdout.index("{") :])
    shown = CliRunner().invoke(app, [*command, "--set=judge.min_accuracy=0.7"])
    assert "does not reach judge.min_accuracy, 70 %" in shown.output
    assert "right without the image: the " in " ".join(shown.output.split())
    assert "at equal length (model; single verdicts)" in shown.output
    assert found[1.0]["text_only"]["percent"] == pytest.approx(50, abs=12)
    assert found[1.0]["lower_bound"] > 70
    low, high = found[0.5]["accuracy"]["clustered"]
    assert low < 50 < high

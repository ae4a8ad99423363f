"""What is wrong with the input is one line and exit code 2, or a counted, dropped record."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image as PILImage
from servers import chat_server

from stllava.config import Recipe
from stllava.errors import DataError, RecipeError, RunError
from stllava.files import write_json
from stllava.pipeline import Job, judge, prefer, prepare
from stllava.recipe import load_recipe
from stllava.records import Answers, Draw, Dropped, Image, Verdict
from stllava.run import Run


def picture(path: Path, color: str = "white") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.new("L", (24, 16), color).save(path)


def talk(image: str, question: str = "What is it?") -> dict:
    said = [{"from": "human", "value": f"<image>\n{question}"}, {"from": "gpt", "value": "A line."}]
    return {"id": f"c-{image}", "image": image, "conversations": said}


def llava_recipe(root: Path, records: list, **data: object) -> Recipe:
    file = root / "talk.json"
    file.write_text(json.dumps(records))
    sets = {"source": "llava", "root": str(root), "file": str(file), **data}
    return load_recipe("paper", [f"data.{key}={value}" for key, value in sets.items()])


def prepared(recipe: Recipe, run: Path) -> Job:
    with Run(run) as opened:
        job = Job(opened, recipe)
        prepare(job)
    return job


def test_missing_truncated_and_undecodable_images_are_dropped_with_what_hangs_off_them(tmp_path):
    picture(tmp_path / "good.png")
    picture(tmp_path / "cut.png")
    whole = (tmp_path / "cut.png").read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text.png").write_text("no picture")
    names = ["good.png", "cut.png", "text.png", "absent.png"]
    recipe = llava_recipe(tmp_path, [talk(name) for name in names], max_bad=1)
    job = prepared(recipe, tmp_path / "run")
    kept = job.stage("prepare").read("images.jsonl", Image)
    dropped = job.stage("prepare").read("dropped.jsonl", Dropped)
    assert [image.path for image in kept] == ["good.png"]
    for name in ("cut", "text", "absent"):
        assert any(name in f"{d.id} {d.reason}" for d in dropped)
    assert all(d.reason and "\n" not in d.reason for d in dropped)
    assert job.stage("prepare").summary["dropped"] == len(dropped)


def test_a_malformed_record_is_dropped_and_the_rest_goes_on(tmp_path):
    picture(tmp_path / "good.png")
    broken = {"id": "x", "image": "good.png", "conversations": "none"}
    recipe = llava_recipe(tmp_path, [talk("good.png"), broken, 7], max_bad=1)
    job = prepared(recipe, tmp_path / "run")
    assert job.stage("prepare").summary["conversations"] == 1
    assert job.stage("prepare").summary["dropped"] == 2


def test_more_bad_records_than_allowed_stop_the_run_before_anything_is_computed(tmp_path):
    picture(tmp_path / "good.png")
    recipe = llava_recipe(tmp_path, [talk("good.png"), talk("absent.png")], max_bad=0.1)
    with pytest.raises(DataError, match=r"unusable, more than data.max_bad=0.1 allows"):
        prepared(recipe, tmp_path / "run")
    assert not (tmp_path / "run/prepare/stage.json").exists()


def answered(run: Path, texts: list[str]) -> Run:
    """A run whose answer stage is complete, with one question."""
    opened = Run(run)
    picture(run / "pictures/a.png")
    stage = opened.stage("prepare")
    stage.begin(inputs=[], settings={"image_roots": {"data": str((run / "pictures").resolve())}})
    record = {"id": "a", "path": "a.png", "sha256": "0", "width": 24, "height": 16}
    stage.append("images.jsonl", Image(**record, group="a", source="folder"))
    stage.finish()
    stage = opened.stage("answer")
    stage.begin(inputs=[], settings={})
    draws = [Draw(request_id="a/q0", index=i, text=text) for i, text in enumerate(texts)]
    question = Answers(id="a/q0", image="a", question="What is it?", draws=tuple(draws))
    stage.append("answers.jsonl", question)
    stage.finish()
    return opened


def judging(url: str) -> Recipe:
    return load_recipe("improved", [f"judge.base_url={url}", "judge.model=m", "model.path=x"])


def test_a_judge_that_answers_garbage_makes_no_preference_and_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SENTINEL")
    with (
        chat_server(lambda prompt: "nan inf, as an artist I prefer blue") as server,
        answered(tmp_path / "run", ["A line.", "A dot."]) as opened,
    ):
        job = Job(opened, judging(server.url))
        judge(job)
        states = {v.state for v in job.stage("judge").read("verdicts.jsonl", Verdict)}
        assert states == {"unparsed"}
        with pytest.raises(RunError, match="no preference is left to train on"):
            prefer(job)
        assert (job.stage("prefer").path / "dropped.jsonl").read_text().count("\n") == 1


def test_verdicts_that_are_there_are_not_paid_for_again(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SENTINEL")
    asked = []
    with (
        chat_server(lambda prompt: asked.append(prompt) or "8 6") as server,
        answered(tmp_path / "run", ["A line.", "A dot."]) as opened,
    ):
        job = Job(opened, judging(server.url))
        judge(job)
        first = len(asked)
        (job.stage("judge").path / "stage.json").unlink()
        with (job.stage("judge").path / "verdicts.jsonl").open("ab") as file:
            file.write(b'{"id": "torn')
        judge(job)
        assert len(asked) == first == 2
        assert len(job.stage("judge").read("verdicts.jsonl", Verdict)) == 2


def test_images_do_not_leave_the_machine_unasked(tmp_path):
    with answered(tmp_path / "run", ["A line.", "A dot."]) as opened:
        job = Job(opened, judging("http://judge.example.org/v1"))
        with pytest.raises(Exception, match="images_are_deidentified"):
            judge(job)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (["data.source=folder", "data.root=EMPTY"], "EMPTY"),
        (["data.source=folder", "data.root=ABSENT"], "no such folder"),
        (["dpo.betta=1"], "did you mean 'beta'"),
        (["model.path=NOWHERE"], "model.path"),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_two(tmp_path, settings, says):
    (tmp_path / "EMPTY").mkdir()
    sets = [part for setting in settings for part in ("--set", setting)]
    command = [sys.executable, "-m", "stllava", "run", "demo", "--run", "run", *sets]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert says in done.stderr


def test_an_input_that_changed_makes_the_stage_refuse(tmp_path):
    with answered(tmp_path / "run", ["A line.", "A dot."]) as opened:
        stage = opened.stage("answer")
        write_json(tmp_path / "input.json", {"a": 1})
        with pytest.raises(RunError, match="made from other inputs"):
            stage.begin(inputs=[tmp_path / "input.json"], settings={})


def test_a_control_that_would_change_a_shared_stage_is_refused(tmp_path):
    recipe = load_recipe("demo", ["controls={longer: [sft.epochs=5]}"])
    with pytest.raises(RecipeError, match=r"controls.longer: sft.epochs=5: a control shares that"):
        list(Job(Run(tmp_path), recipe).controls())


def test_a_control_shares_every_stage_before_its_first_change(tmp_path):
    controls = {c.control: c for c in Job(Run(tmp_path), load_recipe("demo")).controls()}
    paths = {
        name: [controls[name].stage(stage).name for stage in ("answer", "judge", "dpo")]
        for name in ("random-judge", "sft-on-chosen")
    }
    assert paths["random-judge"][:2] == ["answer", "controls/random-judge/judge"]
    assert paths["sft-on-chosen"] == ["answer", "judge", "controls/sft-on-chosen/dpo"]

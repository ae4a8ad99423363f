"""Running models on benchmarks: views, prompts, endpoints, resuming, and the tables."""

from __future__ import annotations

import base64
import csv
import io
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from notes import Notes
from PIL import Image as PILImage
from servers import ChatServer, Reply, chat_server, failure

from stllava.config import Recipe
from stllava.errors import JudgeError, RecipeError, RunError
from stllava.files import write_json
from stllava.pipeline import Job, evaluate
from stllava.pipeline.evaluate.marks import mark_of
from stllava.pipeline.evaluate.views import BLANK_COLOR, partners, sampled_images
from stllava.prompts import benchmark_question
from stllava.records import Image, Prediction, VQASample
from stllava.report import write_report
from stllava.run import Run
from stllava.tables import build, write_tables
from stllava.tables.quoted import BENCHMARKS, NUM_CLOSED, TABLES, is_possible

SIDE = 24


def picture(number: int) -> Image:
    return Image(
        id=f"i{number}",
        path=f"prepare/images/i{number}.png",
        sha256=f"{number:064d}",
        width=SIDE + number,
        height=SIDE,
        group=f"g{number // 2}",  # two images a patient
        source="folder",
        root="run",
    )


def questions(number: int) -> list[VQASample]:
    common: dict[str, Any] = {"image": f"i{number}", "benchmark": "vqa-rad"}
    return [
        VQASample(
            id=f"i{number}/q0", question="Is it bright?", answer="yes" if number % 2 else "no",
            kind="closed", options=("yes", "no"), aliases=("Bright, is it?",), **common,
        ),
        VQASample(
            id=f"i{number}/q1", question="What is shown?", answer="the left lung",
            kind="open", **common,
        ),
    ]  # fmt: skip


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return prepare_run(tmp_path / "run")


def prepare_run(root: Path) -> Path:
    """A run whose prepare stage is complete: eight images, two questions each."""
    folder = root / "prepare/images"
    folder.mkdir(parents=True)
    images = [picture(number) for number in range(8)]
    for number, image in enumerate(images):
        level = 255 if number % 2 else 0
        PILImage.new("RGB", (image.width, image.height), (level,) * 3).save(root / image.path)
    samples = [sample for number in range(8) for sample in questions(number)]
    with Run(root) as run:
        stage = run.stage("prepare")
        stage.begin(inputs=[], settings={"image_roots": {"run": "."}})
        for name, records in (("images.jsonl", images), ("samples.jsonl", samples)):
            for record in records:
                stage.append(name, record)
        stage.create("conversations.jsonl")
        stage.finish_unit(0)
        stage.finish(conversations=0)
    return root


def recipe(server: ChatServer | None = None, unit_images: int = 8, **fields: Any) -> Recipe:
    section: dict[str, Any] = {"benchmark": "vqa-rad", "models": [], **fields}
    if server is not None:
        section["endpoints"] = {"api": {"base_url": server.url, "max_tries": 1, "concurrency": 1}}
    return Recipe.model_validate({"unit_images": unit_images, "eval": section})


def run_eval(root: Path, chosen: Recipe) -> list[str]:
    """Returns the notes."""
    notes = Notes()
    with Run(root) as run:
        run.start(chosen.dump())
        evaluate(Job(run, chosen, notes))
    return notes.lines


def scores_of(root: Path, view: str = "image") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / f"eval/api/vqa-rad/{view}/scores.json").read_text())
    return found


def shown(body: dict[str, Any]) -> PILImage.Image:
    """The picture of a request."""
    uri = body["messages"][0]["content"][0]["image_url"]["url"]
    return PILImage.open(io.BytesIO(base64.b64decode(uri.partition(",")[2])))


@contextmanager
def seeing_model() -> Iterator[ChatServer]:
    """It says what it sees: white is bright, black is not, anything else it cannot tell."""
    servers: list[ChatServer] = []

    def reply(prompt: str) -> Reply:
        if "What" in prompt:
            return "the left lung"
        level = shown(servers[0].bodies[-1]).getpixel((3, 3))[0]
        return "Yes." if level > 250 else "No." if level < 5 else "I cannot tell."

    with chat_server(reply) as server:
        servers.append(server)
        yield server


def test_every_view_is_scored_and_the_deltas_stand_beside_the_score(prepared: Path):
    with seeing_model() as server:
        notes = run_eval(prepared, recipe(server))
    assert notes[-1].startswith("api on vqa-rad (prompt plain): recall 100.0, F1 100.0, closed 100")
    assert "closed image − blank +100.0" in notes[-1]
    image = scores_of(prepared)
    assert image["closed"]["accuracy"] == 100
    assert scores_of(prepared, "blank")["closed"]["abstained"] == 8
    blank = image["grounding"]["blank"]
    assert (blank["metrics"]["accuracy"]["delta"], blank["metrics"]["recall"]["delta"]) == (100, 0)
    assert blank["same_answer"] == 50
    assert (blank["n"], blank["num_images"], blank["num_groups"]) == (16, 8, 4)
    low, high = image["grounding"]["other"]["metrics"]["accuracy"]["ci95"]
    assert low <= image["grounding"]["other"]["metrics"]["accuracy"]["delta"] <= high
    assert (image["prompt"], image["decoding"], image["view"]) == ("plain", "greedy", "image")
    assert image["blind_baselines"]["closed"]["yes"] == 50


def test_several_benchmarks_have_a_folder_each_that_names_a_split_other_than_test(prepared: Path):
    more = [s.model_copy(update={"benchmark": "slake", "id": f"{s.id}/s"}) for s in questions(3)]
    with (prepared / "prepare/samples.jsonl").open("a") as file:
        file.writelines(sample.model_dump_json() + "\n" for sample in more)
    also = [{"benchmark": "slake", "split": "validation"}]
    with seeing_model() as server:
        run_eval(prepared, recipe(server, also=also, prompts={"slake": "short"}, limit=4))
    found = json.loads((prepared / "eval/api/slake-validation/image/scores.json").read_text())
    assert (found["open"]["n"], found["closed"]["n"], found["prompt"]) == (1, 1, "short")
    assert scores_of(prepared)["open"]["n"] == 2
    text = (prepared / "eval/table.md").read_text()
    assert "| vqa-rad recall |" in text
    assert "| slake-validation closed |" in text
    assert "first 4 questions only" in text


def test_a_model_that_does_not_look_has_deltas_of_zero(prepared: Path):
    with chat_server(lambda prompt: "Yes") as server:
        run_eval(prepared, recipe(server))
    for view in scores_of(prepared)["grounding"].values():
        assert {figure["delta"] for figure in view["metrics"].values()} == {0}
        assert view["same_answer"] == 100


def test_the_blank_image_has_the_size_of_the_one_it_stands_for(prepared: Path):
    with seeing_model() as server:
        run_eval(prepared, recipe(server, grounding_images=1))
        pictures = [shown(body) for body in server.bodies[16:18]]
    kept = sampled_images([s for n in range(8) for s in questions(n)], 1, seed=0)
    for one in pictures:
        assert one.size == (SIDE + int(kept.copy().pop()[1:]), SIDE)
        assert one.getpixel((2, 2)) == pytest.approx(BLANK_COLOR, abs=2)


def test_one_image_alone_has_no_other_to_be_shown_instead(prepared: Path):
    with seeing_model() as server:
        run_eval(prepared, recipe(server, grounding_images=1))
    assert list(scores_of(prepared)["grounding"]) == ["blank"]


def test_grounding_can_be_switched_off(prepared: Path):
    with seeing_model() as server:
        run_eval(prepared, recipe(server, grounding_images=0))
        assert len(server.bodies) == 16
    assert scores_of(prepared)["grounding"] == {}


def test_a_partner_is_of_another_group_and_the_same_for_every_seeded_call():
    images = [picture(number) for number in range(9)]
    found = partners(images, seed=3)
    groups = {image.id: image.group for image in images}
    assert len(found) == 9
    assert all(groups[image] != groups[other] for image, other in found.items())
    assert found == partners(images, seed=3)
    assert any(found != partners(images, seed=seed) for seed in (4, 5, 6))


def test_a_picture_that_two_groups_share_is_no_partner():
    twins = [picture(0), picture(2).model_copy(update={"sha256": picture(0).sha256}), picture(4)]
    found = partners(twins, seed=0)
    assert (found["i0"], found["i2"]) == ("i4", "i4")


@pytest.mark.parametrize(
    ("template", "options", "end"),
    [
        ("plain", ("yes", "no"), "Is it?"),
        (
            "options",
            ("yes", "no"),
            "Is it? Please choose from the following two options: [yes, no]",
        ),
        ("options", ("a", "b", "c"), "Is it? Please choose from the following options: [a, b, c]"),
        ("options", (), "Is it?"),
        ("short", (), "Is it?\nAnswer the question using a single word or phrase."),
    ],
)
def test_prompt_templates(template: Any, options: tuple[str, ...], end: str):
    assert benchmark_question(template, "Is it?", options) == end


def test_the_prompt_of_a_benchmark_is_asked_recorded_and_part_of_the_plan(prepared: Path):
    with seeing_model() as server:
        run_eval(prepared, recipe(server, prompts={"vqa-rad": "options"}, grounding_images=0))
        asked = {body["messages"][0]["content"][1]["text"] for body in server.bodies}
        assert "Is it bright? Please choose from the following two options: [yes, no]" in asked
        assert scores_of(prepared)["prompt"] == "options"
        with pytest.raises(RunError, match="prompt"):
            run_eval(prepared, recipe(server, prompt="short", grounding_images=0))
    assert "prompt options" in (prepared / "eval/table.md").read_text()


def test_stress_views_reorder_options_and_reword_questions(prepared: Path):
    chosen = {"prompt": "options", "stress": ["shuffle", "rephrase"], "grounding_images": 0}
    with seeing_model() as server:
        run_eval(prepared, recipe(server, **chosen))
        asked = [body["messages"][0]["content"][1]["text"] for body in server.bodies[16:]]
    assert sum(text.endswith("[no, yes]") for text in asked) == 8
    assert sum(text.startswith("Bright, is it?") for text in asked) == 8
    stress = scores_of(prepared)["stress"]
    assert {name: view["n"] for name, view in stress.items()} == {"shuffle": 8, "rephrase": 8}
    assert "api: given − shuffle" in (prepared / "eval/table.md").read_text()


def test_an_interrupted_evaluation_asks_for_nothing_twice(prepared: Path):
    chosen: dict[str, Any] = {"grounding_images": 0, "unit_images": 2}
    with chat_server(lambda prompt: "Yes") as server:
        run_eval(prepared, recipe(server, **chosen))
        whole = {p.name: p.read_bytes() for p in (prepared / "eval/api/vqa-rad/image").iterdir()}
        folder = prepared / "eval/api/vqa-rad/image"
        (folder / "stage.json").unlink()
        lines = (folder / "progress.jsonl").read_text().splitlines(keepends=True)
        (folder / "progress.jsonl").write_text("".join(lines[:3]))
        server.bodies.clear()
        run_eval(prepared, recipe(server, **chosen))
        assert server.bodies == []
    for name in ("predictions.jsonl", "items.jsonl", "scores.json"):
        assert (folder / name).read_bytes() == whole[name]


def test_an_unanswered_question_is_missing_and_not_wrong(prepared: Path):
    def reply(prompt: str) -> Reply:
        return failure(500) if "What" in prompt else "yes"

    with chat_server(reply) as server:
        run_eval(prepared, recipe(server, grounding_images=0))
    found = scores_of(prepared)
    assert (found["open"]["n"], found["open"]["missing"], found["missing"]) == (0, 8, 8)
    assert found["closed"]["accuracy"] == 50


def test_leaked_questions_are_flagged_and_scored_apart(prepared: Path):
    write_json(prepared / "prepare/leaks.json", {"i0/q0": "same image", "i1/q0": "near image"})
    with seeing_model() as server:
        run_eval(prepared, recipe(server, grounding_images=0))
    found = scores_of(prepared)
    assert found["leaked"] == 2
    assert found["by_leak"]["leaked"]["closed"]["n"] == 2


def test_a_judge_marks_open_answers_beside_recall_and_sees_no_image(prepared: Path):
    def mark(prompt: str) -> Reply:
        return failure(500) if "Is it bright" in prompt else "2" if "left" in prompt else "unsure"

    with chat_server(lambda prompt: "left, I think") as model, chat_server(mark) as judge:
        section = {"base_url": judge.url, "model": "other-judge", "max_tries": 1}
        run_eval(prepared, recipe(model, judge=section, grounding_images=0))
        assert len(judge.bodies) == 1  # the eight open questions and their answers are alike
        assert all(isinstance(b["messages"][0]["content"], str) for b in judge.bodies)
    found = scores_of(prepared)
    assert found["judged"] == {
        "judge": "other-judge", "n": 8, "without_mark": 0, "mean": 100.0, "ci95": [100.0, 100.0]
    }  # fmt: skip
    assert found["open"]["recall"] == 50
    text = (prepared / "eval/table.md").read_text()
    assert "| vqa-rad judged |" in text
    assert "judged by other-judge, beside recall and F1" in text


@pytest.mark.parametrize(
    ("reply", "mark"),
    [
        ("2", 100),
        ("1.", 50),
        ("Mark: 0", 0),
        ("1 or 2", None),
        ("10", None),
        ("0.5", None),
        ("", None),
    ],
)
def test_a_mark_is_one_of_three_numbers_or_none(reply: str, mark: float | None):
    assert mark_of(Prediction(id="x", text=reply)) == mark
    assert mark_of(Prediction(id="x", text=reply, finish="refused")) is None


REMOTE = {"base_url": "https://api.example.org/v1", "model": "far"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"endpoints": {"far": REMOTE}}, "eval.endpoints.far: images would leave this machine"),
        ({"stress": ["shuffle"]}, "eval.stress: shuffle reorders options"),
        ({"prompts": {"slake": "short"}}, "eval.prompts.slake: no such benchmark"),
        ({"judge": {"base_url": "http://localhost/v1"}}, "gpt-4o labelled the preferences"),
        ({"judge": REMOTE}, "eval.judge: texts would leave this machine"),
    ],
)
def test_what_cannot_be_carried_out_is_refused_at_once(
    prepared: Path, fields: dict[str, Any], said: str
):
    with pytest.raises(RecipeError, match=re.escape(said)):
        run_eval(prepared, recipe(**fields))
    assert not (prepared / "eval").exists()


@pytest.mark.parametrize("name", ["dpo", "a/b", "..", ""])
def test_a_model_name_is_a_folder_name_and_no_other_models(name: str):
    with pytest.raises(ValueError, match=r"names two models|pattern"):
        recipe(checkpoints={name: "somewhere"})


def test_a_refused_key_names_the_endpoint_and_not_the_key(prepared: Path, monkeypatch: Any):
    monkeypatch.setenv("OPENAI_API_KEY", "sk-SENTINEL")
    with (
        chat_server(lambda prompt: failure(401)) as server,
        pytest.raises(JudgeError, match=r"model gpt-4o: 401 .*--set eval\.endpoints\.api\.model"),
    ):
        run_eval(prepared, recipe(server))
    assert all(b"SENTINEL" not in p.read_bytes() for p in prepared.rglob("*") if p.is_file())


@pytest.mark.slow
def test_any_policy_checkpoint_answers_and_shares_an_image_between_its_questions(prepared: Path):
    chosen = recipe(checkpoints={"other-policy": "base-prototype"}, max_tokens=4)
    run_eval(prepared, chosen.model_copy(update={"model": chosen.model}))
    for view in ("image", "blank", "other"):
        folder = prepared / "eval/other-policy/vqa-rad" / view
        predictions = (folder / "predictions.jsonl").read_text().splitlines()
        assert len(predictions) == 16
        assert all(Prediction.model_validate_json(line).num_tokens for line in predictions)


def scored_run(root: Path, *, source: str = "llava") -> Path:
    """Evaluations of two models on two benchmarks, as eval leaves them."""
    write = {"data": {"source": source}}
    root.mkdir(parents=True, exist_ok=True)
    (root / "recipe.yaml").write_text(json.dumps(write))
    for shift, model in enumerate(("sft", "base")):
        for benchmark in ("slake", "vqa-rad"):
            folder = root / f"eval/{model}/{benchmark}/image"
            folder.mkdir(parents=True)
            delta = {"n": 100, "delta": -1.25, "ci95": [-3.0, 0.5]}
            part = {
                "open": {"n": 179, "recall": 30.0 + shift, "f1": 10.0,
                         "ci95": {"recall": [25.0, 35.0], "f1": None}},
                "closed": {"n": 272, "accuracy": 60.0, "ci95": {"accuracy": [55.0, 65.0]}},
                "blind_baselines": {
                    "open": {"n": 179, "majority": {"recall": 12.0, "f1": 11.0}},
                    "closed": {"n": 272, "yes": 43.4, "yes_there_is_no": 10.0,
                               "best_constant": {"answer": "no", "accuracy": 48.9}},
                },
            }  # fmt: skip
            scores = {
                **part, "prompt": "plain", "max_tokens": 64,
                "as_published": {**part, "mode": "llavamed-batch"},
                "grounding": {"blank": {"metrics": {"accuracy": delta}}}, "stress": {},
            }  # fmt: skip
            write_json(folder / "scores.json", scores)
            write_json(folder / "stage.json", {"seconds": 1.0})
    return root


def test_the_table_has_the_papers_layout_and_what_must_stand_beside(tmp_path: Path):
    table = write_tables(scored_run(tmp_path / "run"))
    assert table is not None
    assert (table.layout, table.benchmarks) == (2, ("vqa-rad", "slake"))
    kinds = [row.kind for row in table.rows]
    assert kinds == sorted(kinds, key=["model", "blind", "delta", "published", "quoted"].index)
    assert [row.name for row in table.rows][:2] == ["base", "sft"]
    text = (tmp_path / "run/eval/table.md").read_text()
    assert "| sft | 30.0 [25.0, 35.0] | 10.0 | 60.0 [55.0, 65.0] |" in text
    assert "| always “yes” |  |  | 43.4 |" in text
    assert "base: image − blank" in text
    assert "quoted from the paper, not measured" in text
    assert text.count("‡") == 3  # two values and what the mark means


def test_answers_that_a_judge_left_without_a_mark_are_counted_under_the_table(tmp_path: Path):
    run = scored_run(tmp_path / "run")
    file = run / "eval/sft/vqa-rad/image/scores.json"
    judged = {"judge": "j", "n": 0, "without_mark": 8, "mean": None, "ci95": None}
    write_json(file, {**json.loads(file.read_text()), "judged": judged})
    table = write_tables(run)
    assert table is not None
    assert any(note.startswith("vqa-rad: 8 answers have no mark") for note in table.notes)


def test_a_run_that_trained_on_a_benchmarks_questions_stands_beside_table_4(tmp_path: Path):
    table = build(scored_run(tmp_path / "run", source="vqa-rad"))
    assert table is not None
    assert table.layout == 4
    quoted = [row for row in table.rows if row.kind == "quoted"]
    assert quoted[-1].cells["vqa-rad", "recall"].value == 52.60


def test_only_two_values_of_the_papers_tables_are_impossible():
    wrong = {
        value
        for rows in TABLES.values()
        for row in rows
        for number, value in enumerate(row.values)
        if number % 3 == 2 and not is_possible(value, NUM_CLOSED[BENCHMARKS[number // 3]])
    }
    assert wrong == {59.16, 60.35}


def test_csv_and_json_hold_the_figures_of_the_page(tmp_path: Path):
    root = scored_run(tmp_path / "run")
    write_tables(root)
    rows = list(csv.DictReader((root / "eval/table.csv").read_text().splitlines()))
    assert rows[1]["row"] == "sft"
    assert float(rows[1]["vqa-rad recall"]) == 30.0
    assert (rows[1]["vqa-rad recall low"], rows[1]["vqa-rad recall n"]) == ("25.0", "179")
    marked = {row["row"] for row in rows if "vqa-rad closed" in row["impossible"]}
    assert marked == {"STLLaVA-Med", "STLLaVA-Med w/o DPO"}
    data = json.loads((root / "eval/table.json").read_text())
    assert data["rows"][1]["benchmarks"]["vqa-rad"]["recall"]["ci95"] == [25.0, 35.0]


def test_latex_has_as_many_cells_in_every_row_and_no_bare_special_sign(tmp_path: Path):
    root = scored_run(tmp_path / "run")
    write_tables(root)
    lines = (root / "eval/table.tex").read_text().splitlines()
    body = [line for line in lines if line.endswith(r"\\") and "multicolumn" not in line]
    assert {line.count("&") for line in body} == {6}
    assert not any(re.search(r"(?<!\\)[_%#]", line) for line in body)


def test_an_incomplete_or_damaged_evaluation_is_left_out_of_the_table(tmp_path: Path):
    root = scored_run(tmp_path / "run")
    (root / "eval/sft/slake/image/stage.json").unlink()
    (root / "eval/base/slake/image/scores.json").write_text('{"open": 3, "closed": [')
    table = build(root)
    assert table is not None
    assert table.benchmarks == ("vqa-rad",)
    assert build(tmp_path / "nothing") is None


def test_the_report_shows_the_table(tmp_path: Path):
    page = write_report(scored_run(tmp_path / "run")).read_text()
    for text in ("image − blank", "quoted from the paper, not measured", "59.16‡"):
        assert text in page

"""Several sources and benchmarks in one run: images meet once, ids never collide."""

import json
from pathlib import Path

import pytest
from PIL import Image as PILImage

from stllava.errors import DataError, RecipeError
from stllava.pipeline import Job, ask, prefer, prepare, sft
from stllava.pipeline.prepare.gather import gather
from stllava.pipeline.prepare.places import image_roots
from stllava.recipe import load_recipe
from stllava.records import (
    Conversation,
    Dropped,
    Image,
    Preference,
    Question,
    Split,
    VQASample,
)
from stllava.run import Run


def picture(path: Path, color: int = 200) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    PILImage.linear_gradient("L").point(lambda v: (v + color) % 256).resize((40, 32)).save(path)


def talks(path: Path, *images: str) -> Path:
    said = [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A line."}]
    records = [{"id": f"c{n}", "image": i, "conversations": said} for n, i in enumerate(images)]
    path.write_text(json.dumps(records))
    return path


def samples(path: Path, *images: str) -> Path:
    lines = [
        VQASample(id=f"{i}/q", image=i, question="Is it?", answer="yes", kind="closed")
        for i in images
    ]
    path.write_text("".join(line.model_dump_json() + "\n" for line in lines))
    return path


@pytest.fixture
def two_folders(tmp_path):
    """Two data sets whose images have the same names."""
    for name, color in (("a", 10), ("b", 120)):
        picture(tmp_path / name / "1.png", color)
        talks(tmp_path / f"{name}.json", "1.png")
    return tmp_path


def recipe_of(root: Path, *overrides: str):
    first = [f"data.root={root / 'a'}", f"data.file={root / 'a.json'}", "data.source=llava"]
    return load_recipe("paper", [*first, *overrides])


def second(root: Path) -> str:
    place = {"source": "llava", "root": str(root / "b"), "file": str(root / "b.json")}
    return f"data.also={json.dumps([place])}"


def test_ids_of_a_second_folder_begin_with_its_name(two_folders):
    found = gather(recipe_of(two_folders, second(two_folders)), two_folders / "run")
    assert [image.id for image in found.images] == ["1", "llava#2/1"]
    assert [c.image for c in found.conversations] == ["1", "llava#2/1"]
    assert len({c.id for c in found.conversations}) == 2


def test_each_image_is_opened_from_its_own_folder(two_folders):
    with Run(two_folders / "run") as opened:
        job = Job(opened, recipe_of(two_folders, second(two_folders)))
        prepare(job)
        one, two = job.open_image("1"), job.open_image("llava#2/1")
    assert one.getpixel((0, 0)) != two.getpixel((0, 0))


def test_the_same_folder_under_two_names_is_one_place(two_folders):
    again = two_folders / "b" / ".." / "a"
    place = {"source": "llava", "root": str(again), "file": str(two_folders / "a.json")}
    recipe = recipe_of(two_folders, f"data.also={json.dumps([place])}")
    assert len(gather(recipe, two_folders / "run").images) == 1
    assert len(image_roots(recipe)) == 2  # the run itself, and that folder


def test_a_source_without_a_folder_is_one_line(tmp_path):
    with pytest.raises(RecipeError, match=r"data.root: not set; give the folder"):
        gather(load_recipe("paper", ["data.source=folder"]), tmp_path)
    with pytest.raises(DataError, match="no such folder"):
        gather(load_recipe("paper", ["data.root=absent"]), tmp_path)


def test_the_drawn_world_is_not_mixed_with_other_data(two_folders):
    recipe = load_recipe("demo", [second(two_folders)])
    with Run(two_folders / "run") as opened, pytest.raises(RecipeError, match=r"data\.also"):
        prepare(Job(opened, recipe))


def test_official_vqa_rad_trains_and_tests_on_one_set_of_images(data_root, tmp_path):
    recipe = load_recipe("vqa-rad-cpu", [f"data.root={data_root / 'vqa_rad'}"])
    found = gather(recipe, tmp_path / "run")
    assert sum(len(c.turns) for c in found.conversations) == 1797
    assert len(found.samples) == 451
    assert {s.benchmark for s in found.samples} == {"vqa-rad"}
    parts = [image.part for image in found.images]
    assert (parts.count("train"), parts.count("test")) == (313, 1)


def test_two_benchmarks_of_other_data_stand_beside_each_other(data_root, tmp_path):
    places = [{"benchmark": "slake", "root": str(data_root / "slake"), "split": "validation"}]
    recipe = load_recipe(
        "vqa-rad-cpu",
        [f"data.root={data_root / 'vqa_rad'}", f"eval.also={json.dumps(places)}"],
    )
    found = gather(recipe, tmp_path / "run")
    by_name = {
        name: [s for s in found.samples if s.benchmark == name] for name in ("vqa-rad", "slake")
    }
    assert (len(by_name["vqa-rad"]), len(by_name["slake"])) == (451, 1053)
    known = {image.id for image in found.images}
    assert all(sample.image in known for sample in found.samples)
    assert all(sample.image.startswith("slake/") for sample in by_name["slake"])


def test_a_folder_of_images_is_enough_to_ask(tmp_path):
    for number in range(3):
        picture(tmp_path / f"images/{number}.png", 60 * number)
    overrides = [
        "data.source=folder", f"data.root={tmp_path / 'images'}", "model.path=base-mlp",
        "model.device=cpu", "model.precision=fp32", "ask.max_tokens=24", "ask.speaker=asker",
        "ask.temperature=0.7", "model.threads=1",
    ]  # fmt: skip
    with Run(tmp_path / "run") as opened:
        job = Job(opened, load_recipe("improved", overrides))
        prepare(job)
        sft(job)
        assert job.checkpoint("sft") == job.base_path
        ask(job)
        asked = job.stage("ask").read("questions.jsonl", Question)
    assert not (tmp_path / "run/sft").exists()
    assert asked
    assert {question.image for question in asked} <= {"0", "1", "2"}


def test_splits_name_every_image_once(two_folders):
    test = samples(two_folders / "test.jsonl", "2")
    picture(two_folders / "a/2.png")
    recipe = recipe_of(two_folders, "eval.benchmark=jsonl", f"eval.file={test}")
    with Run(two_folders / "run") as opened:
        job = Job(opened, recipe)
        prepare(job)
        images = job.stage("prepare").read("images.jsonl", Image)
        splits = job.stage("prepare").read("splits.jsonl", Split)
        kept = job.stage("prepare").read("samples.jsonl", VQASample)
        job.stage("prepare").read("conversations.jsonl", Conversation)
    assert {s.image: s.split for s in splits} == {"1": "train", "2": "test"}
    assert {image.id for image in images} == {"1", "2"}
    assert [sample.image for sample in kept] == ["2"]


def test_pairs_of_others_go_straight_to_stage_two(two_folders):
    pairs = [
        {"q": "What is shown?", "img": "1.png", "p": "A line.", "r": "A dog."},
        {"q": "What is shown?", "img": "absent.png", "p": "A line.", "r": "A dog."},
    ]
    file = two_folders / "pairs.json"
    file.write_text(json.dumps(pairs))
    place = {"form": "judge-output", "file": str(file), "root": str(two_folders / "b")}
    recipe = recipe_of(two_folders, f"data.preferences={json.dumps(place)}", "data.max_bad=1")
    with Run(two_folders / "run") as opened:
        job = Job(opened, recipe)
        prepare(job)
        prefer(job)
        kept = job.stage("prefer").read("preferences.jsonl", Preference)
        dropped = job.stage("prepare").read("dropped.jsonl", Dropped)
    assert [(p.image, p.chosen.text, p.rejected.text) for p in kept] == [
        ("judge-output/1", "A line.", "A dog.")
    ]
    assert len(dropped) == 1
    assert "absent.png" in dropped[0].reason


def test_two_files_about_one_folder_may_number_their_records_alike(two_folders):
    more = talks(two_folders / "more.json", "1.png")  # its record is called c0, too
    place = {"source": "llava", "root": str(two_folders / "a"), "file": str(more)}
    recipe = recipe_of(two_folders, f"data.also={json.dumps([place])}")
    found = gather(recipe, two_folders / "run")
    assert [c.id for c in found.conversations] == ["c0", "c0#2"]
    assert found.repairs["llava#2"] == {"id that another file has numbered": 1}


def table_of(root: Path, rows: list[str], *overrides: str):
    (root / "train.csv").write_text("\n".join(["image,question,answer,modality", *rows]))
    columns = "data.columns={modality: modality}"
    given = [f"data.root={root}", "data.source=table", columns, *overrides]
    return load_recipe("paper", given)


def test_a_few_bad_rows_about_few_images_do_not_stop_a_run(tmp_path):
    picture(tmp_path / "1.png")
    rows = [f"1.png,Question {n}?,answer {n},CT" for n in range(96)]
    empty = ["1.png,What?,,CT"] * 4
    with Run(tmp_path / "run") as opened:
        job = Job(opened, table_of(tmp_path, rows + empty))
        prepare(job)
        assert job.stage("prepare").summary["dropped"] == 4
    with Run(tmp_path / "other") as opened, pytest.raises(DataError, match="12 of 108 images and"):
        prepare(Job(opened, table_of(tmp_path, rows + 3 * empty)))


def test_many_rows_do_not_hide_that_half_of_the_images_are_bad(tmp_path):
    picture(tmp_path / "1.png")
    (tmp_path / "2.png").write_text("no picture")
    rows = [f"{n % 2 + 1}.png,Question {n}?,answer {n},CT" for n in range(100)]
    with Run(tmp_path / "run") as opened, pytest.raises(DataError, match="1 of 2 images are"):
        prepare(Job(opened, table_of(tmp_path, rows)))


def test_a_sample_has_every_modality_in_its_share_and_only_its_own_pairs(tmp_path):
    for number in range(12):
        picture(tmp_path / f"{number}.png", 20 * number)
    rows = [f"{n}.png,What?,lung,{'MR' if n < 3 else 'CT'}" for n in range(12)]
    pairs = [{"q": "What?", "img": f"{n}.png", "p": "A lung.", "r": "A dog."} for n in range(12)]
    (tmp_path / "pairs").mkdir()
    file = tmp_path / "pairs/pairs.json"
    file.write_text(json.dumps(pairs))
    place = {"form": "judge-output", "file": str(file), "root": str(tmp_path)}
    more = ["data.sample=4", f"data.preferences={json.dumps(place)}"]
    with Run(tmp_path / "run") as opened:
        job = Job(opened, table_of(tmp_path, rows, *more))
        prepare(job)
        kept = {image.id for image in job.stage("prepare").read("images.jsonl", Image)}
        used = {p.image for p in job.stage("prepare").read("preferences.jsonl", Preference)}
        assert job.stage("prepare").summary["dropped"] == 0
    assert len(kept) == 4
    assert len(kept & {"0", "1", "2"}) == 1
    assert used == kept

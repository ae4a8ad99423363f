"""`stllava data check` and `data stats` as a user meets them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import yaml
from PIL import Image as PILImage
from PIL.PngImagePlugin import PngInfo
from test_checks import TURN, image, pair, sample, talk
from test_cli import assert_refused, stllava
from typer.testing import CliRunner

from stllava.checks import check
from stllava.checks.material import Material
from stllava.checks.stats import stats
from stllava.checks.tables import markdown, tables
from stllava.cli import app
from stllava.cli.console import Bars
from stllava.cli.data_material import material_of
from stllava.errors import DataError, RecipeError, RunError
from stllava.records import Split, VQASample


def data(*args):
    return CliRunner().invoke(app, ["data", *map(str, args)])


def noise(path: Path, side=48):
    PILImage.effect_noise((side, side), 90).convert("RGB").save(path)


@pytest.fixture
def llava(tmp_path: Path) -> Path:
    """A recipe with four images, six QA pairs, and a benchmark about two further images."""
    root = tmp_path / "data"
    root.mkdir()
    for name in ("a", "b", "c", "d", "e", "f"):
        noise(root / f"{name}.png")
    rows = [
        {"id": name, "image": f"{name}.png", "conversations": turns}
        for name, turns in {
            "a": [*said("What is it?", "A scan of noise."), *said("Is it a CT?", "No")],
            "b": [*said("What is it?", "Noise"), *said("Where?", "Here"), *said("Is it?", "Yes")],
            "c": said("What is it?", "Also noise"),
            "gone": said("What is it?", "Nothing"),
        }.items()
    ]
    (root / "talk.json").write_text(json.dumps(rows))
    samples = [sample("e", "Is it big?", "No"), sample("f", "Who is it?", "A ghost")]
    write_samples(root, samples)
    recipe = {
        "data": {"source": "llava", "root": str(root), "file": str(root / "talk.json")},
        "eval": {"benchmark": "jsonl", "file": str(root / "samples.jsonl")},
    }
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "mine.yaml"


def said(question, answer):
    return [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]


def write_samples(root: Path, samples):
    lines = "".join(one.model_dump_json(exclude_defaults=True) + "\n" for one in samples)
    (root / "samples.jsonl").write_text(lines)


def found(done):
    """Findings by code of a --json reply."""
    return {one["code"]: one for one in json.loads(done.stdout)["findings"]}


def test_a_recipe_without_blocking_findings_exits_with_0(llava: Path):
    done = data("check", llava, "--json")
    assert done.exit_code == 0
    assert found(done)["missing-images"]["examples"] == ["talk.json[3]"]
    assert found(done)["answer-priors"]["count"] == 0
    assert "files-not-looked-at" not in found(done)
    assert json.loads(done.stdout)["counts"]["turns"] == 6


def test_a_leaked_question_exits_with_1_and_is_shown_to_people(llava: Path):
    root = llava.parent / "data"
    shutil.copy(root / "a.png", root / "e.png")
    write_samples(root, [sample("e", "is it a CT", "No"), sample("f")])
    done = data("check", llava)
    assert done.exit_code == 1
    text = " ".join(done.stdout.split())
    assert "block leak-question 1 1 of 2 questions of jsonl" in text
    assert "duplicate-files" in text
    assert "1 finding blocks" in text
    assert json.loads(data("check", llava, "--json").stdout)["leaks"] == {"e/t0": "question"}


def test_text_in_a_file_is_found_and_never_printed(llava: Path):
    text = PngInfo()
    text.add_text("Comment", "Jane Roe 1956-04-12")
    with PILImage.open(llava.parent / "data" / "a.png") as opened:
        opened.save(llava.parent / "data" / "a.png", pnginfo=text)
    done = data("check", llava, "--json", "--no-pixels")
    assert found(done)["private-text"]["examples"] == ["a"]
    assert "Roe" not in done.stdout
    assert "1956" not in done.stdout


def test_a_dicom_header_is_found_attribute_by_attribute_and_its_patient_is_the_group(tmp_path):
    pydicom = pytest.importorskip("pydicom")
    from pydicom.data import get_testdata_file

    for number in range(2):
        dataset = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
        dataset.PatientName, dataset.PatientID = "Roe^Jane", "MRN-778899"
        dataset.BurnedInAnnotation = "YES"
        dataset.PixelData = bytes(number) + dataset.PixelData[number:]  # not the same picture
        dataset.save_as(tmp_path / f"{number}.dcm")
    (tmp_path / "r.yaml").write_text(f"data: {{source: folder, root: {tmp_path}}}")
    done = data("check", tmp_path / "r.yaml", "--json")
    assert done.exit_code == 1
    assert found(done)["private-dicom-patient"]["count"] == 2
    assert found(done)["private-dicom-burned-in"]["severity"] == "block"
    assert "groups-not-known" not in found(done)
    assert "PatientName" in done.stdout
    assert "Roe" not in done.stdout
    assert "778899" not in done.stdout


def run_directory(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "prepare"
    folder.mkdir(parents=True)
    noise(tmp_path / "a.png")
    records = {
        "images.jsonl": [image("a"), image("b")],
        "conversations.jsonl": [talk("a", TURN)],
        "samples.jsonl": [sample("b", *TURN)],
        "splits.jsonl": [Split(image="a", group="a", split="train")],
    }
    for name, lines in records.items():
        text = "".join(one.model_dump_json(exclude_defaults=True) + "\n" for one in lines)
        (folder / name).write_text(text)
    plan = {"settings": {"image_roots": {"data": str(tmp_path)}}}
    (folder / "plan.json").write_text(json.dumps(plan))
    return folder.parent


def test_a_run_is_checked_by_its_records_and_the_files_that_are_still_there(tmp_path: Path):
    run = run_directory(tmp_path)
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text(pair("b", *TURN, "No").model_dump_json() + "\n")
    done = data("check", run, "--preferences", pairs, "--json")
    assert done.exit_code == 1
    assert found(done)["preference-leak-question"]["severity"] == "block"
    assert found(data("check", run / "prepare", "--json")).keys() < found(done).keys()


def test_wrong_use_is_one_line_and_exit_code_2(tmp_path: Path):
    assert_refused(stllava("data", "check", "demo"), "demo: draws its images", "prepare")


@pytest.mark.parametrize(
    ("args", "error", "says"),
    [
        (("nothing",), RecipeError, "no such recipe"),
        ((".",), RunError, r"no prepare/images\.jsonl"),
        (("run", "--set", "seed=1"), DataError, "--set changes a recipe"),
        (("run", "--preferences", "gone.jsonl"), DataError, "gone.jsonl: no such file"),
    ],
)
def test_what_cannot_be_checked_is_said(tmp_path, monkeypatch, args, error, says):
    run_directory(tmp_path)
    monkeypatch.chdir(tmp_path)
    done = data("check", *args)
    assert isinstance(done.exception, error)
    with pytest.raises(error, match=says):
        raise done.exception


# ---- stats


def test_stats_count_images_pairs_turns_words_and_kinds_without_opening_an_image(llava: Path):
    for file in (llava.parent / "data").glob("*.png"):
        file.write_bytes(b"")
    done = data("stats", llava, "--json")
    assert done.exit_code == 0
    counted = json.loads(done.stdout)
    assert counted["training"] == {
        **counted["sources"][0], "name": "all", "images": 3, "qa_pairs": 6, "conversations": 3,
        "most_turns": 3, "question_words": 16, "answer_words": 10, "question_tokens": None,
        "answer_tokens": None, "open": 4, "closed": 2, "by_answer_text": 6,
    }  # fmt: skip
    assert [(row["name"], row["images"], row["open"]) for row in counted["benchmarks"]] == [
        ("jsonl test", 2, 2)
    ]


def test_stats_print_the_papers_tables(llava: Path):
    lines = data("stats", llava).stdout.splitlines()
    assert any(line.split() == ["this", "data", "3", "6"] for line in lines)
    assert any("STLLaVA-Med (paper)" in line and "108,545" in line for line in lines)
    text = data("stats", llava, "--markdown").stdout
    assert "**Table 3: training data by source**\n\n| Source | #Images | #QA-Pairs |" in text
    assert "\n| llava | 3 | 6 |\n" in text


def test_real_vqa_rad_has_the_papers_images_and_the_published_kinds(vqa_rad_root: Path):
    done = data("stats", "vqa-rad-cpu", "--set", f"data.root={vqa_rad_root}", "--json")
    counted = json.loads(done.stdout)
    (row,) = counted["sources"]
    assert (row["images"], row["qa_pairs"]) == (313, 1797)
    assert (row["open"], row["closed"], row["by_answer_text"]) == (770, 1027, 0)
    assert [(b["images"], b["open"], b["closed"]) for b in counted["benchmarks"]] == [
        (203, 179, 272)
    ]


def test_tokens_are_counted_where_a_tokenizer_is_given(llava: Path):
    pytest.importorskip("tokenizers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({"?": 0}, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # signs are tokens of their own
    tokenizer.save(str(llava.parent / "tokenizer.json"))
    counted = json.loads(data("stats", llava, "--tokenizer", llava.parent, "--json").stdout)
    assert counted["training"]["question_tokens"] == 16 + 6
    assert "tokens" in data("stats", llava, "--tokenizer", llava.parent).stdout
    done = data("stats", llava, "--tokenizer", llava.parent / "data")
    assert isinstance(done.exception, DataError)


def test_an_image_in_two_sources_counts_once_in_all():
    images = [image("a", pixels="p"), image("b", pixels="p").model_copy(update={"source": "x"})]
    counted = stats(Material(images, [talk("a", TURN), talk("b", TURN)]))
    assert [(row.name, row.images) for row in counted.sources] == [("folder", 1), ("x", 1)]
    assert (counted.training.images, counted.training.qa_pairs) == (1, 2)
    assert len(list(tables(counted))) == 3
    assert "| all | 2 | 1.00 |" in markdown(counted)


def test_annotated_questions_keep_their_kind():
    noted = VQASample(id="s", image="a", question=TURN[0], answer="yes", kind="open")
    counted = stats(Material([image("a")], [talk("a", TURN)], annotated=[noted]))
    assert (counted.training.open, counted.training.by_answer_text) == (1, 0)
    assert "not annotated" in markdown(stats(Material([image("a")], [talk("a", TURN)])))


@pytest.mark.parametrize(("restated", "leaked"), [("false", 2), ("true", 286)])
def test_real_vqa_rad_is_checked_as_the_recipe_reads_it(vqa_rad_root: Path, restated, leaked):
    overrides = [f"data.root={vqa_rad_root}", f"data.restated={restated}"]
    material = material_of("vqa-rad-cpu", overrides, Bars(), open_images=False)
    report = check(material)
    assert report.of("leak-question").count == leaked
    assert report.blocks == (restated == "true")
    assert report.of("files-not-looked-at").severity == "note"

"""stllava.benchmarks.open: every form of a benchmark, on the real files and on small ones."""

from __future__ import annotations

import io
import json
import pickle
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image as PILImage

from stllava.benchmarks import Benchmark
from stllava.benchmarks.open import read_benchmark
from stllava.config import BenchmarkSection, SourceSection
from stllava.errors import DataError, RecipeError
from stllava.metrics.closed import closed_correct
from stllava.records import VQASample
from stllava.sources.open import read_source


def read(benchmark: str, root: Path | None = None, *, images: bool = True, **fields) -> Benchmark:
    extract_to = fields.pop("extract_to", None)
    place = {"root": str(root)} if root is not None else {}
    section = BenchmarkSection(benchmark=benchmark, **place, **fields)
    return read_benchmark(section, images=images, extract_to=extract_to)


def write_json(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def write_lines(path: Path, *rows: dict) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("a.png", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    return tmp_path


def kinds(found: Benchmark) -> tuple[int, int]:
    counts = Counter(sample.kind for sample in found.samples)
    return counts["open"], counts["closed"]


def assert_consistent(found: Benchmark) -> None:
    assert len({sample.id for sample in found.samples}) == len(found.samples)
    assert {sample.image for sample in found.samples} <= {image.id for image in found.images}
    if found.root is not None:
        assert all((found.root / image.path).is_file() for image in found.images)


# Published sets, real files


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({"root": "vqa_rad"}, "official"),
        ({"root": "vqa_rad", "file": "VQA_RAD Dataset Public.json"}, "official"),
        ({"file": "vqa_rad/VQA_RAD Dataset Public.json"}, "official"),
        ({"file": "vqa_rad/testset.json"}, "mevf"),
        ({"root": "vqa_rad/testset.json"}, "mevf"),
    ],
)
@pytest.mark.parametrize("images", [True, False])
def test_real_vqa_rad_test_set_is_179_open_and_272_closed_in_both_forms(
    data_root: Path, fields: dict, name: str, images: bool
):
    fields = {
        key: str(data_root / value) if "vqa_rad" in value else value
        for key, value in fields.items()
    }
    found = read("vqa-rad", images=images, **fields)
    assert kinds(found) == (179, 272)
    assert len(found.images) == 203
    assert (found.root is not None) == images
    assert ("mevf" in found.samples[0].id) == (name == "mevf")
    assert not any("not 179" in warning for warning in found.warnings)
    assert_consistent(found)


def test_real_hub_text_has_200_open_and_251_closed_by_answer_and_says_so(data_root: Path):
    found = read("vqa-rad", data_root / "vqa_rad/hf_export_test.json", images=False)
    assert kinds(found) == (200, 251)
    assert found.warnings == (
        "vqa-rad test: the file does not say which questions are closed; the 251 answered by yes "
        "or no count as closed, 200 as open",
    )
    assert found.repairs["image path with backslashes"] == 451
    assert_consistent(found)


def test_real_slake_validation_is_631_open_and_422_closed_on_96_images(data_root: Path):
    found = read("slake", data_root / "slake", split="validation")
    assert kinds(found) == (631, 422)
    assert len(found.images) == 96
    assert (found.warnings, found.dropped) == ((), ())
    assert {"content_type", "modality", "location", "base_type"} == set(found.samples[0].categories)
    assert found.licence.startswith("SLAKE: CC BY 4.0")
    assert_consistent(found)


def test_real_slake_file_name_says_the_split(data_root: Path):
    found = read("slake", data_root / "slake", file="validate.json", images=False)
    assert {sample.split for sample in found.samples} == {"validation"}
    assert found.warnings == ()


def test_real_slake_closed_answers_are_right_by_their_own_options(data_root: Path):
    found = read("slake", data_root / "slake", split="validation", images=False)
    closed = [sample for sample in found.samples if sample.kind == "closed"]
    assert all(closed_correct(s.answer, s.answer, s.options) for s in closed)
    assert all(len(s.options) > 1 and "image" not in s.options for s in closed)


def test_real_slake_test_questions_without_an_answer_are_dropped_and_said(data_root: Path):
    found = read("slake", data_root / "slake", split="train", images=False)
    assert [dropped.id for dropped in found.dropped] == ["xmlab281/slake-1622"]
    assert kinds(found) == (2975, 1943)
    assert "slake: 1 without a reference answer" in found.warnings


def test_real_pathvqa_validation_is_3144_open_and_3135_closed_on_832_images(data_root: Path):
    found = read("path-vqa", data_root / "pathvqa", split="validation", images=False)
    assert kinds(found) == (3144, 3135)
    assert len(found.images) == 832
    assert (found.warnings, found.dropped) == ((), ())
    words = Counter(sample.categories["question_word"] for sample in found.samples)
    assert words["yes/no"] == 3135
    assert words["what"] > words["where"] > words["how"] > words["other"]
    assert found.repairs["repeated row, kept"] == 20
    assert_consistent(found)


@pytest.mark.parametrize(
    ("name", "folder", "split"), [("vqa-rad", "vqa_rad", "test"), ("slake", "slake", "validation")]
)
def test_real_images_have_the_same_ids_in_training_and_in_testing(
    data_root: Path, name: str, folder: str, split: str
):
    source = SourceSection(source=name, root=str(data_root / folder))
    trained = {image.path: image.id for image in read_source(source, extract_to=None).images}
    tested = read(name, data_root / folder, split=split).images
    shared = [image for image in tested if image.path in trained]
    assert all(trained[image.path] == image.id for image in shared)
    assert len(shared) == {"vqa-rad": 202, "slake": 0}[name]


# PathVQA and VQA-RAD in other forms


def test_pathvqa_pickles_are_test_sets_too(root: Path):
    rows = [{"image": "test_1", "question": "Is it?", "answer": "no"}]
    (root / "test_qa.pkl").write_bytes(pickle.dumps(rows))
    found = read("path-vqa", root, images=False)
    assert found.samples[0].options == ("yes", "no")
    assert "0 open and 1 closed questions, not 3370 and 3391" in found.warnings[0]


def png(value: int) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("L", (8, 8), value).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("name", ["vqa-rad", "path-vqa", "parquet"])
def test_hub_parquet_has_the_same_image_ids_with_and_without_images(tmp_path: Path, name: str):
    rows = [
        {"image": {"bytes": png(n), "path": None}, "question": f"q{n}?", "answer": answer}
        for n, answer in enumerate(["yes", "lung", "no"])
    ]
    (tmp_path / "data").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "data/test-00000-of-00001.parquet")
    found = read(name, tmp_path, extract_to=tmp_path / "out")
    alone = read(name, tmp_path, images=False)
    assert found.samples == alone.samples
    assert kinds(found) == (1, 2)
    assert alone.root is None
    assert_consistent(found)


def test_vqa_rad_has_no_validation_split(data_root: Path):
    with pytest.raises(DataError, match="no validation split"):
        read("vqa-rad", data_root / "vqa_rad", split="validation")


# LLaVA-Med

QUESTION = {"question_id": 3, "image": "a.png", "text": "What is shown?\n<image>"}


@pytest.mark.parametrize("gold", ["answer", "gpt4_answer", "fig_caption"])
def test_llava_med_question_lines_hold_their_reference(root: Path, gold: str):
    row = {**QUESTION, gold: "A lung.", "domain": {"ct": True, "mri": False}, "type": "detail"}
    write_lines(root / "qa50.jsonl", row)
    (sample,) = read("llava-med", root).samples
    assert (sample.id, sample.question) == ("a/llava-med-3", "What is shown?")
    assert (sample.answer, sample.kind) == ("A lung.", "open")
    assert sample.categories == {"domain": "ct", "type": "detail"}


def test_llava_med_references_can_stand_in_a_file_of_their_own(root: Path):
    write_lines(root / "test_question.jsonl", QUESTION, {**QUESTION, "question_id": 4})
    write_lines(root / "test_answer.jsonl", {"question_id": 3, "text": "Yes."})
    found = read("llava-med", root)
    assert [(s.answer, s.kind) for s in found.samples] == [("Yes.", "closed")]
    assert [d.reason for d in found.dropped] == ["no reference answer"]
    assert_consistent(found)


def test_the_field_of_the_reference_can_be_chosen(root: Path):
    write_lines(root / "q.jsonl", {**QUESTION, "answer": "a", "fig_caption": "b"})
    found = read("llava-med", root, columns={"answer": "fig_caption"})
    assert found.samples[0].answer == "b"


@pytest.mark.parametrize("key", ["conversations", "conversatons"])
def test_converted_llava_med_sets_have_kinds(root: Path, key: str):
    said = [{"from": "human", "value": "CT or MRI?\n<image>"}, {"from": "gpt", "value": "CT"}]
    row = {"id": "7", "image": "a.png", "answer_type": "CLOSED", key: said}
    write_json(root / "test.json", [row, {**row, "id": "8", "answer_type": "OPEN"}, {}])
    found = read("llava-med", root)
    assert [(s.id, s.kind, s.options) for s in found.samples] == [
        ("a/llava-med-7", "closed", ("CT", "MRI")),
        ("a/llava-med-8", "open", ()),
    ]
    assert (len(found.dropped), found.warnings) == (1, ())
    assert found.repairs.get("key spelt 'conversatons'", 0) == (2 if key == "conversatons" else 0)
    assert found.licence.startswith("LLaVA-Med data: CC BY-NC 4.0")


# Own tables and samples


def test_a_table_is_a_benchmark_with_the_questions_of_its_split(root: Path):
    (root / "test.csv").write_text(
        "image;question;answer;kind;split;Modality\n"
        "a.png;Left?;left;closed;test;CT\n"
        "b.jpg;What?;lung;open;train;CT\n"
        "b.jpg;What?;lung;ajar;test;CT\n"
    )
    found = read("table", root, columns={"modality": "Modality"})
    (sample,) = found.samples
    assert sample.categories == {"modality": "CT"}
    assert [d.reason for d in found.dropped] == ["kind 'ajar' is neither open nor closed"]
    assert (found.name, found.warnings) == ("test", ())
    assert_consistent(found)


def test_own_samples_find_images_below_their_folder_or_name_those_of_the_run(root: Path):
    samples = [
        VQASample(id=f"s{n}", image=image, question="q", answer="yes", kind="closed")
        for n, image in enumerate(["a", "b.jpg", "of-the-run", "../a"])
    ]
    file = root / "test.jsonl"
    file.write_text("".join(sample.model_dump_json() + "\n" for sample in samples))
    found = read("jsonl", root)
    assert found.samples == tuple(samples)
    assert [(image.id, image.path) for image in found.images] == [
        ("a", "a.png"),
        ("b.jpg", "b.jpg"),
    ]
    assert read("jsonl", file=str(file), images=False).images == ()


# Multiple choice

PMC = "Figure_path,Question,Choice A,Choice B,Choice C,Choice D,Answer\n"


@pytest.mark.parametrize("answer", ["B", "B: MRI", "MRI", "mri"])
def test_pmc_vqa_rows_become_closed_questions_with_options(root: Path, answer: str):
    (root / "test.csv").write_text(
        PMC + f'a.png,Which?, A: CT," B:MRI ", C:PET, D:X-ray,{answer}\n'
    )
    (sample,) = read("choice", root).samples
    assert sample.options == ("CT", "MRI", "PET", "X-ray")
    assert (sample.answer, sample.kind, sample.answer_type) == ("MRI", "closed", "CHOICE")
    assert closed_correct("MRI", sample.answer, sample.options)


def test_omnimedvqas_many_files_are_one_benchmark(root: Path):
    row = {"question": "Which?", "gt_answer": "CT", "option_A": "MR", "option_B": "CT"}
    (root / "QA_information").mkdir()
    for name in ("ACRIMA", "Chest"):
        row = {**row, "image_path": "a.png", "question_id": f"{name}_0000"}
        write_json(root / f"QA_information/{name}.json", [row])
    found = read("choice", root)
    assert [s.id for s in found.samples] == ["a/choice-ACRIMA_0000", "a/choice-Chest_0000"]


def test_omnimedvqa_records_become_closed_questions_with_options(root: Path):
    row = {
        "question_id": "X_1",
        "question_type": "Modality",
        "question": "Which?",
        "gt_answer": "CT",
        "image_path": "a.png",
        "option_A": "MR",
        "option_B": "CT",
        "modality_type": "CT",
        "dataset": "X",
    }
    write_json(root / "test.json", [row, row])
    found = read("choice", root)
    assert [s.id for s in found.samples] == ["a/choice-X_1", "a/choice-X_1#2"]
    assert found.samples[0].categories["modality_type"] == "CT"
    assert_consistent(found)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("a.png,,A,B,C,D,A", "no question"),
        ("a.png,Which?,x,,,,A", "1 options"),
        ("a.png,Which?,x,X,z,w,A", "two that are equal"),
        ("a.png,Which?,x,y,z,w,E", "none of the options"),
        ("none.png,Which?,x,y,z,w,A", "not found"),
    ],
)
def test_a_bad_choice_is_dropped_with_its_reason(root: Path, row: str, reason: str):
    (root / "test.csv").write_text(PMC + f"a.png,Which?,x,y,z,w,A\n{row}\n")
    found = read("choice", root)
    assert len(found.samples) == 1
    assert reason in found.dropped[0].reason


# Places


def test_the_folder_of_the_data_serves_where_the_benchmark_names_none(data_root: Path):
    section = BenchmarkSection(benchmark="slake", split="validation")
    assert len(read_benchmark(section, root=str(data_root / "slake")).samples) == 1053
    with pytest.raises(RecipeError, match="neither root nor file is set"):
        read_benchmark(section)


def test_what_is_not_read_from_files_is_said(tmp_path: Path):
    with pytest.raises(RecipeError, match="'none' is not read from files"):
        read("none", tmp_path)

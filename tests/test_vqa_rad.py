"""VQA-RAD: the real files give the published counts; a small copy shows every repair."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image as PILImage

from stllava.benchmarks import by_answer_text
from stllava.benchmarks import vqa_rad as benchmark
from stllava.errors import DataError
from stllava.images import inspect_image
from stllava.metrics.blind import blind_baselines
from stllava.metrics.closed import closed_correct
from stllava.sources import vqa_rad as source


@pytest.fixture(scope="session")
def real_source(vqa_rad_root: Path):
    return source.read(vqa_rad_root)


@pytest.fixture(scope="session")
def real_test(vqa_rad_root: Path):
    return benchmark.read(vqa_rad_root)


def test_real_training_part_is_1797_questions_on_313_images(real_source):
    kinds = Counter(sample.kind for sample in real_source.samples)
    assert kinds == {"open": 770, "closed": 1027}
    assert sum(len(c.turns) for c in real_source.conversations) == 1797
    assert len(real_source.images) == len(real_source.conversations) == 313
    assert real_source.dropped == ()


def test_real_test_part_is_179_open_and_272_closed_on_203_images(real_test):
    assert Counter(s.kind for s in real_test.samples) == {"open": 179, "closed": 272}
    assert len(real_test.images) == 203
    assert real_test.warnings == ("VQA-RAD test: 202 of 203 images are also in training",)


def test_real_test_part_by_answer_text_is_200_open_and_251_closed(real_test):
    samples = by_answer_text(real_test.samples)
    assert Counter(sample.kind for sample in samples) == {"open": 200, "closed": 251}


def test_real_field_dirt_is_repaired_and_counted(real_source):
    assert real_source.repairs["answer_type with blanks or lower case"] == 2
    assert real_source.repairs["answer that is a number"] == 5
    assert real_source.repairs["tab in answer"] == 5
    assert real_source.repairs["repeated row, kept"] == 3
    assert real_source.repairs["image file without questions"] == 1
    answers = {turn.answer for c in real_source.conversations for turn in c.turns}
    assert "Respiratory, cardiac, musculoskeletal" in answers
    assert not any("\t" in answer or answer != answer.strip() for answer in answers)


def test_real_groups_join_the_two_images_of_one_case(real_source):
    groups = {image.id: image.group for image in real_source.images}
    assert groups["synpic55245"] == groups["synpic55286"]
    assert len(set(groups.values())) == 312


def test_real_aliases_are_other_wordings(real_test):
    assert not any("NULL" in s.aliases or s.question in s.aliases for s in real_test.samples)
    assert sum(bool(sample.aliases) for sample in real_test.samples) > 200


def test_real_reference_answers_are_right_and_options_hold_one_of_them(real_test):
    closed = [sample for sample in real_test.samples if sample.kind == "closed"]
    assert all(closed_correct(s.answer, s.answer, s.options) for s in closed)
    assert sum(len(sample.options) > 1 for sample in closed) == 271


def test_real_constant_answers_score_what_the_literature_counts(real_test):
    blind = blind_baselines(real_test.samples)["closed"]
    assert blind["yes"] == pytest.approx(100 * 118 / 272)
    assert blind["no"] == pytest.approx(100 * 133 / 272)
    assert blind["yes_there_is_no"] == blind["yes"]  # LLaVA-Med's rule gives 92.28


def test_a_real_image_opens_unchanged(vqa_rad_root: Path, real_source):
    first = real_source.images[0]
    image = inspect_image(
        first.path, id=first.id, root=vqa_rad_root, group=first.group, source="vqa-rad"
    )
    assert image.mapping == "none"
    assert min(image.width, image.height) > 100


ROW = {
    "qid": 1,
    "phrase_type": "freeform",
    "image_case_url": "case-1",
    "image_name": "x1.jpg",
    "image_organ": "CHEST",
    "question": "Is this a CT or an MRI?",
    "question_rephrase": "NULL",
    "question_frame": "CT or MRI?",
    "question_type": "MODALITY",
    "answer": "CT",
    "answer_type": "CLOSED",
}


def write(root: Path, *rows: object) -> Path:
    (root / source.IMAGES).mkdir()
    PILImage.new("L", (8, 8)).save(root / source.IMAGES / "x1.jpg")
    PILImage.new("L", (8, 8)).save(root / source.IMAGES / "x2.jpg")
    (root / source.QUESTIONS).write_text(json.dumps(rows))
    return root


def test_options_of_a_question_are_read_from_its_or(tmp_path: Path):
    (sample,) = source.read(write(tmp_path, ROW)).samples
    assert sample.options == ("CT", "MRI")
    assert sample.id == "x1/vqa-rad-1"
    assert sample.aliases == ("CT or MRI?",)


@pytest.mark.parametrize(
    ("question", "answer", "options"),
    [
        ("Is it on the left, right, or both sides?", "Both", ("left", "right", "both")),
        (
            "Is it T1 weighted, T2 weighted, or FLAIR?",
            "FLAIR",
            ("T1 weighted", "T2 weighted", "FLAIR"),
        ),
        ("On the right or left side?", "Left side", ("right", "left")),
        ("Is there a mass or a cyst?", "yes", ("yes", "no")),
        ("Which is bigger in the image,left lung or heart ?", "Heart", ("left lung", "heart")),
        ("Where is it, right or lower right?", "Lower Right", ("right", "lower right")),
        ("Is it a T1 weighted or T2 weighted MRI?", "T1", ("T1", "T2")),
        ("Is it regular or ragged/asymmetrical?", "Asymmetric", ()),
        ("Contrast or non contrast CT?", "non-contrast", ()),
        ("Is this infectious?", "Maybe", ()),
        ("or", "x", ()),
    ],
)
def test_options_are_never_made_up(question: str, answer: str, options: tuple[str, ...]):
    assert source.options_in(question, answer) == options


def test_dirty_fields_are_repaired_one_by_one(tmp_path: Path):
    dirty = {
        **ROW,
        "qid": "2",
        "question": "Are the kidneys \tbladde r\tor ureters seen? ",
        "answer": 12,
        "answer_type": "open ",
        "question_type": "ATRIB, PRSE",
        "question_frame": "NA",
    }
    data = source.read(write(tmp_path, dirty))
    (sample,) = data.samples
    assert sample.question == "Are the kidneys, bladder, or ureters seen?"
    assert (sample.answer, sample.answer_type, sample.kind) == ("12", "OPEN", "open")
    assert sample.categories["question_type"] == "ATTRIB|PRES"
    assert sample.aliases == ()
    assert data.repairs["misspelt question_type"] == 2
    assert data.repairs["image file without questions"] == 1


def test_rows_that_cannot_be_used_are_dropped_with_their_reason(tmp_path: Path):
    no_image = {**ROW, "qid": 2, "image_name": "gone.jpg"}
    no_answer = {**ROW, "qid": 3, "answer": "NULL"}
    odd_type = {**ROW, "qid": 4, "answer_type": "YESNO"}
    data = source.read(write(tmp_path, ROW, no_image, no_answer, odd_type, "text"))
    assert len(data.samples) == 1
    assert [(d.id, d.reason.split("'")[0]) for d in data.dropped] == [
        ("vqa-rad-2", "image file "),
        ("vqa-rad-3", "no answer"),
        ("vqa-rad-4", "answer_type "),
        ("vqa-rad-4", "not an object"),
    ]


def test_a_benchmark_of_another_size_carries_a_warning(tmp_path: Path):
    read = benchmark.read(write(tmp_path, {**ROW, "phrase_type": "test_para"}))
    assert read.samples[0].categories["phrase_type"] == "para"
    assert "0 open and 1 closed questions, not 179 and 272" in read.warnings[0]


def test_images_that_share_a_case_through_others_are_one_group(tmp_path: Path):
    rows = [
        {**ROW, "qid": 1, "image_case_url": "b"},
        {**ROW, "qid": 2, "image_case_url": "b", "image_name": "x2.jpg"},
    ]
    groups = {image.group for image in source.read(write(tmp_path, *rows)).images}
    assert groups == {"x1"}


@pytest.mark.parametrize("content", ["{", "{}", "[]", None])
def test_a_broken_question_file_is_one_error(tmp_path: Path, content: str | None):
    write(tmp_path, ROW)
    (tmp_path / source.QUESTIONS).unlink()
    if content is not None:
        (tmp_path / source.QUESTIONS).write_text(content)
    with pytest.raises(DataError, match=r"VQA_RAD Dataset Public\.json"):
        source.read(tmp_path)

"""stllava.sources.open: every form of instruction data, on the real files and on small ones."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import pickle
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from stllava.benchmarks.open import read_benchmark
from stllava.config import BenchmarkSection, SourceSection
from stllava.errors import DataError, RecipeError
from stllava.images import open_image
from stllava.records import Turn
from stllava.sources.open import read_source
from stllava.sources.sample import sample_images


def png(value: int = 0) -> bytes:
    buffer = io.BytesIO()
    PILImage.new("L", (8, 8), value).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A folder with images a.png and sub/b.png; JSON, tables and the like go beside them."""
    folder = tmp_path / "data"
    (folder / "sub").mkdir(parents=True)
    (folder / "a.png").write_bytes(png(1))
    (folder / "sub/b.png").write_bytes(png(2))
    return folder


def read(source: str, root: Path, extract_to: Path | None = None, **fields):
    section = SourceSection(source=source, root=str(root), **fields)
    return read_source(section, extract_to=extract_to)


def write_json(path: Path, value: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    return path


def kinds(data) -> tuple[int, int]:
    found = Counter(sample.kind for sample in data.samples)
    return found["open"], found["closed"]


def assert_consistent(data) -> None:
    images = {image.id for image in data.images}
    assert len(images) == len(data.images)
    assert {c.image for c in data.conversations} | {s.image for s in data.samples} <= images
    for records in (data.conversations, data.samples):
        assert len({record.id for record in records}) == len(records)
    assert all((data.root / image.path).is_file() for image in data.images)


# published sets, real files


def test_real_vqa_rad_trains_on_the_official_1797(data_root: Path):
    data = read("vqa-rad", data_root / "vqa_rad")
    assert kinds(data) == (770, 1027)
    assert sum(len(c.turns) for c in data.conversations) == 1797
    assert (data.warnings, data.dropped) == ((), ())
    assert data.licence.startswith("VQA-RAD: CC0 1.0")
    assert_consistent(data)


def test_real_mevf_training_set_is_refused_in_one_line_without_its_flag(data_root: Path):
    with pytest.raises(DataError, match="restates 286 of the 451 test questions") as error:
        read("vqa-rad", data_root / "vqa_rad", file="trainset.json")
    assert "\n" not in str(error.value)


def test_real_mevf_training_set_is_3064_questions_and_says_what_it_is(data_root: Path):
    data = read("vqa-rad", data_root / "vqa_rad", restated=True)
    assert kinds(data) == (1241, 1823)
    assert "restates 286 of the 451 test questions" in data.warnings[0]
    assert data.repairs["answer that is a number"] == 10
    official = {image.id for image in read("vqa-rad", data_root / "vqa_rad").images}
    assert official < {image.id for image in data.images}
    assert_consistent(data)


def test_real_slake_trains_on_2976_open_and_1943_closed_english_questions(data_root: Path):
    data = read("slake", data_root / "slake")
    assert kinds(data) == (2976, 1943)
    assert len(data.images) == 450
    assert (data.warnings, data.dropped) == ((), ())
    assert data.repairs["empty answer, kept out of the conversations"] == 1
    assert sum(len(c.turns) for c in data.conversations) == 4918
    bases = Counter(sample.categories["base_type"] for sample in data.samples)
    assert bases == {"vqa": 4337, "kvqa": 582}
    assert data.samples[0].categories["modality"] == "MRI"
    assert_consistent(data)


def test_real_slake_languages_are_told_apart(data_root: Path):
    def number(language: str) -> int:
        root = data_root / "slake"
        return len(read("slake", root, file="validate.json", language=language).samples)

    assert [number(language) for language in ("en", "zh", "all")] == [1053, 1046, 2099]


def test_slake_in_one_language_says_which_when_asked_for_the_other(data_root: Path):
    with pytest.raises(DataError, match=r"train_en\.json: no row in zh; the file has en"):
        read("slake", data_root / "slake", language="zh")


def test_real_slake_without_its_other_language_says_that_it_is_incomplete(data_root: Path):
    data = read("slake", data_root / "slake", language="all")
    assert data.warnings == (
        "SLAKE all train: 4919 questions, not 9835; scores are not comparable with published ones",
    )


def test_real_pathvqa_without_images_is_one_error_that_says_where_they_were_sought(data_root: Path):
    with pytest.raises(DataError, match=r"no image was found under .*images/val") as error:
        read("path-vqa", data_root / "pathvqa", file="pvqa_val.json")
    assert "\n" not in str(error.value)


def test_real_mmedpo_pairs_read_as_instruction_data(data_root: Path):
    file = data_root / "preferences/mmedpo_vqa_rad.json"
    data = read("llava", data_root / "vqa_rad/VQA_RAD Image Folder", file=str(file))
    assert (len(data.conversations), len(data.images)) == (1797, 313)
    assert_consistent(data)


# PathVQA's official form

PATH_ROWS = [
    {"image": "train_0001", "question": "what is shown ?", "answer": "liver"},
    {"image": "train_0001", "question": "Is this liver?", "answer": "Yes"},
    {"image": "train_0009", "question": "Where?", "answer": "gone"},
    {"image": "train_0001", "question": "Why?", "answer": " "},
]


@pytest.mark.parametrize("folder", ["qas/train", "pvqa/qas/train", "."])
def test_pathvqa_pickles_are_read_from_their_folders(root: Path, folder: str):
    images = root / "images/train"
    images.mkdir(parents=True)
    (images / "train_0001.jpg").write_bytes(b"")
    (root / folder).mkdir(parents=True, exist_ok=True)
    (root / folder / "train_qa.pkl").write_bytes(pickle.dumps(PATH_ROWS))
    data = read("path-vqa", root)
    assert [s.id for s in data.samples] == ["train_0001/path-vqa-0", "train_0001/path-vqa-1"]
    assert [s.categories["question_word"] for s in data.samples] == ["what", "yes/no"]
    assert kinds(data) == (1, 1)
    assert [(d.id, d.reason.split("'")[0]) for d in data.dropped] == [
        ("train_qa.pkl[2]", "image file "),
        ("train_qa.pkl[3]", "no answer"),
    ]
    assert "1 open and 1 closed questions, not 9949 and 9806" in data.warnings[0]
    assert_consistent(data)


def test_an_lxmert_record_with_unequal_lists_costs_only_itself(root: Path):
    good = {"img_id": "a", "sentf": {"pvqa": ["q"]}, "labelf": {"pvqa": [{"yes": 1}]}}
    bad = [
        {**good, "labelf": {"pvqa": []}},
        {**good, "sentf": None},
        {**good, "labelf": {"pvqa": [[]]}},
        {**good, "labelf": {"pvqa": [{}]}},
        {**good, "img_id": 7},
        "text",
    ]
    (root / "images").mkdir()
    (root / "images/a.jpg").write_bytes(b"")
    write_json(root / "pvqa_train.json", [*bad, good])
    data = read("path-vqa", root)
    assert [sample.answer for sample in data.samples] == ["yes"]
    assert len(data.dropped) == len(bad)


# SLAKE, small

SLAKE_ROW = {
    "img_id": 1,
    "img_name": "xmlab1/source.jpg",
    "question": "Is it CT or MRI?",
    "answer": "CT",
    "q_lang": "en",
    "location": "Lung",
    "modality": "CT",
    "answer_type": "CLOSED",
    "base_type": "vqa",
    "content_type": "Modality",
    "qid": 5,
}


@pytest.mark.parametrize("folder", ["imgs", ".", "images"])
def test_slake_images_are_found_where_its_copies_have_them(root: Path, folder: str):
    (root / folder / "xmlab1").mkdir(parents=True)
    (root / folder / "xmlab1/source.jpg").write_bytes(b"")
    bad = [{**SLAKE_ROW, "answer_type": "?"}, {**SLAKE_ROW, "qid": None}, 3]
    write_json(root / "train.json", [SLAKE_ROW, *bad])
    data = read("slake", root)
    (sample,) = data.samples
    assert (sample.id, sample.image, sample.options) == ("xmlab1/slake-5", "xmlab1", ("CT", "MRI"))
    assert [image.group for image in data.images] == ["xmlab1"]
    assert len(data.dropped) == 3
    assert_consistent(data)


# conversations

SAID = [
    {"from": "human", "value": "<image>\nWhat is this?"},
    {"from": "gpt", "value": "An X-ray."},
]
TURNS = (Turn(question="What is this?", answer="An X-ray."),)


def test_llava_images_that_no_longer_exist_are_dropped_and_listed(root: Path):
    rows = [{"id": str(n), "image": f"{n}.jpg", "conversations": SAID} for n in range(3)]
    write_json(root / "d.json", [*rows, {"id": "x", "image": "a.png", "conversations": SAID}])
    data = read("llava", root, file="d.json")
    assert [c.id for c in data.conversations] == ["x"]
    assert [d.id for d in data.dropped] == ["d.json[0]", "d.json[1]", "d.json[2]"]
    assert "'0.jpg' not found" in data.dropped[0].reason


def test_when_all_images_are_missing_the_folder_tried_is_named(root: Path):
    file = write_json(root / "d.json", [{"id": 1, "image": "0.jpg", "conversations": SAID}])
    with pytest.raises(DataError, match=f"no image was found under {root / 'sub'}"):
        read("llava", root / "sub", file=str(file))


def test_a_folder_with_several_json_files_asks_for_one(root: Path):
    for name in ("x.json", "y.json"):
        write_json(root / name, [])
    with pytest.raises(RecipeError, match=r"holds x\.json, y\.json; name the file"):
        read("llava", root)


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("[INST] <image>\nWhat is this? [/INST]", "An X-ray.</s>"),
        ("<s>[INST] What is this? [/INST]", "An X-ray. <|im_end|>\n"),
        ("<|im_start|>user\nWhat is this?<|im_end|>", "<|im_start|>assistant\nAn X-ray.<|im_end|>"),
        ("USER: <image>\nWhat is this?", "ASSISTANT: An X-ray."),
        ("### Human: What is this?", "### Assistant: An X-ray."),
        ("<start_of_turn>user\nWhat is this?<end_of_turn>", "An X-ray.<end_of_turn>"),
    ],
)
def test_template_markup_in_texts_is_taken_off_and_counted(root: Path, question: str, answer: str):
    said = [{"from": "human", "value": question}, {"from": "gpt", "value": answer}]
    write_json(root / "d.json", [{"id": 1, "image": "a.png", "conversations": said}])
    data = read("llava", root)
    assert data.conversations[0].turns == TURNS
    assert data.repairs["template markup taken off"] in (1, 2)


@pytest.mark.parametrize(
    "text",
    ["Human: no.", "User: tap it", "x [INST] y", "<b>bold</b>", "a < b", "# 1", "USERS: three"],
)
def test_words_that_could_be_the_authors_own_stay(root: Path, text: str):
    said = [{"from": "human", "value": text}, {"from": "gpt", "value": text}]
    write_json(root / "d.json", [{"id": 1, "image": "a.png", "conversations": said}])
    data = read("llava", root)
    assert data.conversations[0].turns == (Turn(question=text, answer=text),)
    assert data.repairs == {}


def chat(*parts: object, **fields) -> dict:
    content = list(parts) or "<image>\nWhat is this?"
    answer = {"role": "assistant", "content": "An X-ray."}
    return {"messages": [{"role": "user", "content": content}, answer], **fields}


TEXT = {"type": "text", "text": "What is this?"}
DATA_URI = "data:image/png;base64," + base64.b64encode(png(1)).decode()


@pytest.mark.parametrize(
    "record",
    [
        chat(images=["a.png"]),
        chat(image="a.png"),
        chat({"type": "image"}, TEXT, images=["a.png"]),
        chat({"type": "image", "image": "a.png"}, TEXT),
        chat({"type": "image", "path": "a.png"}, TEXT),
        chat({"type": "image_url", "image_url": {"url": "a.png"}}, TEXT),
        chat(TEXT, {"type": "image_url", "image_url": "a.png"}),
    ],
)
def test_chat_messages_name_their_image_in_many_ways(root: Path, record: dict):
    write_json(root / "d.json", [record])
    data = read("messages", root)
    assert data.conversations[0].turns == TURNS
    assert [image.path for image in data.images] == ["a.png"]
    assert_consistent(data)


def test_an_image_inside_a_message_is_written_as_it_is(root: Path, tmp_path: Path):
    part = {"type": "image_url", "image_url": {"url": DATA_URI}}
    write_json(root / "d.json", [chat(part, TEXT), chat(part, TEXT)])
    data = read("messages", root, extract_to=tmp_path / "out")
    (image,) = data.images
    assert image.path == hashlib.sha256(png(1)).hexdigest()[:16] + ".png"
    assert (data.root / image.path).read_bytes() == png(1)
    assert_consistent(data)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"messages": "hello"}, "no list of messages"),
        ({"messages": [{"role": "user"}]}, "'content' text or parts"),
        (chat(TEXT), "no image"),
        (chat(TEXT, images=["a.png", "sub/b.png"]), "several images"),
        (chat({"type": "image", "image": "a.png"}, TEXT, images=["a.png"]), "several images"),
        (chat({"type": "image_url", "image_url": {"url": "https://x/y.png"}}, TEXT), "web address"),
        (
            chat({"type": "image_url", "image_url": {"url": "data:image/png;base64,?"}}, TEXT),
            "base64",
        ),
        (chat({"type": "audio"}, TEXT), "a part of type 'audio'"),
        (chat(7, TEXT), "a part of type None"),
        (chat(images=["../a.png"]), "holds '..'"),
        (chat(images=["/etc/passwd"]), "is absolute"),
    ],
)
def test_a_bad_chat_record_is_dropped_with_its_reason(root: Path, bad: dict, reason: str):
    write_json(root / "d.json", [bad, chat(images=["a.png"])])
    data = read("messages", root)
    assert len(data.conversations) == 1
    assert reason in data.dropped[0].reason


# Parquet


def write_parquet(path: Path, rows: list[dict]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), path)


def embedded(value: int, **fields) -> dict:
    return {"image": {"bytes": png(value), "path": None}, **fields}


def test_parquet_conversations_and_messages_with_embedded_images(tmp_path: Path):
    out = tmp_path / "out"
    for folder, fields in (("llava", {"conversations": SAID}), ("chat", chat(id="m1"))):
        rows = [embedded(1, id="1", **{k: v for k, v in fields.items() if k != "id"})]
        write_parquet(tmp_path / folder / "data/train-00000-of-00001.parquet", rows)
        data = read("parquet", tmp_path / folder, extract_to=out)
        assert data.conversations[0].turns == TURNS
        assert data.root == out
        assert_consistent(data)
    assert len(list(out.iterdir())) == 1
    assert open_image(next(out.iterdir())).getpixel((0, 0)) == (1, 1, 1)


def test_parquet_question_rows_of_the_training_shards_only(tmp_path: Path):
    rows = [embedded(n % 2, question=f"q{n}", answer="yes") for n in range(4)]
    write_parquet(tmp_path / "data/train-00000-of-00002.parquet", rows[:2])
    write_parquet(tmp_path / "data/train-00001-of-00002.parquet", rows[2:])
    write_parquet(tmp_path / "data/test-00000-of-00001.parquet", rows)
    data = read("parquet", tmp_path, extract_to=tmp_path / "out")
    assert [sample.question for sample in data.samples] == ["q0", "q1", "q2", "q3"]
    assert len(data.images) == 2
    assert "the 4 answered by yes or no count as closed" in data.warnings[0]
    assert_consistent(data)


def test_parquet_columns_can_have_other_names_and_images_can_be_paths(root: Path):
    write_parquet(root / "x.parquet", [{"img": "a.png", "q": "Left?", "a": "yes", "organ": "lung"}])
    columns = {"image": "img", "question": "q", "answer": "a", "organ": "organ"}
    data = read("parquet", root, columns=columns)
    assert data.samples[0].categories == {"organ": "lung"}
    assert_consistent(data)


def test_the_hubs_vqa_rad_in_parquet_infers_kinds_and_says_so(tmp_path: Path):
    rows = [embedded(1, question="is it?", answer="no"), embedded(1, question="what?", answer="x")]
    write_parquet(tmp_path / "data/train-00000-of-00001-abc.parquet", rows)
    data = read("vqa-rad", tmp_path, extract_to=tmp_path / "out")
    assert kinds(data) == (1, 1)
    assert "does not say which questions are closed" in data.warnings[0]
    assert "2 questions, not 1793" in data.warnings[1]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ({"bytes": b"MZ\x90", "path": None}, "of no known kind"),
        ({"bytes": None, "path": None}, "no image"),
        ({"bytes": None, "path": "../x.png"}, "another form"),
    ],
)
def test_an_embedded_image_that_is_none_costs_one_row(tmp_path: Path, image: dict, reason: str):
    rows = [embedded(1, question="q", answer="a"), {"image": image, "question": "q", "answer": "a"}]
    write_parquet(tmp_path / "train.parquet", rows)
    data = read("parquet", tmp_path, extract_to=tmp_path / "out")
    assert len(data.samples) == 1
    assert reason in data.dropped[0].reason


def test_embedded_images_need_a_folder_to_go_to(tmp_path: Path):
    write_parquet(tmp_path / "train.parquet", [embedded(1, question="q", answer="a")])
    with pytest.raises(DataError, match="no folder to write them"):
        read("parquet", tmp_path)


# tables


def test_a_table_with_mapped_columns(root: Path):
    (root / "train.csv").write_text(
        "file,frage,antwort,patient,art,nr\n"
        "a.png,Is it?,Yes,p1,CLOSED ,1\n"
        "sub\\b.png,What?,lung,p1,open,2\n"
        "a.png,Why?,,p1,open,3\n"
        "none.png,Why?,x,p1,open,4\n"
    )
    columns = {"image": "file", "question": "frage", "answer": "antwort", "group": "patient"}
    data = read("table", root, columns={**columns, "kind": "art", "id": "nr"})
    assert [(s.id, s.image, s.kind) for s in data.samples] == [
        ("1", "a", "closed"),
        ("2", "sub/b", "open"),
    ]
    assert {image.group for image in data.images} == {"p1"}
    assert [d.id for d in data.dropped] == ["train.csv:4", "train.csv:5"]
    assert data.repairs["image path with backslashes"] == 1
    assert data.warnings == ()
    assert_consistent(data)


def test_a_table_without_questions_is_images_with_their_groups(root: Path):
    (root / "images.csv").write_text("image,group\na.png,p1\nsub/b.png,p1\n")
    data = read("table", root, file="images.csv")
    assert {(image.id, image.group) for image in data.images} == {("a", "p1"), ("sub/b", "p1")}
    assert data.conversations == data.samples == ()
    assert data.warnings == (
        "images.csv: no columns question and answer, so its 2 rows are images only",
    )


@pytest.mark.parametrize("source", ["vqa-rad", "path-vqa"])
def test_a_file_without_questions_is_no_form_of_a_question_set(root: Path, source: str):
    write_json(root / "x.json", [{"id": "0", "image": "a.png", "caption": "A lung."}])
    with pytest.raises(DataError, match=f"no questions in it, so it is no form of {source}"):
        read(source, root, file="x.json")


def test_a_table_with_a_split_column_gives_its_training_rows(root: Path):
    write_json(
        root / "train.json",
        [
            {"image": "a.png", "question": "q", "answer": True, "split": "Training"},
            {"image": "a.png", "question": "q", "answer": 3, "split": "val"},
        ],
    )
    data = read("table", root)
    assert [(s.answer, s.split) for s in data.samples] == [("yes", "train")]
    assert data.repairs["row of another split left out"] == 1
    assert data.repairs["answer that is true or false"] == 1


def test_a_missing_column_is_an_error_that_lists_those_found(root: Path):
    (root / "train.csv").write_text("file,q,a\na.png,x,y\n")
    with pytest.raises(DataError, match=r"no column image; it has file, q, a: set columns"):
        read("table", root)
    with pytest.raises(DataError, match=r"no column bild, image|no column bild"):
        read("table", root, columns={"image": "bild"})


def test_repeated_ids_of_a_table_are_numbered(root: Path):
    (root / "train.csv").write_text("image,question,answer,id\n" + "a.png,q,x,1\n" * 3)
    data = read("table", root)
    assert [sample.id for sample in data.samples] == ["1", "1#2", "1#3"]
    assert data.repairs["repeated row, kept"] == 2


# places


def test_root_and_file_are_found_in_every_combination(root: Path, monkeypatch: pytest.MonkeyPatch):
    write_json(root / "d.json", [{"id": 1, "image": "a.png", "conversations": SAID}])
    monkeypatch.chdir(root.parent)
    places = [
        {"root": str(root)},
        {"root": str(root), "file": "d.json"},
        {"root": str(root), "file": str(root / "d.json")},
        {"root": str(root / "d.json")},
        {"file": "data/d.json"},
        {"file": str(root)},
    ]
    for place in places:
        data = read_source(SourceSection(source="llava", **place), extract_to=None)
        assert [image.path for image in data.images] == ["a.png"]
        assert data.root.samefile(root)


def test_no_place_or_a_wrong_one_is_one_error(tmp_path: Path):
    with pytest.raises(RecipeError, match="neither root nor file is set"):
        read_source(SourceSection(source="slake"), extract_to=None)
    with pytest.raises(DataError, match="no such file or folder"):
        read("slake", tmp_path / "none")
    with pytest.raises(DataError, match=r"no train\.json or .* in it"):
        read("slake", tmp_path)


# "10k images"

IDS = [f"i{n:03}" for n in range(100)]
STRATA = {image: "ct" if number < 70 else "mri" for number, image in enumerate(IDS)}


def test_a_sample_takes_every_stratum_in_proportion():
    chosen = sample_images(IDS, 10, 0, STRATA)
    assert Counter(STRATA[image] for image in chosen) == {"ct": 7, "mri": 3}
    assert chosen == sorted(set(chosen))


def test_a_sample_depends_on_seed_and_ids_and_not_on_their_order():
    assert sample_images(reversed(IDS), 10, 0, STRATA) == sample_images(IDS, 10, 0, STRATA)
    assert sample_images(IDS, 10, 1, STRATA) != sample_images(IDS, 10, 0, STRATA)
    assert sample_images(IDS, 100, 0, STRATA) == sample_images(IDS, 500, 3, {}) == IDS


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcd"), min_size=1, max_size=40), st.integers(0, 40))
def test_shares_of_strata_differ_from_proportion_by_less_than_one(strata: list[str], number: int):
    names = {f"i{n}": stratum for n, stratum in enumerate(strata)}
    chosen = sample_images(names, number, 0, names)
    assert len(chosen) == min(number, len(strata))
    for stratum, size in Counter(strata).items():
        share = sum(names[image] == stratum for image in chosen)
        assert abs(share - len(chosen) * size / len(strata)) < 1


# Any damage to any field

GOOD = {
    "messages": chat({"type": "image", "image": "a.png"}, TEXT, id="1"),
    "llava": {"id": "1", "image": "a.png", "conversations": SAID},
    "slake": {**SLAKE_ROW, "img_name": "a.png"},
    "path-vqa": {"img_id": "x", "sentf": {"pvqa": ["q"]}, "labelf": {"pvqa": [{"yes": 1}]}},
    "table": {
        "image": "a.png",
        "question": "q",
        "answer": "a",
        "kind": "open",
        "id": "1",
        "group": "g",
        "split": "train",
    },
    "vqa-rad": {
        "qid": 1,
        "phrase_type": "freeform",
        "image_case_url": "c",
        "image_name": "a.png",
        "image_organ": "HEAD",
        "question": "CT or MRI?",
        "question_rephrase": "NULL",
        "question_frame": "x",
        "question_type": "M",
        "answer": "CT",
        "answer_type": "CLOSED",
    },
    "choice": {
        "question_id": "X",
        "question": "W?",
        "gt_answer": "CT",
        "image_path": "a.png",
        "option_A": "MR",
        "option_B": "CT",
        "modality_type": "CT",
        "split": "test",
    },
    "llava-med": {
        "question_id": 3,
        "image": "a.png",
        "text": "w",
        "answer": "A",
        "domain": {"ct": True},
        "type": "d",
        "answer_type": "OPEN",
    },
}
JUNK = (
    *(None, True, 0, -1, 1.5, 10**30, "", " ", "\t", "x", "a.png", "../x", "/x", "\0", "NULL"),
    *("a\\b.png", "c:\\x", "data:,", "\u2028", "é" * 300, [], {}, [[]], [{}], [None], ["a", "b"]),
    *({"bytes": "x"}, {"path": "a.png"}, {"yes": 1}, [{"yes": 1}]),
)


def damaged(value: object) -> Iterator[object]:
    """The value with each of its parts, in turn, missing or replaced by each kind of junk."""
    yield from JUNK
    if isinstance(value, dict):
        for key in value:
            yield {name: part for name, part in value.items() if name != key}
            yield from ({**value, key: part} for part in damaged(value[key]))
    elif isinstance(value, list):
        for index in range(len(value)):
            for part in damaged(value[index]):
                yield [*value[:index], part, *value[index + 1 :]]


@pytest.mark.parametrize("form", GOOD)
def test_no_damage_to_any_field_stops_a_reader(root: Path, form: str):
    (root / "images").mkdir()
    for name in ("a.png", "x.jpg"):
        (root / "images" / name).write_bytes(b"")
    values = [GOOD[form], *damaged(GOOD[form])]
    place = {"root": str(root), "file": str(write_json(root / "x.json", values))}
    if form in ("choice", "llava-med"):
        found = read_benchmark(BenchmarkSection(benchmark=form, **place))
    else:
        found = read_source(SourceSection(source=form, **place), extract_to=root / "out")
        assert_consistent(found)
    assert len(values) > 100
    assert found.images[0].path.endswith(("a.png", "x.jpg"))
    assert found.dropped
    assert all(drop.reason and "\n" not in drop.reason for drop in found.dropped)
    assert all(sample.question for sample in found.samples)


# The documentation's examples


def examples() -> list[tuple[str, str, str, str]]:
    """(suffix, "source" or "benchmark", form, text) of every example in docs/data.md."""
    text = (Path(__file__).parent.parent / "docs/data.md").read_text(encoding="utf-8")
    found = re.findall(r"```(\w+) (source|benchmark)=([\w-]+)\n(.*?)```", text, re.DOTALL)
    assert len(found) >= 8
    return found


@pytest.mark.parametrize(("suffix", "kind", "form", "text"), examples())
def test_every_example_of_the_documentation_is_read(
    tmp_path: Path, suffix: str, kind: str, form: str, text: str
):
    (tmp_path / "images/train").mkdir(parents=True)
    for name in ("scan1.png", "scan2.png", "images/train/train_0001.jpg"):
        (tmp_path / name).write_bytes(b"")
    file = tmp_path / f"x.{suffix}"
    file.write_text(text, encoding="utf-8")
    if kind == "source":
        found = read(form, tmp_path, file=file.name)
        assert found.conversations
    else:
        section = BenchmarkSection(benchmark=form, root=str(tmp_path), file=file.name)
        found = read_benchmark(section)
        assert found.samples
    assert (found.dropped, found.repairs) == ((), {})
    assert found.images

"""stllava.sources and the JSONL benchmark: what is read, repaired, dropped and refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stllava.benchmarks import jsonl
from stllava.errors import DataError
from stllava.records import Turn, VQASample
from stllava.sources import folder, image_ids, llava_json

IMAGE_ROOT = "images"


def record(**fields) -> dict:
    messages = [
        {"from": "human", "value": "<image>\nWhat is this?"},
        {"from": "gpt", "value": "A chest X-ray."},
    ]
    return {"id": "r1", "image": "a.jpg", "conversations": messages, **fields}


def said(*messages: tuple[str, str]) -> list[dict]:
    return [{"from": role, "value": text} for role, text in messages]


@pytest.fixture
def image_root(tmp_path: Path) -> Path:
    root = tmp_path / IMAGE_ROOT
    (root / "sub").mkdir(parents=True)
    for name in ("a.jpg", "sub/b.png"):
        (root / name).write_bytes(b"")
    return root


def read(image_root: Path, *records: object, is_list: bool = False):
    path = image_root.parent / "data.jsonl"
    lines = [r if isinstance(r, str) else json.dumps(r) for r in records]
    path.write_text("[" + ",".join(lines) + "]" if is_list else "\n".join(lines) + "\n")
    return llava_json.read(path, image_root)


@pytest.mark.parametrize("is_list", [True, False])
def test_list_and_jsonl_give_the_same_conversations(image_root: Path, is_list: bool):
    data = read(image_root, record(), record(id=7, image="sub/b.png"), is_list=is_list)
    assert [c.id for c in data.conversations] == ["r1", "7"]
    assert data.conversations[0].turns == (Turn(question="What is this?", answer="A chest X-ray."),)
    assert [tuple(image) for image in data.images] == [
        ("a", "a.jpg", "a"),
        ("sub/b", "sub/b.png", "sub/b"),
    ]


def test_vuser_asks_as_human_does(image_root: Path):
    messages = said(("human", "q\n<image>"), ("gpt", "a"), ("vuser", "q2"), ("gpt", "a2"))
    (conversation,) = read(image_root, record(conversations=messages)).conversations
    assert [turn.question for turn in conversation.turns] == ["q", "q2"]


def test_the_misspelt_key_is_read_and_counted(image_root: Path):
    misspelt = record()
    misspelt["conversatons"] = misspelt.pop("conversations")
    assert read(image_root, misspelt).repairs == {"key spelt 'conversatons'": 1}


def test_system_messages_and_a_last_open_question_are_left_out_and_counted(image_root: Path):
    messages = said(("system", "Be kind."), ("human", "q"), ("gpt", "a"), ("human", "q2"))
    data = read(image_root, record(conversations=messages))
    assert data.conversations[0].turns == (Turn(question="q", answer="a"),)
    assert data.repairs == {
        "system message left out": 1,
        "last question without an answer left out": 1,
    }


def test_repeated_ids_are_numbered_without_meeting_other_ids(image_root: Path):
    data = read(image_root, record(), record(), record(id="r1#2"), record())
    assert [c.id for c in data.conversations] == ["r1", "r1#3", "r1#2", "r1#4"]
    assert data.repairs == {"repeated id numbered": 2}


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ('{"id": 1', "not JSON"),
        ("[1]", "not an object"),
        ("[" * 100_000, "not JSON"),
        ({"id": "x"}, "text-only"),
        (record(image=["a.jpg", "b.jpg"]), "several images"),
        (record(image="../a.jpg"), "holds '..'"),
        (record(image="none.jpg"), "not found"),
        (record(image="x" * 5000), "cannot be followed"),
        (record(conversations="hello"), "no list"),
        (record(conversations=[1]), "must be text"),
        (record(conversations=said(("gpt", "a"), ("human", "q"))), "message 0: from 'gpt'"),
        (record(conversations=said(("human", "q"), ("human", "q"))), "message 1: from 'human'"),
        (record(conversations=said(("human", "<image>"), ("gpt", "a"))), "message 0: empty"),
        (record(conversations=said(("human", "q"))), "no answered question"),
        (record(conversations=said(("human", "<image><image>q"), ("gpt", "a"))), "2 image marks"),
        (record(conversations=said(("human", "\ud83d"), ("gpt", "a"))), "surrogate"),
        (record(id=None), "id is neither"),
    ],
)
def test_a_bad_record_is_dropped_with_place_and_reason(image_root: Path, bad: object, reason: str):
    data = read(image_root, record(), bad)
    assert len(data.conversations) == 1
    (dropped,) = data.dropped
    assert (dropped.id, dropped.stage) == ("data.jsonl:2", "prepare")
    assert reason in dropped.reason


def test_a_line_that_is_not_utf_8_is_dropped(image_root: Path):
    path = image_root.parent / "data.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(record()).encode() + b'\n\n{"id": "\xff"}\n')
    data = llava_json.read(path, image_root)
    assert [dropped.id for dropped in data.dropped] == ["data.jsonl:3"]


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(
                st.sampled_from(["id", "image", "conversations", "from", "value"]),
                inner,
                max_size=5,
            )
        ),
        max_leaves=12,
    )
)
def test_no_json_value_crashes_the_reader(image_root: Path, value: object):
    data = read(image_root, record(), json.dumps(value))
    assert len(data.conversations) + len(data.dropped) == 2


@pytest.mark.parametrize("content", ["", "[]", "{}\n{}", "[{", "no json"])
def test_a_file_without_a_usable_record_is_an_error_that_names_it(image_root: Path, content: str):
    with pytest.raises(DataError, match=r"data\.jsonl"):
        read(image_root, *content.split("\n"))


def test_ids_keep_the_suffix_only_where_two_files_share_a_stem():
    ids = image_ids(["a.jpg", "b/a.jpg", "c.png", "c.jpg", "c.jpg"])
    assert ids == {"a.jpg": "a", "b/a.jpg": "b/a", "c.png": "c.png", "c.jpg": "c.jpg"}


@given(st.lists(st.text("ab./", min_size=1, max_size=6).filter(lambda s: s.strip("./"))))
def test_ids_of_different_paths_differ(paths: list[str]):
    ids = image_ids(paths)
    assert set(ids) == set(paths)
    assert len(set(ids.values())) == len(ids)


def test_a_folder_is_listed_sorted_and_other_files_are_dropped(image_root: Path):
    (image_root / "Z.TIF").write_bytes(b"")
    (image_root / "notes.txt").write_text("")
    (image_root / ".hidden.png").write_bytes(b"")
    (image_root / "gone.png").symlink_to(image_root / "nothing.png")
    data = folder.read(image_root)
    assert [image.path for image in data.images] == ["Z.TIF", "a.jpg", "sub/b.png"]
    assert [dropped.id for dropped in data.dropped] == ["gone.png", "notes.txt"]


def test_an_empty_or_missing_folder_is_an_error(tmp_path: Path):
    for root in (tmp_path, tmp_path / "none"):
        with pytest.raises(DataError, match=str(root)):
            folder.read(root)


SAMPLE = VQASample(id="s1", image="a", question="q", answer="yes", kind="closed")


def test_samples_are_read_back_from_jsonl(tmp_path: Path):
    path = tmp_path / "mine.jsonl"
    path.write_text(SAMPLE.model_dump_json() + "\n\n")
    assert jsonl.read(path).samples == (SAMPLE,)
    assert jsonl.read(path).name == "mine"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": "s2"}', ":2: not a VQASample: image: Field required"),
        ("{", ":2: not a VQASample: line: Invalid JSON"),
        (SAMPLE.model_dump_json(), ":2: id 's1' again"),
        ("\ufffe", ":2: not a VQASample"),
    ],
)
def test_a_bad_sample_line_is_an_error_with_its_number(tmp_path: Path, line: str, message: str):
    path = tmp_path / "mine.jsonl"
    path.write_text(SAMPLE.model_dump_json() + "\n" + line)
    with pytest.raises(DataError) as error:
        jsonl.read(path)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_a_benchmark_without_questions_is_an_error(tmp_path: Path):
    (tmp_path / "mine.jsonl").write_text("\n")
    for name in ("mine.jsonl", "none.jsonl"):
        with pytest.raises(DataError, match=name):
            jsonl.read(tmp_path / name)

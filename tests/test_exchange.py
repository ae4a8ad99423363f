"""Preference data in and out: what each form holds comes back, and what it cannot hold is said."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from typer.testing import CliRunner

from stllava.cli import app
from stllava.errors import DataError
from stllava.exchange import NAMES, read_preferences, write_preferences
from stllava.exchange.pair import HARMLESS_MARK
from stllava.exchange.writing import DRAW_FIELDS, FIELDS, IDLE_LOST, TEXT_LOST
from stllava.records import Draw, Preference
from stllava.sources import SourceImage

MARKED = ("released", "mmedpo", "llama-factory", "ms-swift")
OTHERS = tuple(name for name in NAMES if name != "stllava")
HOLDS_ID = tuple(name for name in OTHERS if name != "judge-output")
IMAGE = SourceImage("a/p1", "a/p1.png", "a/p1")
runner = CliRunner()


def preference(chosen="A nodule.", rejected="Nothing.", question="What is seen?", **fields):
    answers = fields.pop("answers_id", "a/p1/q0")
    fields = {"margin": 0.0, "source": "gpt-4o"} | fields
    return Preference(
        id=fields.pop("id", f"{answers}/d3>d1"),
        answers_id=answers,
        image=fields.pop("image", "a/p1"),
        question=question,
        chosen=Draw(request_id=answers, index=3, text=chosen),
        rejected=Draw(request_id=answers, index=1, text=rejected),
        **fields,
    )


def there_and_back(form, preferences, folder, images=(IMAGE,), suffix=".json"):
    out = folder / f"{form}{suffix}"
    written = write_preferences(form, preferences, images, out)
    return written, read_preferences(form, out, None)


def write(path, value):
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def texts_of(preferences):
    return [(p.question, p.chosen.text, p.rejected.text) for p in preferences]


AWKWARD = ["<image>", "<image>\n", "{0}", "{", "}}", "\n", "\r\n", "\u2028", "\x85", '"', "\\",
           " ", "<", ">", "🫁", "é", "e\u0301", "\u200b", "\x00", "]", "[IMAGE]"]  # fmt: skip
texts = (
    st.lists(
        st.one_of(st.sampled_from(AWKWARD), st.text(st.characters(codec="utf-8"), max_size=5)),
        min_size=1,
        max_size=6,
    )
    .map("".join)
    .filter(lambda text: text.strip())
)
pairs = st.tuples(texts, texts, texts).filter(lambda three: three[1].strip() != three[2].strip())


@pytest.mark.parametrize("suffix", [".json", ".jsonl"])
@pytest.mark.parametrize("form", NAMES)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(rows=st.lists(pairs, min_size=1, max_size=4))
def test_texts_come_back_as_they_were(form, suffix, rows, tmp_path):
    preferences = [
        preference(chosen, rejected, question, id=f"a/p1/q{n}/d3>d1", answers_id=f"a/p1/q{n}")
        for n, (question, chosen, rejected) in enumerate(rows)
    ]
    written, read = there_and_back(form, preferences, tmp_path, suffix=suffix)
    assert read.dropped == ()
    expected = texts_of(preferences)
    if form in MARKED:
        marked = sum(any("<image>" in text for text in row) for row in expected)
        assert written.lost.get(TEXT_LOST, 0) == marked
        expected = [
            tuple(text.replace("<image>", HARMLESS_MARK) for text in row) for row in expected
        ]
    assert texts_of(read.preferences) == expected
    assert written.count == len(rows)


@pytest.mark.parametrize("form", OTHERS)
@given(
    margin=st.floats(0, 9),
    weight=st.floats(0, 5),
    source=st.sampled_from(["gpt-4o", "expert", "mmedpo"]),
    edited=st.booleans(),
    ids=st.sampled_from(["a/p1/q0/d3>d1", "made-up", "a/p1/q7/d0>d1"]),
)
@settings(
    max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_a_field_either_comes_back_or_is_said_to_be_lost(
    form, margin, weight, source, edited, ids, tmp_path
):
    before = preference(margin=margin, weight=weight, source=source, edited=edited, id=ids)
    written, read = there_and_back(form, [before], tmp_path)
    after = read.preferences[0]
    for field, name in FIELDS.items():
        if field == "id" and form not in HOLDS_ID:
            continue  # made from the row number on reading
        same = getattr(before, field) == getattr(after, field)
        assert same == (name not in written.lost), (field, written.lost)
    indices = (after.chosen.index, after.rejected.index) == (3, 1)
    assert indices == (DRAW_FIELDS["index"] not in written.lost)


HELD = {
    "released": set(),
    "judge-output": set(),
    "mmedpo": {"weight"},
    "rlaif-v": {"weight", "margin", "source", "edited"},
    "trl": set(),
    "llama-factory": set(),
    "ms-swift": {"margin"},
}


@pytest.mark.parametrize("form", OTHERS)
def test_what_a_form_can_hold_is_not_lost(form, tmp_path):
    full = preference(margin=2.5, weight=0.25, edited=True)
    written, _ = there_and_back(form, [full], tmp_path)
    can_be_lost = {"weight", "margin", "source", "edited"}
    assert {name for name in can_be_lost if FIELDS[name] in written.lost} == (
        can_be_lost - HELD[form]
    )
    assert (FIELDS["id"] in written.lost) == (form == "judge-output")


def test_our_own_form_loses_nothing(tmp_path):
    draw = Draw(
        request_id="a/p1/q0", index=0, text="x", token_ids=(5, 2), logprobs=(-0.5, -1e-9), seed=7
    )
    full = preference(margin=1.5, weight=0.0).model_copy(update={"chosen": draw})
    image = SourceImage("a/p1", "other/name.png", "patient 1")
    written, read = there_and_back("stllava", [full], tmp_path, [image], ".jsonl")
    assert read.preferences == (full,)
    assert read.images == (image,)
    assert written.lost == {}


def test_draws_patients_and_idle_weights_that_get_lost_are_named(tmp_path):
    draw = Draw(request_id="a/p1/q0", index=3, text="x", token_ids=(5, 2), logprobs=(-0.5, -1.0))
    full = preference(weight=0.0).model_copy(update={"chosen": draw})
    image = SourceImage("a/p1", "other/name.png", "patient 1")
    lost = write_preferences("trl", [full], [image], tmp_path / "out.jsonl").lost
    assert set(lost) >= {
        DRAW_FIELDS["token_ids"],
        DRAW_FIELDS["logprobs"],
        FIELDS["image"],
        FIELDS["weight"],
        IDLE_LOST,
        "patient or case of an image",
    }
    assert DRAW_FIELDS["index"] not in lost


@pytest.mark.parametrize("form", OTHERS)
def test_a_pair_that_nobody_could_train_on_is_left_out_and_counted(form, tmp_path):
    pairs = [preference(), preference(chosen=" ", id="b"), preference("same", "same ", id="c")]
    written, read = there_and_back(form, pairs, tmp_path)
    assert written.count == len(read.preferences) == 1
    whole = {name: n for name, n in written.lost.items() if name.startswith("whole pair")}
    assert whole == {
        "whole pair: chosen is empty": 1,
        "whole pair: chosen and rejected are the same text": 1,
    }


def test_the_real_mmedpo_file_reads_all_pairs(data_root):
    read = read_preferences(
        "mmedpo",
        data_root / "preferences" / "mmedpo_vqa_rad.json",
        data_root / "vqa_rad" / "VQA_RAD Image Folder",
    )
    assert len(read.preferences) == 1797
    assert len(read.images) == 313
    assert read.dropped == ()
    assert sum(p.weight == 0 for p in read.preferences) == 12
    assert "12 of 1797 pairs have weight 0" in read.warnings[0]
    assert "1 words in the median and rejected ones 11" in read.warnings[1]
    first = read.preferences[0]
    assert (first.question, first.chosen.text) == ("Are regions of the brain infarcted?", "Yes")
    assert first.chosen.token_ids is None
    assert read.repairs == {"blank before an answer removed": 1796}


@pytest.fixture(scope="module")
def mmedpo(data_root):
    """Every fourth pair of the real file, the ones with weight 0 among them."""
    read = read_preferences("mmedpo", data_root / "preferences" / "mmedpo_vqa_rad.json", None)
    return [p for n, p in enumerate(read.preferences) if n % 4 == 0 or p.weight == 0], read.images


@pytest.mark.parametrize("form", NAMES)
def test_real_pairs_survive_every_form(form, mmedpo, tmp_path):
    before, images = mmedpo
    written, after = there_and_back(form, before, tmp_path, images)
    assert texts_of(after.preferences) == texts_of(before)
    assert [p.image for p in after.preferences] == [p.image for p in before]
    assert written.lost.get(IDLE_LOST, 0) == (0 if form in ("stllava", "mmedpo", "rlaif-v") else 12)


def test_a_preference_of_a_run_is_read_with_the_images_of_the_run(tmp_path):
    (tmp_path / "prefer").mkdir()
    (tmp_path / "prepare").mkdir()
    record = {"id": "a/p1", "path": "x.png", "group": "g", "sha256": "", "width": 1, "height": 1}
    write(tmp_path / "prepare" / "images.jsonl", record)
    path = tmp_path / "prefer" / "preferences.jsonl"
    path.write_text(preference().model_dump_json() + "\n")
    read = read_preferences("stllava", path, None)
    assert read.images == (SourceImage("a/p1", "x.png", "g"),)
    plan = {"settings": {"image_roots": {"data": "/somewhere", "run": "."}}}
    write(tmp_path / "prepare" / "plan.json", plan)
    read = read_preferences("stllava", path, None)
    assert read.warnings == ("the paths of the images start at /somewhere",)
    (tmp_path / "prepare" / "images.jsonl").unlink()
    with pytest.raises(DataError, match="no list of its images"):
        read_preferences("stllava", path, None)


CHOSEN = [{"from": "human", "value": "q\n<image>"}, {"from": "gpt", "value": "a"}]
REJECTED = [{"from": "human", "value": "q\n<image>"}, {"from": "gpt", "value": "b"}]
GOOD = {"image": "x.png", "chosen_conversations": CHOSEN, "reject_conversations": REJECTED}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"image": None}, "no image path in 'image'"),
        ({"image": "../x.png"}, "holds '..'"),
        ({"image": "/etc/x.png"}, "is absolute"),
        ({"image": ["a.png", "b.png"]}, "2 images"),
        ({"chosen_conversations": CHOSEN * 2}, "4 messages"),
        ({"reject_conversations": "b"}, "no list of messages"),
        ({"reject_conversations": [{**CHOSEN[0], "value": "other"}, REJECTED[1]]}, "different"),
        ({"reject_conversations": CHOSEN}, "the same text"),
        ({"chosen_conversations": [CHOSEN[0], {"from": "gpt", "value": "\n"}]}, "chosen is empty"),
    ],
)
def test_a_bad_row_is_dropped_with_its_reason_and_the_rest_goes_on(change, reason, tmp_path):
    read = read_preferences(
        "released", write(tmp_path / "x.json", [GOOD, {**GOOD, **change}]), None
    )
    assert len(read.preferences) == 1
    assert read.preferences[0].question == "q"
    assert read.repairs == {"image mark in another place than before the question": 1}
    assert [item.id for item in read.dropped] == ["x.json[1]"]
    assert reason in read.dropped[0].reason


def test_a_weight_that_is_no_number_is_dropped_not_trained_on(tmp_path):
    row = {"image": "x.png", "conversations": CHOSEN, "rejected_conversations": REJECTED}
    lines = [json.dumps({**row, "weighted_score": w}) for w in (1.0, float("nan"), -1, "high")]
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    read = read_preferences("mmedpo", tmp_path / "x.jsonl", None)
    assert [p.weight for p in read.preferences] == [1.0]
    assert [item.id for item in read.dropped] == ["x.jsonl:2", "x.jsonl:3", "x.jsonl:4"]


def test_a_missing_image_is_dropped_only_where_a_root_is_named(tmp_path):
    path = write(tmp_path / "x.json", [GOOD, {**GOOD, "image": "y.png"}])
    (tmp_path / "x.png").touch()
    assert len(read_preferences("released", path, None).preferences) == 2
    read = read_preferences("released", path, tmp_path)
    assert [p.image for p in read.preferences] == ["x"]
    assert "not found" in read.dropped[0].reason


def test_ids_that_repeat_are_numbered(tmp_path):
    row = {"id": 7, "image": "x.png", "conversations": CHOSEN, "rejected_conversations": REJECTED}
    read = read_preferences("mmedpo", write(tmp_path / "x.json", [row] * 3), None)
    assert [p.id for p in read.preferences] == ["mmedpo-7", "mmedpo-7#2", "mmedpo-7#3"]
    assert read.repairs["repeated id numbered"] == 2


def test_llama_factory_finds_the_file_in_dataset_info_beside_other_entries(tmp_path):
    write(tmp_path / "dataset_info.json", {"mine": {"file_name": "mine.json"}})
    written = write_preferences("llama-factory", [preference()], [IMAGE], tmp_path / "pairs.json")
    info = json.loads((tmp_path / "dataset_info.json").read_text())
    assert info["mine"] == {"file_name": "mine.json"}
    assert info["pairs"]["file_name"] == "pairs.json"
    assert info["pairs"]["ranking"] is True
    row = json.loads(written.path.read_text())[0]
    assert set(info["pairs"]["columns"].values()) <= set(row)
    assert row["conversations"][0]["value"].count("<image>") == len(row["images"]) == 1
    (tmp_path / "dataset_info.json").write_text("[")
    with pytest.raises(DataError, match="not JSON"):
        write_preferences("llama-factory", [preference()], [IMAGE], tmp_path / "pairs.json")


@pytest.mark.slow
def test_trl_reads_what_is_written(tmp_path):
    datasets = pytest.importorskip("datasets")
    from trl.data_utils import is_conversational, prepare_multimodal_messages

    PILImage.new("RGB", (4, 4)).save(tmp_path / "p1.png")
    image = SourceImage("a/p1", str(tmp_path / "p1.png"), "a/p1")
    out = tmp_path / "out.jsonl"
    write_preferences("trl", [preference("Yes\u2028no <image>")], [image], out)
    loaded = datasets.load_dataset("json", data_files=str(out), cache_dir=str(tmp_path / "cache"))
    rows = loaded["train"].cast_column("images", datasets.List(datasets.Image()))
    row = rows[0]
    assert is_conversational(row)
    (message,) = prepare_multimodal_messages(row["prompt"], images=row["images"])
    assert message["content"][0]["image"].size == (4, 4)
    assert row["chosen"][0]["content"][0]["text"] == "Yes\u2028no <image>"


@pytest.mark.parametrize(
    "row",
    [
        {"images": ["x.png"], "prompt": "q", "chosen": "a", "rejected": "b"},
        {"image": {"path": "x.png"}, "prompt": [{"role": "user", "content": "q"}],
         "chosen": [{"role": "assistant", "content": "a"}],
         "rejected": [{"role": "assistant", "content": "b"}]},
        {"images": [{"path": "x.png", "bytes": None}],
         "chosen": [{"role": "user", "content": [{"type": "image", "text": None},
                                                 {"type": "text", "text": "q"}]},
                    {"role": "assistant", "content": "a"}],
         "rejected": [{"role": "user", "content": [{"type": "image", "text": None},
                                                   {"type": "text", "text": "q"}]},
                      {"role": "assistant", "content": "b"}]},
    ],
)  # fmt: skip
def test_trl_rows_of_each_kind_are_read(row, tmp_path):
    read = read_preferences("trl", write(tmp_path / "x.jsonl", row), None)
    assert texts_of(read.preferences) == [("q", "a", "b")]
    assert read.images[0].path == "x.png"


def test_ms_swift_rejected_messages_are_read_too(tmp_path):
    asked = {"role": "user", "content": "<image>q"}
    row = {
        "messages": [
            {"role": "system", "content": "s"},
            asked,
            {"role": "assistant", "content": "a"},
        ],
        "rejected_messages": [asked, {"role": "assistant", "content": "b"}],
        "images": ["x.png"],
    }
    read = read_preferences("ms-swift", write(tmp_path / "x.jsonl", row), None)
    assert texts_of(read.preferences) == [("q", "a", "b")]
    assert read.repairs == {"system message left out": 1}


def test_rlaif_v_parquet_with_embedded_images_is_read_and_its_images_written(tmp_path):
    PILImage.new("RGB", (3, 3)).save(tmp_path / "x.png")
    row = {
        "ds_name": "RLAIF-V",
        "image": {"bytes": (tmp_path / "x.png").read_bytes(), "path": "coco/1.png"},
        "question": "q",
        "chosen": "a",
        "rejected": "b",
        "origin_dataset": "coco",
        "origin_split": "{}",
        "idx": "12",
    }
    path = tmp_path / "r.parquet"
    pq.write_table(pa.Table.from_pylist([row]), path)
    read = read_preferences("rlaif-v", path, None, extract_to=tmp_path / "images")
    assert texts_of(read.preferences) == [("q", "a", "b")]
    assert read.preferences[0].source == "coco"
    assert read.root == tmp_path / "images"
    assert (read.root / read.images[0].path).read_bytes() == row["image"]["bytes"]
    with pytest.raises(DataError, match="embedded"):
        read_preferences("rlaif-v", path, None)


@pytest.mark.parametrize("form", NAMES)
def test_files_are_utf_8_and_their_lines_end_at_newlines_only(form, tmp_path):
    odd = preference("a\u2028b\x85c\u2029d", "é 🫁\n\r\x0b\x1c", id="b/d3>d1", answers_id="b")
    out = tmp_path / "out.jsonl"
    write_preferences(form, [odd, preference()], [IMAGE], out)
    lines = out.read_bytes().decode("utf-8").splitlines()
    assert len(lines) == 2
    assert all(isinstance(json.loads(line), dict) for line in lines)


def test_released_rows_are_read_from_parquet_too(tmp_path):
    pq.write_table(pa.Table.from_pylist([GOOD, {**GOOD, "image": "y.png"}]), tmp_path / "x.parquet")
    read = read_preferences("released", tmp_path / "x.parquet", None)
    assert [i.path for i in read.images] == ["x.png", "y.png"]
    assert texts_of(read.preferences) == [("q", "a", "b")] * 2


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    out = tmp_path / "out.json"
    out.write_text("old")
    calls = Counter()

    def fails(row):
        calls["rows"] += 1
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("stllava.exchange.rows._line", fails)
    with pytest.raises(Exception, match="No space left"):
        write_preferences("trl", [preference()], [IMAGE], out)
    assert calls["rows"] == 1
    assert [(p.name, p.read_text()) for p in tmp_path.iterdir()] == [("out.json", "old")]


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--from", "mmedp", "--to", "trl"), "no such form"),
        (("--from", "trl", "--to", "trl"), "no usable preference of the form trl"),
        (("--from", "released", "--to", "csv"), "no such form"),
    ],
)
def test_convert_says_in_one_line_what_is_wrong(args, said, tmp_path):
    path = write(tmp_path / "x.json", [GOOD])
    done = runner.invoke(app, ["data", "convert", str(path), str(tmp_path / "y.json"), *args])
    assert isinstance(done.exception, DataError)
    assert said in str(done.exception)
    assert not (tmp_path / "y.json").exists()


def test_convert_prints_what_got_lost_and_overwrites_nothing(tmp_path):
    row = {"image": "x.png", "conversations": CHOSEN, "rejected_conversations": REJECTED,
           "weighted_score": 0.5}  # fmt: skip
    path = write(tmp_path / "x.json", [row, {**row, "image": ""}])
    command = ["data", "convert", str(path), str(tmp_path / "y.jsonl"), "--from", "mmedpo"]
    done = runner.invoke(app, [*command, "--to", "ms-swift"])
    assert done.exit_code == 0, done.output
    assert "1 pairs about 1 images" in done.output
    assert "lost            1  weight" in done.output
    assert "dropped         1  no image path in 'image' (first: x.json[1])" in done.output
    again = runner.invoke(app, [*command, "--to", "ms-swift"])
    assert "exists already" in str(again.exception)


def test_the_example_of_the_documentation_prints_what_it_says(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "preferences.md").read_text(encoding="utf-8")
    (data,) = re.findall(r"```json\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```text\n\$ stllava (.*?)\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pairs.json").write_text(data, encoding="utf-8")
    done = runner.invoke(app, shown[0].split())
    assert done.exit_code == 0, done.output
    assert done.output == shown[1]
    assert (tmp_path / "pairs.jsonl").is_file()


@pytest.mark.parametrize("form", NAMES)
def test_the_documentation_names_every_form(form):
    page = (Path(__file__).parent.parent / "docs" / "preferences.md").read_text(encoding="utf-8")
    assert f"| `{form}` |" in page


@pytest.mark.slow
def test_imported_real_pairs_train_and_those_of_weight_0_train_nothing(data_root):
    import torch
    import toy
    from stages import compute_reference, dpo_settings, micro_batch

    from stllava.training.dpo import DpoObjective, check_first_step

    path = data_root / "preferences" / "mmedpo_vqa_rad.json"
    read = read_preferences("mmedpo", path, None)
    idle = [p for p in read.preferences if p.weight == 0][:2]
    section = dpo_settings()

    def gradients(pairs):
        policy = toy.adapted(section)
        objective = DpoObjective(policy, pairs, toy.open_image, section)
        compute_reference(objective)
        scorer = toy.scorer_of(policy)
        micros = [objective.collate([(record_id, 0)]) for record_id in objective.ids]
        _, loss = check_first_step(objective, scorer, micros, bf16=False)
        objective.loss(scorer, micro_batch(objective)).total.backward()
        return loss, toy.gradients(policy)

    loss, moved = gradients(read.preferences[:3])
    assert loss == pytest.approx(0.6931, abs=1e-3)
    assert any(g.abs().max() > 0 for g in moved.values())
    _, still = gradients(idle)
    assert all(torch.count_nonzero(g) == 0 for g in still.values())

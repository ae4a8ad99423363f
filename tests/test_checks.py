"""`stllava data check`: planted defects are found, real files give the known counts."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from stllava.benchmarks import vqa_rad as benchmark
from stllava.checks import QUESTION_LEAKS, Material, Sign, check, read_report, write_report
from stllava.checks.identity import BURNED_IN
from stllava.checks.near import distance, from_hex, near_pairs
from stllava.checks.private import counted, hide, in_name, in_text, mask
from stllava.checks.run import check_run, image_roots
from stllava.checks.text import jaccard, normal
from stllava.errors import DataError, RunError
from stllava.images import inspect_image
from stllava.records import Conversation, Draw, Dropped, Image, Preference, Split, Turn, VQASample
from stllava.sources import vqa_rad as source


def image(name, *, group=None, sha=None, pixels=None, phash="", path=None):
    return Image(
        id=name, path=path or f"{name}.png", sha256=sha or f"file-{name}", width=8, height=8,
        group=group or name, source="folder", pixels_sha256=pixels or f"pixels-{name}",
        perceptual_hash=phash,
    )  # fmt: skip


def talk(name, *turns):
    said = tuple(Turn(question=question, answer=answer) for question, answer in turns)
    return Conversation(id=f"{name}/c", image=name, turns=said)


def sample(name, question="Is it a CT?", answer="Yes", *, number=0, **fields):
    return VQASample(
        id=f"{name}/t{number}", image=name, question=question, answer=answer, kind="open", **fields
    )


def pair(name, question, chosen, rejected, number=0):
    draws = [Draw(request_id="r", index=i, text=text) for i, text in enumerate((chosen, rejected))]
    return Preference(
        id=f"{name}/p{number}", answers_id="a", image=name, question=question, chosen=draws[0],
        rejected=draws[1], margin=1.0, source="judge",
    )  # fmt: skip


def codes(report):
    return {finding.code: finding.count for finding in report.findings}


# ---- real files


@pytest.fixture(scope="session")
def rad_test(vqa_rad_root: Path):
    return benchmark.read(vqa_rad_root).samples


@pytest.fixture(scope="session")
def restating(vqa_rad_root: Path):
    """The 3,064 training questions of the MEVF form, images named as in the official form."""
    rows = json.loads((vqa_rad_root / "trainset.json").read_text(encoding="utf-8"))
    return [
        Conversation(
            id=f"mevf-{row['qid']}",
            image=Path(row["image_name"]).stem,
            turns=(Turn(question=str(row["question"]), answer=str(row["answer"])),),
        )
        for row in rows
    ]


def without_aliases(samples):
    return [one.model_copy(update={"aliases": ()}) for one in samples]


def test_real_restating_set_leaks_286_of_451_questions_and_blocks(restating, rad_test):
    report = check(Material(conversations=restating, samples=rad_test))
    assert codes(report)["leak-question"] == 286
    assert report.of("leak-question").severity == "block"
    assert "16 in the same words, 273 in words that" in report.of("leak-question").what
    kinds = Counter(report.leaks.values())
    assert kinds["question"] + kinds["restated"] == 286


def test_real_official_split_restates_one_question_repeats_one_and_does_not_block(
    vqa_rad_root, rad_test
):
    read = source.read(vqa_rad_root)
    report = check(Material(conversations=read.conversations, samples=rad_test))
    assert Counter(report.leaks.values())["restated"] == 1
    assert Counter(report.leaks.values())["question"] == 1
    assert codes(report)["repeated-rows"] == 3
    assert codes(report)["leak-image"] == 202
    assert not report.blocks


def test_real_text_similarity_alone_finds_146_of_the_286_and_7_in_the_control(
    vqa_rad_root, restating, rad_test
):
    bare = without_aliases(rad_test)
    found = check(Material(conversations=restating, samples=bare))
    control = check(Material(conversations=source.read(vqa_rad_root).conversations, samples=bare))
    assert (codes(found)["leak-similar"], codes(control)["leak-similar"]) == (146, 7)
    assert "lower bound" in found.of("leak-similar").what


def test_real_preference_pairs_are_compared_with_the_test_like_training(data_root, rad_test):
    rows = json.loads((data_root / "preferences/mmedpo_vqa_rad.json").read_text(encoding="utf-8"))
    pairs = [
        pair(Path(row["image"]).stem, *(text.replace("<image>", "").strip() for text in texts), n)
        for n, row in enumerate(rows)
        for texts in [
            (
                row["conversations"][0]["value"],
                row["conversations"][1]["value"],
                row["rejected_conversations"][1]["value"],
            )
        ]
    ]
    report = check(Material(preferences=pairs, samples=rad_test))
    assert report.counts["preferences"] == 1797
    assert report.of("preference-leak-question").count == 2
    assert report.of("preference-leak-question").severity == "warn"
    assert report.of("preference-leak-image").count == 202
    assert report.of("leak-image") is None


def test_real_slake_training_and_validation_share_no_image_but_most_answers(data_root):
    rows = {
        name: [
            row
            for row in json.loads((data_root / f"slake/{name}.json").read_text(encoding="utf-8"))
            if row["q_lang"] == "en"
        ]
        for name in ("train_en", "validate")
    }
    told = [talk(r["img_name"], (r["question"], r["answer"])) for r in rows["train_en"]]
    asked = [
        sample(r["img_name"], r["question"], r["answer"], number=n)
        for n, r in enumerate(rows["validate"])
    ]
    report = check(Material(conversations=told, samples=asked))
    assert (report.counts["turns"], report.counts["samples"]) == (4919, 1053)
    assert not report.leaks
    assert report.of("answer-priors").count > 0.8 * 1053


def test_real_questions_answers_and_file_names_hold_nothing_that_identifies(
    data_root, vqa_rad_root
):
    texts = [
        str(row[field])
        for row in json.loads((vqa_rad_root / source.QUESTIONS).read_text(encoding="utf-8"))
        for field in ("question", "answer")
    ]
    names = [path.relative_to(data_root).as_posix() for path in data_root.rglob("*.jpg")]
    assert len(texts) == 4496
    assert len(names) > 300
    assert not [text for text in texts if in_text(text)]
    assert not [name for name in names if in_name(name)]


# ---- same picture, near picture


@pytest.fixture(scope="session")
def pictures(vqa_rad_root: Path, tmp_path_factory):
    """Eight real images, each with a copy that a pipeline might have made of it."""
    folder = tmp_path_factory.mktemp("pictures")
    names = sorted(path.name for path in (vqa_rad_root / source.IMAGES).iterdir())[::40][:8]
    for name in names:
        with PILImage.open(vqa_rad_root / source.IMAGES / name) as opened:
            picture = opened.convert("RGB")
        picture.thumbnail((360, 360))  # keeps the test quick
        stem = Path(name).stem
        picture.save(folder / f"{stem}-lossless.webp", lossless=True)
        picture.save(folder / f"{stem}-pixels.png")
        picture.resize((picture.width // 2, picture.height // 2)).save(folder / f"{stem}-half.png")
        picture.save(folder / f"{stem}-jpeg.jpg", quality=40)
        moved = PILImage.fromarray(np.roll(np.asarray(picture), (2, 2), axis=(0, 1)))
        moved.save(folder / f"{stem}-moved.png")
        picture.save(folder / f"{stem}.bmp")
    return [
        inspect_image(path.name, id=path.name, root=folder, group=path.name, source="folder")
        for path in sorted(folder.iterdir())
    ]


def kind_of(picture):
    return picture.id.rpartition("-")[2].partition(".")[0] if "-" in picture.id else "original"


def test_real_copies_with_equal_pixels_are_duplicates(pictures):
    equal = [p for p in pictures if kind_of(p) in ("original", "lossless", "pixels")]
    assert codes(check(Material(images=equal)))["duplicate-pixels"] == 16
    twice = [pictures[0], pictures[0].model_copy(update={"id": "again"})]
    assert codes(check(Material(images=twice)))["duplicate-files"] == 1


@pytest.mark.parametrize(("kind", "at_least"), [("half", 7), ("jpeg", 8), ("moved", 5)])
def test_real_rescaled_recompressed_and_moved_copies_are_near_duplicates(pictures, kind, at_least):
    trained = [p for p in pictures if kind_of(p) == "original"]
    held_out = [p for p in pictures if kind_of(p) == kind]
    report = check(
        Material(
            images=[*trained, *held_out],
            conversations=[talk(p.id, ("What organ?", "Lung")) for p in trained],
            samples=[sample(p.id, "what organ", "lung") for p in held_out],
        )
    )
    assert at_least <= codes(report)["leak-near-image"] <= 8
    assert codes(report)["leak-near-question"] == codes(report)["leak-near-image"]
    assert codes(report)["near-duplicates"] == 2 * codes(report)["leak-near-image"]
    assert report.of("near-duplicates").severity == "note"
    assert "look nearly like" in report.of("near-duplicates").what
    assert report.of("leak-question") is None


def test_different_real_pictures_are_not_near_duplicates(pictures):
    report = check(Material(images=[p for p in pictures if kind_of(p) == "original"]))
    assert "near-duplicates" not in codes(report)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2**64 - 1), max_size=12), st.data())
def test_near_pairs_are_those_that_a_comparison_of_all_with_all_finds(values, data):
    flips = st.lists(st.integers(0, 63), max_size=6)
    for value in list(values):
        values.append(value ^ sum(1 << bit for bit in set(data.draw(flips))))
    hashes = np.unique(np.array(values, dtype=np.uint64))
    expected = {
        (i, j)
        for i in range(len(hashes))
        for j in range(i + 1, len(hashes))
        if (int(hashes[i]) ^ int(hashes[j])).bit_count() <= 4
    }
    left, right = near_pairs(hashes)
    assert sorted(zip(left.tolist(), right.tolist(), strict=True)) == sorted(expected)


def test_distance_counts_differing_bits():
    one, other = from_hex(["0" * 16, "ff00000000000001"]), from_hex(["8" + "0" * 15] * 2)
    assert distance(one, other).tolist() == [1, 8]


def test_lookalikes_of_one_group_are_told_from_those_of_another():
    near, far = f"{0b111:016x}", f"{2**60 - 1:016x}"
    images = [
        image("a", group="p1", phash="0" * 16),
        image("b", group="p1", phash=near),
        image("c", group="p2", phash=far),
        image("d", group="p3", phash=far),
    ]
    found = check(Material(images=images)).of("near-duplicates")
    assert found.count == 4
    assert "2 of them like one of another group" in found.what


# ---- planted leaks


TURN = ("Is there a mass in the left lung?", "Yes")


@pytest.mark.parametrize(
    ("question", "answer", "aliases", "kind"),
    [
        ("Is there a mass in the left lung?", "No", (), "question"),
        ("is there  a MASS, in the left lung", "Yes", (), "question"),
        ("Mass?", "Yes", ("Is there a mass in the left lung?",), "restated"),
        ("Is a mass in the left lung seen?", "yes", (), "similar"),
        ("Is a mass in the left lung seen?", "no", (), "image"),
        ("What modality is it?", "CT", (), "image"),
    ],
)
def test_a_planted_leak_has_its_kind(question, answer, aliases, kind):
    held_out = sample("a", question, answer, aliases=aliases)
    report = check(Material(conversations=[talk("a", TURN)], samples=[held_out]))
    assert report.leaks == {"a/t0": kind}
    assert report.blocks == (kind in ("question", "restated"))
    assert (kind in QUESTION_LEAKS) == (kind != "image")


def test_the_same_picture_in_another_file_leaks_as_the_same_image():
    images = [image("a", pixels="p"), image("b", pixels="p"), image("c")]
    report = check(Material(images, [talk("a", TURN)], [sample("b", *TURN), sample("c", *TURN)]))
    assert report.leaks == {"b/t0": "question"}


def test_a_patient_on_both_sides_is_found_by_group():
    images = [image("a", group="p1"), image("b", group="p1"), image("c", group="p2")]
    report = check(Material(images, [talk("a", TURN)], [sample("b"), sample("c")]))
    assert report.leaks == {"b/t0": "group"}
    assert report.of("leak-group").examples == ("b",)
    assert not report.blocks


def test_one_leaked_question_in_a_hundred_warns_and_more_block():
    told = [talk(f"i{n}", TURN) for n in range(2)]

    def report(num_samples):
        samples = [sample(f"i{n}", *TURN) for n in range(num_samples)]
        return check(Material(conversations=told, samples=samples))

    assert report(200).of("leak-question").severity == "warn"
    assert report(199).of("leak-question").severity == "block"
    assert len(report(200).leaks) == 2


def test_a_leak_in_a_small_benchmark_is_not_hidden_by_a_large_one():
    large = [sample(f"i{n}", benchmark="large") for n in range(500)]
    small = [sample("a", *TURN, benchmark="small")]
    report = check(Material(conversations=[talk("a", TURN)], samples=[*large, *small]))
    assert report.blocks
    assert "1 of 1 questions of small" in report.of("leak-question").what


def test_images_of_the_training_part_leak_even_without_a_conversation():
    images = [image("a", pixels="p"), image("b", pixels="p")]
    splits = [Split(image="a", group="a", split="train"), Split(image="b", group="b", split="test")]
    assert check(Material(images, samples=[sample("b")], splits=splits)).leaks == {"b/t0": "image"}
    assert check(Material(images, samples=[sample("b")])).leaks == {"b/t0": "image"}


def test_development_and_test_must_not_share_a_patient():
    images = [image("a", group="p"), image("b", group="p"), image("c")]
    samples = [sample("a", split="dev"), sample("b"), sample("c")]
    found = check(Material(images, samples=samples)).of("leak-dev")
    assert found.examples == ("b",)


def test_clean_data_have_nothing_above_a_note():
    images = [image(name, group=f"p-{name}") for name in "abc"]
    report = check(
        Material(images, [talk("a", TURN), talk("b", TURN)], [sample("c", "What is it?", "CT")])
    )
    assert {finding.severity for finding in report.findings} == {"note"}
    assert report.leaks == {}


# ---- rows


def test_empty_repeated_and_contradictory_rows_are_counted():
    turns = [TURN, TURN, (TURN[0], "no"), ("What is it?", "A CT"), ("What is it?", " "), ("", "x")]
    report = check(Material(conversations=[talk("a", *turns), talk("b", TURN)]))
    assert codes(report)["empty-answers"] == 2
    assert codes(report)["repeated-rows"] == 1
    assert codes(report)["contradictory-answers"] == 1
    assert "1 of them both yes and no" in report.of("contradictory-answers").what


def test_two_long_answers_that_differ_do_not_contradict():
    long = "There is a large mass in the left lung, with several"
    turns = [("Describe it.", f"{long} nodules."), ("Describe it.", f"{long} cavities.")]
    assert "contradictory-answers" not in codes(check(Material(conversations=[talk("a", *turns)])))


def test_pairs_that_teach_nothing_or_the_opposite_of_another_are_counted():
    pairs = [pair("a", "Q?", "x", "y", 0), pair("a", "Q?", "y", "x", 1), pair("b", "Q?", "z", "z ")]
    report = check(Material(preferences=pairs))
    assert codes(report)["preference-reversed"] == 2
    assert codes(report)["preference-equal-texts"] == 1


def test_every_repair_warning_and_licence_is_said():
    report = check(
        Material(
            repairs={"slake": {"tab in answer": 5, "nothing": 0}},
            warnings=["SLAKE: 3 questions fewer than published"],
            licences={"slake": "CC BY 4.0", "mine": ""},
        )
    )
    said = [(f.code, f.count, f.what) for f in report.findings]
    assert ("repaired", 5, "slake: tab in answer") in said
    assert ("source-says", 1, "SLAKE: 3 questions fewer than published") in said
    assert ("licence", 1, "mine: licence not known") in said
    assert not [what for _, _, what in said if "nothing" in what]


def test_what_real_readers_say_when_they_drop_is_sorted_into_missing_and_corrupt(tmp_path: Path):
    (tmp_path / "text.png").write_text("no image")
    PILImage.effect_noise((64, 64), 50).save(tmp_path / "cut.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "cut.jpg").read_bytes()[:700])
    dropped = [Dropped(id="r", stage="prepare", reason="no list of conversations")]
    for name in ("gone.png", "text.png", "cut.jpg"):
        with pytest.raises(DataError) as error:
            inspect_image(name, id=name, root=tmp_path, group=name, source="folder")
        dropped.append(Dropped(id=name, stage="prepare", reason=str(error.value)))
    dropped.append(Dropped(id="c", stage="prepare", reason="its image was dropped"))
    report = check(Material(dropped=dropped))
    assert report.of("missing-images").examples == ("gone.png",)
    assert report.of("corrupt-images").examples == ("text.png", "cut.jpg")
    assert report.of("records-without-image").examples == ("c",)
    assert report.of("unusable-records").examples == ("r",)


# ---- what identifies


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("CT of Mr. Smith on 12/03/2014", ("name", "date")),
        ("On March 3, 2015 a mass was seen", ("date",)),
        ("MRN: 00123456", ("number",)),
        ("accession number A-123456", ("number",)),
        ("call 555-123-4567 or jo@example.org", ("number", "address")),
        ("The patient's name is Jane Roe.", ("name",)),
        ("DOE^JANE", ("name",)),
        ("Is the L4-5 disc at 2.5 x 3.14 cm on T2?", ()),
        ("Was Dr. consulted about the 1200 ml in 2014?", ()),
        ("Miss the nodule? ms and mr imaging, 100-200 HU", ()),
    ],
)
def test_identifying_texts_are_known_by_their_form_and_masked(text, kinds):
    assert in_text(text) == kinds
    for kind in kinds:
        assert f"<{kind}>" in mask(text)
    assert (mask(text) == text) == (not kinds)


@pytest.mark.parametrize(
    "name",
    ["roe_jane_19560412.png", "Roe, Jane/ct.png", "MRN_1234567.png", "DOE^J/1.dcm",
     "2019-03-05.jpg", "1.2.840.113619.2.55.3.604688119/1.dcm", "Mrs_Smith.png"],
)  # fmt: skip
def test_identifying_file_names_are_found_and_never_shown(name):
    images = [image("a", path=name), image("b"), image(Path(name).with_suffix("").as_posix())]
    report = check(Material(images=images, conversations=[talk(images[2].id, ("", "x"))]))
    assert report.of("private-names").count == 2
    assert report.of("empty-answers").count == 1
    words = [word for word in re.split(r"[^A-Za-z0-9]+", Path(name).stem) if len(word) > 3]
    assert not [word for word in words if word in report.model_dump_json()]


@pytest.mark.parametrize(
    "name",
    ["synpic54610.jpg", "xmlab0/source.jpg", "PMC1234567_fig2.jpg", "000000123456.jpg",
     "p10/p10000032/s50414267/02aa804e-bde0afdd.jpg", "patient00001/study1/view1_frontal.jpg"],
)  # fmt: skip
def test_names_as_public_data_sets_have_them_are_not_suspicious(name):
    assert in_name(name) == ()
    assert hide(name) == name


@settings(deadline=None)
@given(st.dates().map(str), st.text(alphabet="abc _-/", max_size=8))
def test_a_date_is_never_shown(date, around):
    shown = mask(f"{around} {date} {around}")
    assert date not in shown or not "1900" <= date[:4] <= "2099"


def test_identifying_texts_in_questions_aliases_and_answers_warn_without_their_values():
    material = Material(
        conversations=[talk("a", ("Who is it?", "Mrs. Miller, MRN 1234567"))],
        samples=[sample("b", aliases=("Was it taken on 2014-03-12?",))],
        preferences=[pair("c", "Q?", "Dr. Jones says so", "no")],
    )
    report = check(material)
    found = report.of("private-texts")
    assert (found.severity, found.count) == ("warn", 3)
    assert "2 names, 1 number, 1 date" in found.what
    assert not re.search("Miller|1234567|2014|Jones", report.model_dump_json())


def test_signs_in_files_become_findings_and_declared_burned_in_text_blocks():
    signs = [
        Sign("a", "dicom-patient", "PatientID (2 times), PatientName"),
        Sign("b", "dicom-patient", "PatientName"),
        Sign("b", "corner_text", ""),
    ]
    report = check(Material(images=[image("a"), image("b")], signs=signs, files_looked_at=2))
    assert report.of("private-dicom-patient").count == 2
    assert "(PatientName, PatientID)" in report.of("private-dicom-patient").what
    assert report.of("private-corner-text").count == 1
    assert not report.blocks
    assert report.of("files-not-looked-at") is None
    assert check(Material(signs=[Sign("a", *BURNED_IN)])).blocks
    assert not check(Material(signs=[Sign("a", BURNED_IN[0], "x is absent")])).blocks


def test_counts_read_as_a_sentence():
    assert counted([("date", "date"), ("address", "address"), ("name",)]).endswith("1 name")
    assert "2 addresses" in counted([("address", "address")])


# ---- text


@settings(deadline=None)
@given(st.text())
def test_normalising_twice_changes_nothing_more(text):
    assert normal(normal(text)) == normal(text)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(max_codepoint=127)))
def test_plain_text_takes_no_other_way_than_any_text(text):
    other = normal(f"{text} é")
    assert normal(text) == other.removesuffix("é").strip() or not re.search("[a-zA-Z0-9]", text)


@settings(deadline=None)
@given(st.lists(st.from_regex(r"[a-z0-9]{1,6}", fullmatch=True), min_size=1, max_size=6))
def test_case_signs_and_blanks_do_not_tell_texts_apart(words):
    assert normal("  ".join(word.upper() for word in words) + " ?") == normal("-".join(words))


def test_texts_of_signs_alone_differ():
    assert normal("?") != normal("+")
    assert normal(" + ") == "+"


@settings(deadline=None)
@given(st.text(alphabet="ab c"), st.text(alphabet="ab c"))
def test_similarity_is_a_share_and_symmetric(one, other):
    assert 0 <= jaccard(one, other) == jaccard(other, one) <= 1


# ---- runs


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run" / "prepare"
    folder.mkdir(parents=True)
    images = [image("a", pixels="p"), image("b", pixels="p")]
    files = {
        "images.jsonl": images,
        "conversations.jsonl": [talk("a", TURN)],
        "samples.jsonl": [sample("b", *TURN)],
        "splits.jsonl": [Split(image="a", group="a", split="train")],
    }
    for name, records in files.items():
        text = "".join(record.model_dump_json(exclude_defaults=True) + "\n" for record in records)
        (folder / name).write_text(text)
    return folder


def test_a_run_is_checked_from_its_records_alone(run: Path):
    report = check_run(run, repairs={"x": {"tab": 2}}, licences={"x": "CC0"})
    assert report.leaks == {"b/t0": "question"}
    assert {"repaired", "licence", "duplicate-pixels"} <= set(codes(report))
    assert report.blocks
    assert report.findings[0].severity == "block"


def test_a_run_says_what_its_stage_said_and_has_its_preferences(run: Path):
    said = {
        "repairs": {"tab in answer": 3},
        "warnings": ["look"],
        "licences": {"vqa_rad_root": "CC0"},
    }
    (run / "stage.json").write_text(json.dumps(said))
    (run.parent / "prefer").mkdir()
    line = pair("a", *TURN, "No").model_dump_json() + "\n"
    (run.parent / "prefer" / "preferences.jsonl").write_text(line)
    report = check_run(run)
    assert report.of("repaired").count == 3
    assert {"source-says", "licence", "preference-leak-question"} <= set(codes(report))


def test_a_report_survives_being_written_and_read(run: Path):
    report = check_run(run)
    path = write_report(report, run)
    assert path == run / "report.json"
    assert read_report(run) == report
    path.write_text('{"findings": 3}')
    with pytest.raises(DataError, match=r"report\.json: not a report"):
        read_report(run)


def test_a_folder_without_records_is_refused(tmp_path: Path):
    with pytest.raises(RunError, match=r"no images\.jsonl"):
        check_run(tmp_path)


def test_image_roots_are_those_of_the_plan(tmp_path: Path):
    folder = tmp_path / "prepare"
    folder.mkdir()
    assert image_roots(folder) == {"run": tmp_path / "."}
    (folder / "plan.json").write_text(
        json.dumps({"settings": {"image_roots": {"vqa_rad_root": "/data"}}})
    )
    assert image_roots(folder) == {"run": tmp_path / ".", "vqa_rad_root": Path("/data")}
    (folder / "plan.json").write_text(json.dumps({"settings": {"image_root": "/old"}}))
    assert image_roots(folder)["data"] == Path("/old")


def test_examples_are_at_most_five():
    report = check(Material(conversations=[talk(f"i{n}", ("", "x")) for n in range(9)]))
    assert (report.of("empty-answers").count, len(report.of("empty-answers").examples)) == (9, 5)

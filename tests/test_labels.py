"""Labels and reports become conversations, a benchmark, and parts that share no patient."""

from __future__ import annotations

import csv
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from stllava.config import BenchmarkSection, SourceSection
from stllava.errors import DataError
from stllava.labels import benchmark, slake, slake_boxes, source
from stllava.labels.conversations import MAX_TURNS
from stllava.labels.mapping import Columns, Finding, cell_text, load
from stllava.labels.report import by_topic, read_report, split_sentences
from stllava.labels.say import phrase
from stllava.labels.slake import LOCATIONS, ORGANS, REGIONS, is_absent
from stllava.labels.split import IMAGES, PARTS, split_groups
from stllava.labels.values import Value

FINDINGS = {
    "effusion": {
        "column": "Effusion",
        "wording": "a pleural effusion",
        "synonyms": ["pleural fluid"],
    },
    "cardiomegaly": {
        "column": "Heart size",
        "kind": "graded",
        "values": {0: "no", 1: "mild", 2: "marked"},
        "wording": "cardiomegaly",
    },
    "opacity": {"column": "Opacity side", "kind": "sided", "wording": "an opacity"},
    "note": {"column": "Note", "kind": "text", "question": "Which device is seen?"},
}
MAPPING = {
    "image": "file",
    "group": "patient",
    "view": "view",
    "modality": "modality",
    "findings": FINDINGS,
}
SIDES = ("left", "right", "both", "no")


def row(n, **cells):
    return {
        "file": f"p{n // 2}/{n}.png",
        "patient": f"p{n // 2}",
        "view": "frontal",
        "modality": "X-ray",
        "Effusion": str(n % 2),
        "Heart size": str(n % 3),
        "Opacity side": SIDES[n % 4],
        "Note": "a pacemaker" if n % 5 == 0 else "",
    } | cells


def folder_of(tmp_path, rows, mapping=MAPPING, *, images=True):
    with (tmp_path / "labels.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "mapping.yaml").write_text(yaml.safe_dump(mapping), encoding="utf-8")
    for name in {r.get(mapping.get("image", "image")) for r in rows} - {None, ""}:
        if images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).touch()
    return tmp_path


def sections(folder, kind="labels", **fields):
    fields = {"root": str(folder), "file": "labels.csv", "mapping": "mapping.yaml"} | fields
    return (
        SourceSection(source=kind, **fields),
        BenchmarkSection(benchmark="labels", **fields),
    )


@pytest.fixture(scope="module")
def forty(tmp_path_factory):
    """80 images of 40 patients, all kinds of findings."""
    folder = folder_of(tmp_path_factory.mktemp("forty"), [row(n) for n in range(80)])
    ours, test = sections(folder)
    dev = test.model_copy(update={"split": "validation"})
    return source.read(ours), benchmark.read(test), benchmark.read(dev)


def test_no_patient_is_in_two_parts_and_none_is_lost(forty):
    train, test, dev = ({image.group for image in part.images} for part in forty)
    assert not train & test
    assert not train & dev
    assert not test & dev
    assert len(train | test | dev) == 40
    assert sum(len(part.images) for part in forty) == 80


def test_source_and_benchmark_agree_on_what_an_image_is_called(forty):
    train, test, _ = forty
    assert {c.image for c in train.conversations} <= {i.id for i in train.images}
    assert {s.image for s in test.samples} <= {i.id for i in test.images}
    assert not {s.id for s in train.samples} & {s.id for s in test.samples}


@pytest.mark.parametrize("part", [0, 1])
def test_yes_and_no_are_in_balance_for_every_finding(forty, part):
    answers = defaultdict(Counter)
    for sample in forty[part].samples:
        if sample.categories["kind"] == "presence":
            answers[sample.categories["finding"]][sample.answer] += 1
    assert answers
    assert all(counts["yes"] == counts["no"] > 0 for counts in answers.values())


def test_conversations_keep_the_balance_of_yes_and_no(slake_read):
    answers = [t.answer for c in slake_read[0].conversations for t in c.turns]
    assert max(len(c.turns) for c in slake_read[0].conversations) == MAX_TURNS
    yes = sum(answer.startswith("Yes") for answer in answers)
    no = sum(answer.startswith("No") for answer in answers)
    assert yes == no > 300
    assert len({c.id for c in slake_read[0].conversations}) == len(slake_read[0].conversations)


def test_a_closed_question_has_its_answer_among_its_options(forty):
    for sample in forty[1].samples:
        assert (sample.kind == "closed") == bool(sample.options)
        assert not sample.options or sample.answer in sample.options
    kinds = {(s.categories["kind"], s.kind) for s in forty[1].samples}
    assert kinds == {
        ("presence", "closed"),
        ("side", "closed"),
        ("grade", "closed"),
        ("text", "open"),
        ("seen", "open"),
        ("modality", "open"),
        ("view", "open"),
    }


def test_benchmark_answers_are_what_the_table_says(forty):
    test = forty[1]
    truth = {f"p{n // 2}/{n}": n for n in range(80)}
    for sample in test.samples:
        n, finding = truth[sample.image], sample.categories.get("finding")
        expected = {
            ("presence", "effusion"): "yes" if n % 2 else "no",
            ("presence", "cardiomegaly"): "yes" if n % 3 else "no",
            ("presence", "opacity"): "no" if n % 4 == 3 else "yes",
            ("grade", "cardiomegaly"): ("no", "mild", "marked")[n % 3],
            ("side", "opacity"): SIDES[n % 4],
            ("text", "note"): "a pacemaker",
        }.get((sample.categories["kind"], finding))
        assert expected is None or sample.answer == expected
        if finding == "effusion":
            assert "pleural fluid" in sample.aliases[0]


def test_conversations_say_nothing_that_the_table_does_not(forty):
    for conversation in forty[0].conversations:
        n = int(conversation.image.rpartition("/")[2])
        said = " ".join(turn.answer for turn in conversation.turns).lower()
        asserted = said.replace("no pleural", "").replace("no cardio", "").replace("no opac", "")
        if n % 2 == 0:
            assert not any(f"{verb} a pleural effusion" in said for verb in ("is", "shows", "see"))
        if n % 3 == 2:
            assert "mild" not in asserted
        if n % 4 == 0:
            assert "right" not in said
            assert "both" not in said


def test_conversations_are_varied_and_the_same_every_time(forty, tmp_path):
    folder = folder_of(tmp_path, [row(n) for n in range(80)])
    assert source.read(sections(folder)[0]).conversations == forty[0].conversations
    wordings = Counter(
        turn.question
        for conversation in forty[0].conversations
        for turn in conversation.turns
        if "pleural" in turn.question
    )
    assert len(wordings) >= 8
    shuffled = folder_of(tmp_path, [row(n) for n in reversed(range(80))])
    again = {c.id: c for c in source.read(sections(shuffled)[0]).conversations}
    assert again == {c.id: c for c in forty[0].conversations}


def test_another_seed_parts_and_words_differently(tmp_path):
    rows = [row(n) for n in range(80)]
    first = source.read(sections(folder_of(tmp_path, rows))[0])
    other = source.read(sections(folder_of(tmp_path, rows, {**MAPPING, "seed": 1}))[0])
    assert {i.id for i in first.images} != {i.id for i in other.images}


def test_the_parts_do_not_depend_on_which_images_are_there(tmp_path):
    folder = folder_of(tmp_path, [row(n) for n in range(80)])
    ours, test = sections(folder)
    before, questions = source.read(ours), benchmark.read(test, images=False)
    missing = before.images[0]
    (folder / missing.path).unlink()
    after = source.read(ours)
    assert {i.id for i in before.images} - {i.id for i in after.images} == {missing.id}
    assert [d.id for d in after.dropped] == [missing.path]
    assert "not found" in after.dropped[0].reason
    assert benchmark.read(test, images=False).samples == questions.samples
    assert questions.root is None


def test_an_unknown_column_is_one_line_with_the_columns_there_are(tmp_path):
    findings = {"effusion": {"column": "Efusion"}}
    folder = folder_of(tmp_path, [row(0)], {**MAPPING, "findings": findings})
    with pytest.raises(DataError) as caught:
        source.read(sections(folder)[0])
    assert "findings.effusion.column" in str(caught.value)
    assert "did you mean 'Effusion'?" in str(caught.value)
    assert "it has file, patient, view" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_value_that_the_mapping_does_not_know_is_dropped_with_its_finding_only(tmp_path):
    rows = [row(n) for n in range(20)]
    rows[3]["Heart size"] = "7"
    rows[4]["Effusion"] = "-1"
    data = source.read(sections(folder_of(tmp_path, rows))[0])
    assert {d.id: d.reason for d in data.dropped} == {
        "labels.csv:5/cardiomegaly": "'Heart size' is '7', which is not in its values",
        "labels.csv:6/effusion": "'Effusion' is '-1', which is not in its values",
    }


def test_rows_that_cannot_be_used_are_dropped_with_a_reason(tmp_path):
    rows = [row(n) for n in range(20)]
    rows += [row(0, Effusion="1"), row(1), row(30, file=""), row(31, file="../x.png")]
    folder = folder_of(tmp_path, rows[:22])
    with (folder / "labels.csv").open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]))
        writer.writerows(rows[22:])
    data = source.read(sections(folder)[0])
    reasons = " | ".join(d.reason for d in data.dropped)
    assert len(data.dropped) == 3
    assert "again, with other labels" in reasons
    assert "no image in column 'file'" in reasons
    assert "holds '..'" in reasons
    assert data.repairs["repeated row left out"] == 1


def test_a_split_in_the_table_is_kept_and_a_straddling_patient_goes_to_the_test(tmp_path):
    rows = [row(n, split="train" if n < 14 else "test") for n in range(20)]
    rows[1]["split"] = "test"  # of patient p0, whose other image says train
    folder = folder_of(tmp_path, rows, {**MAPPING, "split": "split"})
    ours, test = sections(folder)
    data = source.read(ours)
    assert {i.group for i in data.images} == {f"p{n}" for n in range(1, 7)}
    assert {i.group for i in benchmark.read(test).images} == {"p0", "p7", "p8", "p9"}
    assert data.repairs["patient in several splits, moved to the strictest"] == 1
    with pytest.raises(DataError, match="no patient is in dev"):
        benchmark.read(test.model_copy(update={"split": "validation"}))


def test_columns_in_the_recipe_are_enough_for_simple_tables(tmp_path):
    rows = [{"path": f"{n}.png", "Pleural Effusion": n % 2} for n in range(30)]
    folder = folder_of(tmp_path, rows, {"image": "path"})
    columns = {"image": "path", "pleural_effusion": "Pleural Effusion"}
    data = source.read(sections(folder, mapping=None, columns=columns)[0])
    asked = [t.question for c in data.conversations for t in c.turns if "pleural" in t.question]
    assert asked
    assert "no column says which patient" in data.warnings[0]


def test_views_that_are_not_wanted_are_dropped(tmp_path):
    rows = [row(n, view="lateral" if n % 2 else "frontal") for n in range(40)]
    folder = folder_of(tmp_path, rows, {**MAPPING, "views": ["frontal"]})
    data = source.read(sections(folder)[0])
    assert {i.path.rpartition("/")[2] for i in data.images} <= {f"{n}.png" for n in range(0, 40, 2)}
    assert len(data.dropped) == 20


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("findings: {a: {colum: x}}", "findings.a.colum: no such field (did you mean 'column'?)"),
        ("grup: x", "grup: no such field (did you mean 'group'?)"),
        ("findings: {a: {column: x, kind: graded}}", "needs values"),
        ("findings: {a: {column: x, values: {1: maybe}}}", "'maybe' is no meaning of a binary"),
        ("fractions: [0.5, 0.5, 0.5]", "add up to 1"),
        ("a: [", "not YAML"),
        ("[]", "mapping"),
    ],
)
def test_a_bad_mapping_is_one_line_that_names_the_field(text, said, tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text(text)
    with pytest.raises(DataError) as caught:
        load(path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_yes_and_no_in_a_mapping_are_words_and_numbers_equal_in_any_spelling(tmp_path):
    path = tmp_path / "mapping.yaml"
    path.write_text(
        "findings: {a: {column: x, values: {1: yes, 0.0: no, -1: unknown, no: no, yes: true}}}"
    )
    finding = load(path).findings["a"]
    assert finding.values == {"1": "yes", "0": "no", "-1": "unknown", "no": "no", "yes": "yes"}
    assert [cell_text(c) for c in (1, 1.0, "1.0", " 1 ", True, None)] == ["1"] * 4 + ["true", ""]


def test_phrases_carry_grade_and_side_with_the_right_article():
    nodule = Finding(column="x", wording="a nodule")
    kidney = Finding(column="x", wording="kidney", of="structure")
    assert phrase(nodule, "a nodule", Value(True, side="left")) == "a nodule on the left"
    assert phrase(nodule, "a nodule", Value(True, grade="enlarged")) == "an enlarged nodule"
    assert phrase(nodule, "edema", Value(True, grade="mild")) == "mild edema"
    assert phrase(kidney, "kidney", Value(True, side="both")) == "the left and the right kidney"


groups = st.dictionaries(
    st.text("abc", min_size=1, max_size=4),
    st.dictionaries(st.sampled_from(["", "x", "y", "z"]), st.integers(1, 4)),
    min_size=1,
    max_size=30,
)


@given(groups=groups, seed=st.integers(0, 3))
@settings(max_examples=50, deadline=None)
def test_a_split_is_total_and_depends_on_nothing_but_its_arguments(groups, seed):
    parts = split_groups(groups, seed)
    assert set(parts) == set(groups)
    assert set(parts.values()) <= set(PARTS)
    assert split_groups(dict(reversed(groups.items())), seed) == parts
    assert set(split_groups(groups, seed, (0.5, 0.0, 0.5)).values()) <= {"train", "test"}


@pytest.mark.parametrize("seed", range(3))
def test_findings_are_as_frequent_in_every_part_within_two_points(seed):
    groups = {}
    for n in range(1000):
        images = 1 + n % 3
        groups[f"p{n}"] = {IMAGES: images} | {
            name: 1 for name, each in (("rare", 40), ("some", 9), ("often", 2)) if n % each == 0
        }
    parts = split_groups(groups, seed)
    total = sum(g[IMAGES] for g in groups.values())
    for part, fraction in zip(PARTS, (0.7, 0.1, 0.2), strict=True):
        mine = [groups[g] for g in groups if parts[g] == part]
        images = sum(g[IMAGES] for g in mine)
        assert images / total == pytest.approx(fraction, abs=0.01)
        for name in ("rare", "some", "often"):
            share = sum(g.get(name, 0) for g in mine) / images
            overall = sum(g.get(name, 0) for g in groups.values()) / total
            assert share == pytest.approx(overall, abs=0.02)


REPORT = """EXAMINATION: Chest radiograph.
INDICATION: ___ year old man with cough.
COMPARISON: 3/4/2011.
FINDINGS: The heart is normal in size. There is a 3.5 cm mass in the
left upper lobe, approx. at the level of Dr. Smith's marker. Unchanged small left effusion.
No pneumothorax is seen. Lungs are otherwise clear.

IMPRESSION:
1. Left upper lobe mass.
2. Recommend CT of the chest.
3. Compared to prior, no change.
"""


def test_a_report_is_taken_apart_and_what_one_image_cannot_show_is_left_out():
    counts = Counter()
    report = read_report(REPORT, counts)
    assert report.findings == (
        "The heart is normal in size.",
        "No pneumothorax is seen.",
        "Lungs are otherwise clear.",
    )
    assert report.impression == ("Left upper lobe mass.",)
    left_out = {name.rpartition(": ")[2]: number for name, number in counts.items()}
    assert left_out == {
        "comparison with another image": 2,
        "advice or communication": 2,
    }


@pytest.mark.parametrize(
    ("text", "sentences"),
    [
        ("A 2.5 cm nodule. No effusion.", ["A 2.5 cm nodule.", "No effusion."]),
        ("Clear lungs\nand normal heart.", ["Clear lungs and normal heart."]),
        ("1. One thing.\n2. Another thing", ["One thing.", "Another thing"]),
        ("1. One thing. 2. Another thing.", ["One thing.", "Another thing."]),
        ("Nodule, e.g. Granuloma. Fine.", ["Nodule, e.g. Granuloma.", "Fine."]),
        ("- first\n- second", ["first", "second"]),
        ("Level of C. Difficile", ["Level of C. Difficile"]),
        ("", []),
    ],
)
def test_sentences_end_where_they_end(text, sentences):
    assert split_sentences(text) == sentences


@given(st.text(max_size=300))
@settings(max_examples=60, deadline=None)
def test_splitting_loses_no_word(text):
    joined = " ".join(split_sentences(text))
    assert Counter("".join(joined.split())) <= Counter("".join(text.split()))
    assert "".join(c for c in joined if c.isalpha()) == "".join(c for c in text if c.isalpha())


def test_a_report_without_headings_is_all_findings():
    report = read_report("Heart size is normal. Findings: are not a heading here.", Counter())
    assert report.findings[0] == "Heart size is normal."
    assert report.impression == ()


@pytest.mark.parametrize(
    "text",
    [
        "HISTORY\nA cough.\nFINDINGS\nThe heart is large.\nIMPRESSION\nA large heart.",
        "Technique: one view. FINDINGS: The heart is large. IMPRESSION: A large heart.",
        "Findings:\nThe heart is large.\nConclusion: A large heart.\nRecommendation: none.",
    ],
)
def test_headings_are_found_as_people_write_them(text):
    report = read_report(text, Counter())
    assert report.findings == ("The heart is large.",)
    assert report.impression == ("A large heart.",)


@pytest.mark.parametrize(
    "sentence",
    [
        "Stable cardiomegaly.",
        "The effusion has increased.",
        "New opacity at the left base.",
        "History of pneumonia.",
        "The patient is rotated.",
        "Findings were discussed with Dr. Jones.",
        "PA and lateral views of the chest were obtained.",
        "Nodule seen on CT.",
        "The ___ is clear.",
        "Clinical correlation is advised.",
        "Persistent pleural effusion.",
        "Follow-up is suggested.",
    ],
)
def test_sentences_that_need_more_than_the_image_are_left_out(sentence):
    assert read_report(f"{sentence} The lungs are clear.", Counter()).sentences == (
        "The lungs are clear.",
    )


def test_sentences_about_two_parts_of_the_body_answer_for_neither():
    sentences = ("The heart is large.", "Heart and lungs are normal.", "The lungs are clear.")
    assert by_topic(sentences) == {
        "the heart": ("The heart is large.",),
        "the lungs": ("The lungs are clear.",),
    }


def test_reports_become_conversations_and_open_questions(tmp_path):
    rows = [{"image": f"{n}.png", "patient": n, "report": REPORT} for n in range(10)]
    folder = folder_of(tmp_path, rows, {"group": "patient", "report": "report"})
    ours, test = sections(folder, kind="reports")
    data = source.read(ours)
    assert len({c.image for c in data.conversations}) == len(data.images) == 7
    answers = {turn.answer for c in data.conversations for turn in c.turns}
    assert "Left upper lobe mass." in answers
    assert not any("nchanged" in answer or "ecommend" in answer for answer in answers)
    assert data.repairs["sentence of a report left out: comparison with another image"] == 14
    questions = {s.question: s.answer for s in benchmark.read(test).samples}
    assert questions["What is seen of the heart?"] == "The heart is normal in size."
    assert {s.kind for s in benchmark.read(test).samples} == {"open"}


def test_reports_may_be_files_of_their_own(tmp_path):
    rows = [{"image": f"{n}.png", "patient": n, "report": f"{n}.txt"} for n in range(10)]
    mapping = {"group": "patient", "report": "report", "report_files": "texts"}
    folder = folder_of(tmp_path, rows, mapping)
    (folder / "texts").mkdir()
    for n in range(9):
        (folder / "texts" / f"{n}.txt").write_text(REPORT)
    data = source.read(sections(folder, kind="reports")[0])
    assert [d.reason for d in data.dropped] == [
        "report '9.txt' cannot be read (No such file or directory)"
    ]
    assert data.conversations


@pytest.mark.parametrize(
    ("kind", "said"), [("reports", "no report column"), ("labels", "no findings")]
)
def test_a_source_without_what_it_is_made_of_is_an_error(kind, said, tmp_path):
    rows = [{"image": f"{n}.png"} for n in range(10)]
    folder = folder_of(tmp_path, rows, {})
    with pytest.raises(DataError, match=said):
        source.read(sections(folder, kind=kind)[0])


@pytest.fixture(scope="module")
def boxes(data_root):
    return slake_boxes(data_root / "slake")


@pytest.fixture(scope="module")
def slake_read(boxes, data_root, tmp_path_factory):
    table, mapping = slake.save(boxes, tmp_path_factory.mktemp("slake"))
    place = {"root": str(data_root / "slake" / "imgs"), "file": str(table), "mapping": str(mapping)}
    ours = SourceSection(source="labels", **place)
    test = BenchmarkSection(benchmark="labels", **place)
    return source.read(ours), benchmark.read(test)


def test_slake_boxes_are_read_for_every_real_image(boxes):
    assert len(boxes.rows) == 558
    first = boxes.rows[0]
    assert first["image"] == "xmlab0/source.jpg"
    assert (first["liver"], first["kidney"], first["spleen"]) == ("yes", "both", "yes")
    assert (first["tooth"], first["bladder"]) == ("no", "")
    assert sum(row["liver"] == "yes" for row in boxes.rows) == 134
    assert sum(row["brain_edema"] == "yes" for row in boxes.rows) == 111
    assert not any(row["brain_edema"] == "no" for row in boxes.rows)


def test_no_organ_that_slake_boxed_is_ever_ruled_out_by_its_region(boxes, data_root):
    found = Counter()
    places = slake._places(data_root / "slake")
    for row in boxes.rows:
        region = LOCATIONS[places[row["image"].split("/")[0]][1]]
        for organ in ORGANS:
            if row[organ.replace(" ", "_")] in ("yes", "left", "right", "both"):
                found["boxed"] += 1
                found["boxed where it cannot be"] += is_absent(organ, region)
    assert found["boxed"] > 600
    assert found["boxed where it cannot be"] == 0


def test_absence_needs_two_regions_between():
    assert is_absent("tooth", "chest") is False
    assert is_absent("tooth", "abdomen") is True
    assert is_absent("liver", "neck") is False
    assert is_absent("liver", "head") is True
    assert is_absent("bladder", "") is False
    assert not any(is_absent("spinal cord", region) for region in REGIONS)


def test_slake_boxes_become_training_data_and_a_benchmark_by_the_same_way(slake_read):
    data, test = slake_read
    assert len(data.images) == pytest.approx(0.7 * 558, abs=3)
    assert len(test.images) == pytest.approx(0.2 * 558, abs=3)
    assert data.dropped == test.dropped == ()
    assert "CC BY 4.0" in data.licence
    presence = [s for s in test.samples if s.categories["kind"] == "presence"]
    answers = Counter((s.categories["finding"], s.answer) for s in presence)
    assert sum(s.answer == "yes" for s in presence) * 2 == len(presence) > 100
    assert all(answers[name, "yes"] == answers[name, "no"] for name, _ in answers)


def test_slake_findings_are_as_frequent_in_train_as_in_test_within_three_points(boxes, slake_read):
    cells = {row["image"]: row for row in boxes.rows}
    for column in boxes.columns.findings:
        shares = []
        for part in slake_read:
            there = [cells[i.path][column] not in ("", "no") for i in part.images]
            shares.append(sum(there) / len(there))
        assert shares[0] == pytest.approx(shares[1], abs=0.03), column


def test_a_mapping_written_for_slake_reads_as_the_same_mapping(boxes, tmp_path):
    _, mapping = slake.save(boxes, tmp_path)
    assert load(mapping) == Columns.model_validate(boxes.columns.model_dump())


def test_the_example_of_the_documentation_is_read(tmp_path, monkeypatch):
    page = (Path(__file__).parent.parent / "docs" / "labels.md").read_text(encoding="utf-8")
    (table,) = re.findall(r"```csv\n(.*?)```", page, re.DOTALL)
    mapping, recipe = re.findall(r"```yaml\n(.*?)```", page, re.DOTALL)
    (shown,) = re.findall(r"```text\n(.*?)```", page, re.DOTALL)
    monkeypatch.chdir(tmp_path)
    Path("labels.csv").write_text(table)
    Path("mapping.yaml").write_text(mapping)
    for line in table.splitlines()[1:]:
        image = Path("images", line.split(",")[0])
        image.parent.mkdir(parents=True, exist_ok=True)
        image.touch()
    fields = yaml.safe_load(recipe)
    data = source.read(SourceSection.model_validate(fields["data"]))
    test = benchmark.read(BenchmarkSection.model_validate(fields["eval"]))
    assert data.dropped == test.dropped == ()
    assert {i.group for i in data.images} | {i.group for i in test.images} == {
        f"p{n}" for n in range(1, 6)
    }
    turns = {f"{t.question} -> {t.answer}" for c in data.conversations for t in c.turns}
    turns |= {f"{s.question} -> {s.answer}" for s in test.samples + data.samples}
    assert set(shown.splitlines()) <= turns

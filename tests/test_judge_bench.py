"""Known truths become pairs, and a judge that knows nothing comes out at chance."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest
from judged_pairs import RuleJudge, careless_coin, coin, first, longer
from PIL import Image as PILImage

from stllava.config import SourceSection
from stllava.errors import DataError
from stllava.generation.scripted import ScriptedGenerator
from stllava.judging.bench.couples import couples
from stllava.judging.bench.pairs import PAIR, BenchPair, bench_pairs
from stllava.judging.bench.read import known_answers, read_pair_file
from stllava.judging.bench.score import bench_score, shortfall
from stllava.judging.bench.text import text_only
from stllava.judging.bench.words import has_tables
from stllava.judging.bench.wrong import Known
from stllava.judging.pairing import normalise
from stllava.judging.protocol import ModelJudge
from stllava.labels import slake
from stllava.records import Conversation, Turn
from stllava.sources.open import read_source


def known(question, answer, number=0):
    return Known(f"k{number}", f"i{number}", f"g{number}", question, answer)


def exchanged(one, other):
    """Category and wrong answers of two patients with (question, answer) each; None: no couple."""
    items = [known(*one, 0), known(*other, 1)]
    found = [couple for made in couples(items).values() for couple in made]
    if not found:
        return None
    (one, other) = sorted(found[0], key=lambda facet: facet.item.id)
    return one.category, one.wrong(other), other.wrong(one)


# --- wrong answers


WHERE, MASS, TAKEN = "Where is the mass?", "Is there a mass?", "How was this image taken?"


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        ((MASS, "Yes"), (MASS, "no."), ("presence", "No", "yes.")),
        ((MASS, "Yes"), ("Is the heart large?", "No"), ("presence", "No", "Yes")),
        ((WHERE, "In the left lung."), (WHERE, "Right kidney"),
         ("side", "In the right lung.", "Left kidney")),
        ((WHERE, "The left-sided one"), (WHERE, "Right-sided"),
         ("side", "The right-sided one", "Left-sided")),
        (("Is it on the left or right?", "Left"), (WHERE, "right"), ("side", "Right", "left")),
        ((TAKEN, "Chest CT"), ("What modality was used?", "The image was taken by MRI."),
         ("modality", "Chest MRI", "The image was taken by CT.")),
        ((TAKEN, "X-ray"), (TAKEN, "ultrasound"), ("modality", "Ultrasound", "x-ray")),
        (("What is the MR weighting?", "T2"), ("What is the MR weighting?", "T1"),
         ("modality", "T1", "T2")),
        (("How many kidneys?", "2"), ("How many kidneys?", "0"), ("number", "0", "2")),
        (("How big is it?", "5 cm"), ("How large is the mass?", "2.5 cm"),
         ("number", "2.5 cm", "5 cm")),
        (("How is it?", "A small effusion"), ("How is it?", "Large nodes"),
         ("size", "A large effusion", "Small nodes")),
        (("What organ is shown?", "The liver"), ("What organ is shown here?", "Part of the brain"),
         ("other patient", "Part of the brain", "The liver")),
        (("Heart or lung, which is big?", "Heart"), ("Heart or lung, which is big?", "Lung"),
         ("other patient", "Lung", "Heart")),
        (("Do you see the liver?", "Yes, it is seen."),
         ("Do you see the liver?", "No, not at all."),
         ("presence", "No, not at all.", "Yes, it is seen.")),
    ],
)  # fmt: skip
def test_what_is_right_of_one_patient_is_wrong_of_the_other(one, other, expected):
    assert exchanged(one, other) == expected


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (("图片中包含肝脏吗?", "包含"), ("图片中包含肝脏吗?", "不包含"),
         ("presence", "不包含", "包含")),
        (("肺是异常的吗?", "是的"), ("肺是异常的吗?", "不是"), ("presence", "不是", "是的")),
        (("肿块在哪?", "左下肺"), ("肿块在哪?", "右侧"), ("side", "右下肺", "左侧")),
        (("成像方式是什么?", "核磁共振"), ("成像方式是什么?", "CT"),
         ("modality", "CT", "核磁共振")),
        (("图中有多少个肾脏?", "2"), ("图中有多少个肾脏?", "0"), ("number", "0", "2")),
        (("最大的器官是什么?", "肝脏"), ("最大的器官是什么?", "心脏"),
         ("other patient", "心脏", "肝脏")),
        (("肺是异常的吗?", "是"), ("肺是异常的吗?", "是的"), None),
        (("成像方式是什么?", "MRI"), ("成像方式是什么?", "核磁共振"), None),
        (("右侧的器官是什么?", "左肺"), ("右侧的器官是什么?", "右肺"), None),
        (("图像属于哪个部位?", "头部"), ("图像属于哪个部位?", "大脑"), None),
        (("疾病如何治疗?", "药物治疗"), ("疾病如何治疗?", "手术"), None),
    ],
)  # fmt: skip
def test_chinese_answers_are_exchanged_by_tables_of_their_own(one, other, expected):
    assert exchanged(one, other) == expected


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((WHERE, "The left and the right lung"), (WHERE, "Left lung")),
        (("What is it?", "The small bowel"), ("What is that?", "The large bowel")),
        (("How many?", "2 or 3"), ("How many are there?", "3")),
        (("How many lungs?", "2"), ("How many masses?", "one")),
        (("What vertebra?", "L4"), ("Which disc?", "L5")),
        (("What is next?", "A CT of the chest"), ("What is next?", "An MRI")),
        ((MASS, "That cannot be said."), (MASS, "Yes")),
        (("What are its features?", "Not sure"), ("What are its features?", "Gallstones")),
        (("What is it full of?", "Air?"), ("What is it full of?", "Water")),
        (("Which is smallest, colon, left lung or liver?", "Left lung"), (WHERE, "Right lung")),
        (("What is the rightmost organ?", "Left lung"), (WHERE, "Right lung")),
        (("Where is the liver?", "Left"), ("Where is the liver?", "Right")),
        (("Where is it, right or lower right?", "Right"), (WHERE, "Left")),
        (("What does this MRI show? What modality?", "MRI"), (TAKEN, "CT")),
        ((TAKEN, "With contrast"), (TAKEN, "X-ray")),
        ((TAKEN, "MR - ADC map"), (TAKEN, "X-ray")),
        (("What can cause asymmetrical breasts?", "Surgery"),
         ("What can cause asymmetrical breasts?", "Biopsy")),
        (("What is its function?", "Breathe"), ("What is its function?", "Ventilation")),
        (("What is in the right lung?", "Volume loss"), ("What is in the left lung?", "A node")),
        (("What plane is this?", "axial"), ("What organ system is this?", "GI")),
        (("What part is this?", "Head"), ("What part is this?", "Brain")),
        (("What organ is shown?", "The brain"), ("What organ is shown?", "Brain")),
        (("What is the location of the lesion?", "Pelvis"), ("What is the lesion?", "A cyst")),
        (("How big is it?", "5 cm"), ("How big is it?", "4.8 cm")),
    ],
)  # fmt: skip
def test_what_gives_itself_away_or_may_be_true_is_left_out(one, other):
    assert exchanged(one, other) is None


@pytest.mark.parametrize("answer", ["(Yes)", "*Yes*", "ＹＥＳ", "yes?", "[yes"])
def test_signs_around_an_answer_do_no_harm(answer):
    found = exchanged((MASS, answer), (MASS, "no"))
    assert found is None or normalise(found[1]) != normalise(answer)


def test_the_same_patient_is_no_other_one():
    items = [known("What organ?", "Brain"), known("What organ?", "Liver")._replace(id="k9")]
    assert not any(couples(items).values())


def test_those_who_were_asked_the_same_are_exchanged_first():
    items = [
        known(MASS, "Yes", 0), known("Is the heart large?", "No", 1), known(MASS, "No", 2),
        known("Is the heart large?", "Yes", 3),
    ]  # fmt: skip
    found = couples(items)["presence"]
    assert [one.item.question == other.item.question for one, other in found] == [True, True]


# --- pairs


def many(number=900, seed=0):
    """Answers of every kind; those about what is seen differ in length."""
    rng = random.Random(seed)
    seen = [
        "lung",
        "heart",
        "liver",
        "spleen",
        "kidney",
        "colon",
        "eye",
        "ear",
        "larynx",
        "bladder",
    ]
    made = []
    for n in range(number):
        listed = " and ".join(rng.sample(seen, rng.randint(1, 3)))
        question, answer = rng.choice(
            [
                ("Is there a mass?", rng.choice(["yes", "no"])),
                ("Where is the mass?", rng.choice(["left lobe", "right lobe"])),
                ("How many nodes?", str(rng.randint(1, 9))),
                ("What is seen?", listed),
                ("Can one see it?", rng.choice(["Yes, it can be seen.", "No, it is not."])),
            ]
        )
        made.append(Known(f"k{n}", f"i{n // 3}", f"g{n // 6}", question, answer))
    return made


def test_pairs_are_balanced_in_position_and_length_and_take_categories_in_turn():
    pairs = bench_pairs(many(), 200)
    assert len(pairs) == 200
    assert sum(pair.true_first for pair in pairs) == 100
    lengths = Counter(pair.length for pair in pairs)
    assert lengths["true longer"] == lengths["true shorter"] > 10
    for length in lengths:
        own = [pair.true_first for pair in pairs if pair.length == length]
        assert abs(2 * sum(own) - len(own)) <= 4
    categories = Counter(pair.category for pair in pairs)
    assert set(categories) == {"presence", "side", "number", "other patient"}
    assert min(categories.values()) > 40
    assert max(Counter(pair.image for pair in pairs).values()) <= 2


def test_pairs_depend_on_the_seed_alone_and_the_first_ones_stay_with_more():
    items = many(300)
    assert bench_pairs(items, 50) == bench_pairs(list(reversed(items)), 50)
    assert bench_pairs(items, 50) != bench_pairs(items, 50, seed=1)
    few = {pair.id for pair in bench_pairs(items, 50)}
    assert few <= {pair.id for pair in bench_pairs(items, 100)}


def test_true_and_wrong_differ_and_the_truth_is_where_the_pair_says():
    for pair in bench_pairs(many(), 100):
        assert normalise(pair.true) != normalise(pair.wrong)
        assert pair.answers.draws[pair.truth].text == pair.true
        assert pair.answers.draws[1 - pair.truth].text == pair.wrong


def score(judge, pairs):
    return bench_score(pairs, judge.judge((pair.answers, PAIR) for pair in pairs))


def more_characters(answers, order):
    first, second = (len(answers.draws[index].text) for index in order)
    return None if first == second else order[int(second > first)]


def says_yes(answers, order):
    """Likes what opens with yes; else what is shown first."""
    openings = {draw.text[:3].lower(): draw.index for draw in answers.draws}
    return openings.get("yes", order[0])


PAIRS = bench_pairs(many(600), 300)
TRUTH = {pair.id: pair.truth for pair in PAIRS}


@pytest.mark.parametrize("rule", [first, longer, says_yes, coin, careless_coin])
@pytest.mark.parametrize("orders", ["one", "both"])
def test_a_judge_that_knows_nothing_comes_out_at_chance(rule, orders):
    found = score(RuleJudge(rule, orders=orders), PAIRS)
    throws = rule in (coin, careless_coin)
    assert found["accuracy"]["percent"] == pytest.approx(50, abs=9 if throws else 1)
    assert found["lower_bound"] < 54
    assert shortfall(found, 0.4) is not None


def test_a_judge_that_always_likes_the_first_is_right_exactly_where_the_truth_is_first():
    found = score(RuleJudge(first), PAIRS)
    assert found["by_position"]["true shown first"]["percent"] == 100
    assert found["by_position"]["true shown second"]["percent"] == 0
    assert found["states"] == {"inconsistent": 300}
    assert found["right_of_all"]["percent"] == 0


def test_a_judge_that_counts_words_is_right_exactly_where_the_truth_is_longer():
    found = score(RuleJudge(longer), PAIRS)
    by_length = {name: part["percent"] for name, part in found["by_length"].items()}
    assert by_length == {"true longer": 100, "true shorter": 0, "equal": 50}
    assert found["at_equal_length"]["slope_interval"].low > 0


def test_a_judge_that_knows_is_always_right_and_its_bound_is_below_that():
    found = score(RuleJudge(lambda answers, order: TRUTH[answers.id]), PAIRS)
    assert found["accuracy"]["percent"] == 100
    assert 90 < found["lower_bound"] < 100
    assert {part["percent"] for part in found["by_category"].values()} == {100}
    assert found["judged"] == found["pairs"] == 300


def test_a_judge_of_known_skill_is_measured_as_such_by_category():
    skill = {"presence": 0.95, "side": 0.5, "number": 0.8, "other patient": 0.8}
    by_id = {pair.id: pair for pair in PAIRS}

    def rule(answers, order):
        pair = by_id[answers.id]
        right = random.Random(f"s{pair.id}").random() < skill[pair.category]
        return pair.truth if right else 1 - pair.truth

    for name, part in score(RuleJudge(rule), PAIRS)["by_category"].items():
        assert part["percent"] == pytest.approx(100 * skill[name], abs=15)


def test_a_model_that_refuses_has_no_accuracy():
    generator = ScriptedGenerator(lambda request, _: "I'm sorry, I can't help with that.")
    judge = ModelJudge(generator, name="m", orders="both")
    found = score(judge, PAIRS[:20])
    assert found["states"] == {"refused": 20}
    assert found["accuracy"]["n"] == 0
    assert found["lower_bound"] is None


def test_a_model_judge_is_measured_through_the_protocol():
    truths = {pair.true for pair in PAIRS if pair.category == "side"}
    generator = ScriptedGenerator(lambda request, _: "8 3")
    found = score(ModelJudge(generator, name="m", orders="both"), PAIRS)
    assert truths
    assert found["accuracy"]["percent"] == pytest.approx(50)
    assert found["states"] == {"inconsistent": 300}


# --- what the words alone are worth


def pair_of(true, wrong, number, question="How many?"):
    return BenchPair(
        id=f"b{number}", image=f"i{number}", group=f"g{number}", question=question, true=true,
        wrong=wrong, category="number", true_first=True,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("pairs", "rule"),
    [
        ([("9 cm", "12 cm"), ("2", "11")], "the smaller number"),
        ([("a large mass", "node"), ("a cyst", "cyst")], "the longer answer"),
        ([("Yes", "No"), ("是的", "不包含")], "yes"),
        ([("CT", "MRI"), ("CT", "PET"), ("PET", "CT"), ("CT", "MRI")],
         "the commonest answer to the same question"),
    ],
)  # fmt: skip
def test_the_best_rule_without_an_image_is_named(pairs, rule):
    found = text_only([pair_of(*texts, n) for n, texts in enumerate(pairs)])
    assert found["rules"][rule]["percent"] == found["percent"] >= 75
    assert found["n"] == found["num_groups"] == len(pairs)


def test_what_the_own_patient_was_told_does_not_make_an_answer_common():
    pair = pair_of("CT", "MRI", 0)
    known = [Known(f"k{n}", "i0", "g0", "How many?", "CT") for n in range(9)]
    other = Known("k9", "i9", "g9", "How many?", "MRI")
    assert text_only([pair], [*known, other])["rules"]["the commonest answer"]["percent"] == 0


def test_a_judge_is_let_in_only_above_what_a_rule_gets_without_the_image():
    pairs = [pair_of("2", "7", n) for n in range(60)]
    found = score(RuleJudge(lambda answers, order: 0), pairs)
    assert found["lower_bound"] > 90
    said = shortfall(found, 0.7)
    assert "is not above the 100.0 % that a rule has without the image (the commonest" in said


def test_chinese_lengths_are_counted_in_characters():
    assert pair_of("左下肺", "肺", 0).gap == 2
    assert pair_of("left lower lung", "lung", 0).gap == 2


def test_a_language_without_tables_is_told():
    assert not has_tables(["Où est la masse ?", "Quel organe est visible ?"])
    assert not has_tables(["肺はどこですか?"])
    assert has_tables(["肿块在哪?", "Where is it?", "Quel organe ?"])


# --- where truths come from


def test_every_answered_turn_is_known():
    turns = Turn(question="Q?", answer="A"), Turn(question="Open?", answer=None)
    said = Conversation(id="c", image="i", turns=turns)
    assert known_answers([said], {"i": "p"}) == [Known("c/t0", "i", "p", "Q?", "A")]


@pytest.mark.parametrize(("name", "number"), [("vqa-rad", 300), ("slake", 200)])
def test_vqa_rads_and_slakes_answers_become_balanced_pairs(data_root, name, number):
    root = data_root / name.replace("-", "_")
    source = read_source(SourceSection(source=name, root=str(root)), extract_to=None)
    groups = {image.id: image.group for image in source.images}
    pairs = bench_pairs(known_answers(source.conversations, groups), number)
    categories = Counter(pair.category for pair in pairs)
    assert len(pairs) == number
    own = {"number"} if name == "slake" else set()  # VQA-RAD counts the same thing alike
    assert {"presence", "side", "modality", "size", "other patient"} | own == set(categories)
    assert abs(sum(pair.true_first for pair in pairs) - number / 2) <= 1
    lengths = Counter(pair.length for pair in pairs)
    assert lengths["true longer"] == lengths["true shorter"]
    assert len({pair.group for pair in pairs}) > 0.5 * number
    for rule in (first, longer, says_yes, more_characters):
        assert score(RuleJudge(rule), pairs)["accuracy"]["percent"] == pytest.approx(50, abs=1)


@pytest.mark.parametrize(
    ("name", "language", "file", "number"),
    [
        ("vqa-rad", "en", None, 300),
        ("slake", "en", None, 200),
        ("slake", "zh", "validate.json", 180),
    ],
)
def test_no_rule_without_an_image_beats_a_coin_on_public_data(
    data_root, name, language, file, number
):
    root = data_root / name.replace("-", "_")
    section = SourceSection(source=name, root=str(root), language=language, file=file)
    source = read_source(section, extract_to=None)
    known = known_answers(source.conversations, {i.id: i.group for i in source.images})
    pairs = bench_pairs(known, number)
    assert len(pairs) == number
    assert {"presence", "side", "modality", "other patient"} <= {pair.category for pair in pairs}
    found = text_only(pairs, known)
    assert found["percent"] <= 52
    assert found["n"] == number
    assert set(found["rules"]) >= {"the longer answer", "the smaller number", "yes"}
    assert has_tables(item.question for item in known)


def test_slakes_boxes_become_pairs_of_sentences(data_root, tmp_path):
    root = data_root / "slake"
    table, mapping = slake.save(slake.slake_boxes(root), tmp_path)
    section = SourceSection(
        source="labels", root=str(root / "imgs"), file=str(table), mapping=str(mapping)
    )
    source = read_source(section, extract_to=None)
    pairs = bench_pairs(known_answers(source.conversations, {})[:600], 100)
    assert len(pairs) == 100
    assert {"presence", "side", "modality", "other patient"} == {pair.category for pair in pairs}
    denied = [pair for pair in pairs if pair.category == "presence"]
    assert all(pair.true.lower()[:2] != pair.wrong.lower()[:2] for pair in denied)
    assert score(RuleJudge(says_yes), pairs)["accuracy"]["percent"] == pytest.approx(50, abs=3)
    assert score(RuleJudge(longer), pairs)["accuracy"]["percent"] == pytest.approx(50, abs=1)


def pair_file(tmp_path, *rows):
    PILImage.new("RGB", (8, 8)).save(tmp_path / "a.png")
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


ROW = {"image": "a.png", "question": "Q?", "answer_1": "good", "answer_2": "bad", "preferred": 1}


def test_a_public_judge_benchmark_is_read_and_its_order_balanced(tmp_path):
    other = {"answer_1": "bad", "answer_2": "good", "preferred": "B", "category": "c"}
    rows = [ROW, ROW, ROW | other, ROW | {"preferred": "tie"}]
    found = read_pair_file(pair_file(tmp_path, *rows))
    assert [(p.true, p.wrong) for p in found.pairs] == [("good", "bad")] * 3
    assert {pair.true_first for pair in found.pairs} == {True, False}
    assert [pair.category for pair in found.pairs] == ["given", "given", "c"]
    assert found.num_ties == 1
    assert set(found.images.values()) == {tmp_path / "a.png"}


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"preferred": "third"}, "preferred is 'third'"),
        ({"image": "b.png"}, "no such image"),
        ({"image": "../../etc/passwd"}, "passwd"),
    ],
)
def test_a_row_that_does_not_fit_is_named(tmp_path, row, message):
    with pytest.raises(DataError, match=message):
        read_pair_file(pair_file(tmp_path, ROW | row))


def test_a_missing_field_is_named_with_its_line(tmp_path):
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: no preferred in it"):
        read_pair_file(pair_file(tmp_path, {k: v for k, v in ROW.items() if k != "preferred"}))

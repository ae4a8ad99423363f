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
from stllava.judging.bench import PAIR, bench_pairs, bench_score
from stllava.judging.bench_read import known_answers, read_pair_file
from stllava.judging.bench_wrong import Known, Others, wrong_answer
from stllava.judging.pairing import normalise
from stllava.judging.protocol import ModelJudge
from stllava.labels import slake
from stllava.records import Conversation, Turn
from stllava.sources.open import read_source


def known(question, answer, number=0):
    return Known(f"k{number}", f"i{number}", f"g{number}", question, answer)


def wrong(question, answer, *others):
    items = [known(question, answer), *(known(*o, n + 1) for n, o in enumerate(others))]
    found = wrong_answer(items[0], Others(items))
    return tuple(found) if found else None


# --- wrong answers


@pytest.mark.parametrize(
    ("question", "answer", "expected"),
    [
        ("Is there a mass?", "Yes", ("presence", "No")),
        ("Is there a mass?", "no.", ("presence", "yes.")),
        ("Where is the mass?", "In the left lung.", ("side", "In the right lung.")),
        ("Where is the mass?", "Right", ("side", "Left")),
        ("Where is it?", "The left-sided one", ("side", "The right-sided one")),
        ("What modality was used?", "Chest CT", ("modality", "Chest MRI")),
        ("How was this image taken?", "The image was taken by MRI.",
         ("modality", "The image was taken by CT.")),
        ("What is the MR weighting?", "T2", ("modality", "T1")),
        ("How many kidneys?", "2", ("number", "3")),
        ("How many nodes?", "Three nodes", ("number", "Five nodes")),
        ("How big is it?", "5 cm", ("number", "10 cm")),
        ("How big is it?", "2.5 cm", ("number", "5 cm")),
        ("How is the effusion?", "A small effusion", ("size", "A large effusion")),
    ],
)  # fmt: skip
def test_one_thing_about_a_true_answer_is_changed(question, answer, expected):
    assert wrong(question, answer) == expected


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("Where is it?", "The left and the right lung"),
        ("What is it?", "The small bowel"),
        ("How many?", "2 or 3"),
        ("What vertebra?", "L4"),
        ("What is next?", "A CT of the chest"),
        ("Is it solid or cystic?", "cystic"),
        ("Is there a mass?", "That cannot be said."),
    ],
)
def test_what_cannot_be_made_wrong_for_certain_is_left_out(question, answer):
    assert wrong(question, answer) is None


def test_a_sentence_that_affirms_is_denied_in_another_patients_words():
    asked = "Do you see the liver?"
    others = (asked, "Yes."), ("Do you see the lung?", "No."), (asked, "No, the liver is not seen.")
    assert wrong(asked, "Yes, the liver is seen.", *others) == (
        "presence",
        "No, the liver is not seen.",
    )


def test_another_patients_answer_is_to_the_most_similar_question_and_says_something_else():
    asked = "What organ is shown?"
    others = [
        ("What is the modality of it?", "Fluoroscopy"),
        ("What organ is pictured?", "The liver"),
        ("What organ is shown?", "Part of the brain"),
    ]
    assert wrong(asked, "The brain", *others) == ("other patient", "The liver")
    assert wrong(asked, "The brain", (asked, "Brain")) is None


def test_the_same_patient_is_not_another_one():
    items = [known("What organ?", "Brain"), known("What organ?", "Liver")._replace(id="k9")]
    assert wrong_answer(items[0], Others(items)) is None


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
    assert {"presence", "side", "modality", "number", "size", "other patient"} == set(categories)
    assert abs(sum(pair.true_first for pair in pairs) - number / 2) <= 1
    lengths = Counter(pair.length for pair in pairs)
    assert lengths["true longer"] == lengths["true shorter"]
    assert len({pair.group for pair in pairs}) > 0.5 * number
    for rule in (first, longer, says_yes):
        assert score(RuleJudge(rule), pairs)["accuracy"]["percent"] == pytest.approx(50, abs=1)


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

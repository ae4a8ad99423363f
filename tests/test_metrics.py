"""stllava.metrics: what an answer is worth, and how sure the mean is."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stllava.errors import DataError
from stllava.metrics.blind import blind_baselines
from stllava.metrics.closed import closed_correct, verdict
from stllava.metrics.interval import clustered_intervals, paired_difference, wilson
from stllava.metrics.modes import MODES, measure, spoken
from stllava.metrics.scores import fingerprint, score_all, score_item, score_sheet, summarise
from stllava.metrics.text import normalise, overlap, recall_at_k, repeats_itself
from stllava.records import Item, Prediction, VQASample


def sample(name: str, answer: str, *, kind: str = "closed", **fields) -> VQASample:
    question = fields.pop("question", "Is there a mass?")
    return VQASample(
        id=name, image=f"image-{name}", question=question, answer=answer, kind=kind, **fields
    )


def item(name: str, accuracy: float, group: str) -> Item:
    return Item(id=name, image=name, group=group, kind="closed", metrics={"accuracy": accuracy})


def says(name: str, text: str, finish: str = "stop") -> Prediction:
    return Prediction(id=name, text=text, finish=finish)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Left lung.", "left lung"),
        ("X-ray", "x ray"),
        ("T2-weighted MRI", "t2 weighted mri"),
        ("5.5cm", "5.5 cm"),
        ("5-10 mm", "5 10 mm"),
        ("-30 HU", "-30 hu"),
        ("3,000 ml", "3000 ml"),
        (".5 %", "0.5 %"),
        ("two lesions", "2 lesions"),
        ("P.A. view: chest", "pa view chest"),
        ("patient’s heart", "patient heart"),
        ("ＣＴ", "ct"),
        ("A", "a"),
        (" . ", ""),
    ],
)
def test_words_keep_numbers_and_units_and_split_hyphens(text: str, expected: str):
    assert normalise(text) == expected


@given(st.text(alphabet=st.one_of(st.characters(), st.sampled_from("aT2 .,-'’%°5cm"))))
def test_normalising_twice_changes_nothing(text: str):
    assert normalise(normalise(text)) == normalise(text)


def test_repeating_a_word_earns_nothing():
    assert overlap("lung lung lung", "left lung") == pytest.approx((50, 100 / 3, 40, 0))


def test_overlap_shares_are_of_reference_and_answer_words():
    assert overlap("mass in the left lung", "left lung") == pytest.approx((100, 50, 200 / 3, 0))


def test_exact_match_is_equality_not_a_share_of_words():
    assert overlap("the left lung.", "Left lung").exact == 100
    assert overlap("lung left", "left lung").exact == 0


@given(st.text("ab cd", max_size=20), st.text("ab cd", max_size=20))
def test_f1_lies_between_precision_and_recall_and_is_symmetric(answer: str, reference: str):
    there, back = overlap(answer, reference), overlap(reference, answer)
    assert there.f1 == back.f1
    assert there.recall == back.precision
    assert min(there[:2]) - 1e-9 <= there.f1 <= max(there[:2]) + 1e-9


def test_recall_at_k_looks_at_the_first_words_only():
    assert recall_at_k("it may be in the left lung", "left lung", 5) == 50
    assert recall_at_k("left lung", "left lung", 5) == 100


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ("Yes.", "yes"),
        ("**Yes**, there is no", "yes"),
        ("Answer: no", "no"),
        ("The correct answer is no.", "no"),
        ("Based on the image, yes, the heart is enlarged.", "yes"),
        ("No, the heart is normal, yes?", "no"),
        ("There is no evidence of a fracture", "no"),
        ("There are no masses.", "no"),
        ("The heart is not enlarged", "no"),
        ("It isn't visible", "no"),
        ("In this image, there is no pneumothorax", "no"),
        ("Neither lung is affected", "no"),
        ("There is a mass in the liver", "yes"),
        ("A pneumothorax is clearly visible, no effusion", "yes"),
        ("The lesion is large, so yes", "yes"),
        ("There's a mass", "yes"),
        ("There’s no mass", "no"),
        ("Present.", "yes"),
        ("Absent.", "no"),
        ("present as nodules", "abstain"),
        ("Pneumonia cannot be excluded", "abstain"),
        ("I cannot exclude a fracture.", "abstain"),
        ("I can’t tell", "abstain"),
        ("It cannot be told.", "abstain"),
        ("That cannot be said with certainty.", "abstain"),
        ("A fracture cannot be completely excluded.", "abstain"),
        ("It can neither be confirmed nor excluded.", "abstain"),
        ("It isn't clear", "abstain"),
        ("I do not have enough information.", "abstain"),
        ("The image does not provide enough information to say so", "abstain"),
        ("There is no way of knowing.", "abstain"),
        ("I'm not entirely sure", "abstain"),
        ("Not applicable", "abstain"),
        ("The mass cannot be seen", "no"),
        ("I cannot see the image", "abstain"),
        ("I'm not sure", "abstain"),
        ("No idea", "abstain"),
        ("It is not absent", "abstain"),
        ("The heart is abnormal", "abstain"),
        ("diagnosis of a nodule", "abstain"),
        ("I know this", "abstain"),
        ("", "abstain"),
        ("yes and no", "both"),
        ("[yes, no]", "both"),
        ("Yes or no.", "both"),
    ],
)
def test_verdict_of_a_yes_no_question(answer: str, kind: str):
    assert verdict(answer).kind == kind


@pytest.mark.parametrize(
    ("answer", "gold", "options", "is_right"),
    [
        ("Left side", "left", (), True),
        ("It is on the left", "Left side", ("left", "right"), True),
        ("On the right, not the left", "Left", ("left", "right"), False),
        ("This is an MRI, not a CT", "MRI", ("CT", "MRI"), True),
        ("CT rather than MRI", "CT", ("CT", "MRI"), True),
        ("left or right", "left", ("left", "right"), False),
        ("left and right", "left", ("left", "right"), False),
        ("abnormal", "normal", ("normal", "abnormal"), False),
        ("contrast", "non-contrast", ("contrast", "non-contrast"), False),
        ("Non contrast CT", "non-contrast", ("contrast", "non-contrast"), True),
        ("one", "1", (), True),
        ("yes", "Axial", ("axial", "coronal"), False),
        ("The heart is abnormal", "no", (), False),
        ("The diagnosis is nodule", "no", (), False),
        ("YES", "Yes.", (), True),
    ],
)
def test_closed_answers_are_right_by_verdict_not_by_substring(answer, gold, options, is_right):
    assert closed_correct(answer, gold, options) is is_right


@given(st.text())
def test_any_text_has_a_verdict(text: str):
    for options in ((), ("yes", "no"), ("left", "right")):
        found = verdict(text, options)
        assert (found.choice is None) == (found.kind in ("abstain", "both"))


def test_a_missing_answer_is_left_out_and_both_bounds_are_given():
    samples = [sample(name, "yes") for name in "abcd"]
    predictions = [says("a", "yes"), says("b", "no"), says("c", "", finish="error")]
    closed = summarise(score_all(samples, predictions, {}))["closed"]
    assert (closed["n"], closed["missing"], closed["correct"]) == (2, 2, 1)
    assert closed["accuracy"] == 50
    assert closed["bounds"]["accuracy"] == [25, 75]


def test_an_empty_answer_is_an_answer_that_abstains():
    scored = score_item(sample("a", "no"), says("a", ""), "g")
    assert (scored.missing, scored.verdict, scored.metrics) == (False, "abstain", {"accuracy": 0})


def test_summary_is_json_and_counts_categories_once_per_type():
    samples = [
        sample("a", "no", categories={"type": "POS|PRES"}),
        sample("b", "left lung", kind="open", categories={"type": "POS"}),
    ]
    items = score_all(samples, [says("a", "No"), says("b", "the left lung")], {})
    scores = summarise(items)
    assert json.loads(json.dumps(scores, allow_nan=False)) == scores
    assert scores["categories"]["type"]["POS"]["n"] == 2
    assert scores["categories"]["type"]["PRES"]["closed"] == {"n": 1, "accuracy": 100}
    assert scores["answer_words"] == {"mean": 2, "median": 2}
    assert scores["open"]["exact"] == 100
    assert (scores["num_groups"], scores["missing"]) == (2, 0)


def test_summary_of_nothing_has_no_numbers():
    scores = summarise([])
    assert scores["open"]["recall"] is None
    assert scores["closed"]["ci95"] == {"accuracy": None}


def test_wilson_of_eight_in_ten_is_49_to_94_percent():
    assert wilson(8, 10) == pytest.approx((49.0162, 94.3318), abs=1e-3)
    assert wilson(0, 10)[0] == 0
    assert wilson(0, 0) is None


def test_intervals_are_wider_when_questions_of_a_group_agree():
    values = np.repeat([[0.0], [100.0]], 50, axis=0)
    values = np.tile(values, (2, 1))
    alone = clustered_intervals(values, [str(index) for index in range(200)])
    grouped = clustered_intervals(values, [str(index // 10) for index in range(200)])
    assert grouped[0].high - grouped[0].low > 2.5 * (alone[0].high - alone[0].low)
    assert alone[0].high - alone[0].low == pytest.approx(2 * 1.96 * 50 / math.sqrt(200), rel=0.1)


def test_intervals_repeat_with_the_seed_and_ignore_input_order():
    values, groups = np.sqrt(np.arange(12.0))[:, None], list("aabbccddeeff")
    first = clustered_intervals(values, groups, seed=3)
    assert clustered_intervals(values[::-1], groups[::-1], seed=3) == first
    assert clustered_intervals(values, groups, seed=4) != first


def test_one_group_has_no_interval():
    assert clustered_intervals([[1.0], [2.0]], ["a", "a"]) is None


def test_paired_difference_sees_what_two_intervals_hide():
    rng = np.random.default_rng(0)
    base = rng.random(300) < 0.5
    better = base | (rng.random(300) < 0.1)
    a = [item(str(i), 100.0 * base[i], str(i // 3)) for i in range(300)]
    b = [item(str(i), 100.0 * better[i], str(i // 3)) for i in range(300)]
    found = paired_difference(a, b[:299], "accuracy")
    assert found.interval.low > 0
    assert found.p < 0.01
    assert (found.losses, found.num_items, found.num_unpaired) == (0, 299, 1)
    assert paired_difference(a, a, "accuracy").p == 1


def test_results_without_a_common_question_cannot_be_compared():
    with pytest.raises(DataError, match="compare the same benchmark"):
        paired_difference([item("a", 0, "a")], [item("b", 0, "b")], "accuracy")


def test_blind_baselines_know_constants_and_usual_answers():
    samples = [
        *(sample(str(i), "no") for i in range(3)),
        sample("3", "yes"),
        sample("4", "left", options=("left", "right"), question="Left or right?"),
        sample("5", "axial", kind="open", question="What plane is it?"),
    ]
    train = [("What plane is this?", "Axial"), ("What plane?", "axial"), ("Is it big?", "no")]
    blind = blind_baselines(samples, train)
    assert blind["closed"]["yes"] == blind["closed"]["yes_there_is_no"] == 20
    assert blind["closed"]["best_constant"] == {"answer": "no", "accuracy": 60}
    assert blind["closed"]["majority"] == 60
    assert blind["open"]["majority"]["recall"] == 100
    assert "majority" not in blind_baselines(samples)["closed"]


def test_baselines_are_scored_by_the_mode_of_the_table():
    samples = [sample("0", "no"), sample("1", "yes")]
    blind = {mode: blind_baselines(samples, mode=mode)["closed"] for mode in MODES}
    assert blind["llavamed-batch"]["yes_there_is_no"] == 100
    assert blind["corrected"]["yes_there_is_no"] == 50
    assert blind["llavamed-prefix"]["no"] == 100  # the wrong one is left out


def test_frequent_training_words_are_a_baseline_of_open_questions():
    samples = [sample("0", "left lung", kind="open")]
    train = [("Which?", "left lung"), ("Where?", "lung"), ("Is it?", "yes")]
    found = blind_baselines(samples, train)["open"]
    assert found["train_keywords"] == pytest.approx(
        {"recall": 100, "f1": 100, "precision": 100, "exact": 0}
    )
    assert found["keywords"]["recall"] == 100
    assert found["keywords"]["f1"] < 25


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("Assistant: yes", "yes"),
        ("### Human: Is it? ### Assistant: no", "no"),
        ("<think>It may be left.</think>right", "right"),
        ("USER: yes", "yes"),
        ("the assistant: yes", "the assistant: yes"),
        ("", ""),
    ],
)
def test_labels_and_thoughts_before_an_answer_are_not_part_of_it(text: str, answer: str):
    assert spoken(text).strip() == answer


@pytest.mark.parametrize(
    ("text", "is_so"),
    [
        ("yes yes yes yes", True),
        ("the left lung is large and the left lung is large and the left lung is large", True),
        ("left, left and left", False),
        ("there is a mass in the left lung and a nodule in the right lung", False),
        ("", False),
    ],
)
def test_a_generation_that_got_stuck_repeats_itself(text: str, is_so: bool):
    assert repeats_itself(text) is is_so


def test_a_long_answer_gains_recall_but_not_of_its_first_words():
    asked = sample("a", "axial", kind="open")
    metrics = measure(asked, "It is one of coronal, sagittal, oblique, curved or axial").metrics
    assert (metrics["recall"], metrics["recall_at_5"], metrics["recall_at_10"]) == (100, 0, 100)


def test_images_count_the_same_in_the_image_mean():
    samples = [sample(str(n), "yes").model_copy(update={"image": "ab"[n == 3]}) for n in range(4)]
    said = [says(str(n), "yes" if n == 3 else "no") for n in range(4)]
    closed = summarise(score_all(samples, said, {}))["closed"]
    assert (closed["accuracy"], closed["image_macro"]["accuracy"]) == (25, 50)


def test_a_question_moves_between_kinds_by_its_answer_text():
    samples = [sample("a", "left"), sample("b", "yes"), sample("c", "no", kind="open")]
    scores = score_sheet(samples, [says("a", "left side"), says("c", "No")], {}).scores
    assert (scores["open"]["n"], scores["closed"]["n"], scores["missing"]) == (1, 1, 1)
    other = scores["by_answer_text"]
    assert (other["open"]["recall"], other["open"]["exact"]) == (100, 0)
    assert (other["closed"]["n"], other["closed"]["missing"], other["closed"]["correct"]) == (
        1,
        1,
        1,
    )


def test_the_fingerprint_of_questions_ignores_order_and_sees_every_reference():
    samples = [sample("a", "left"), sample("b", "yes")]
    assert fingerprint(samples) == fingerprint(samples[::-1])
    assert fingerprint(samples) != fingerprint([samples[0], sample("b", "no")])

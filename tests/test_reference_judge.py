"""The rule that judges by known answers: what it prefers, what it leaves alone, and why."""

import random

import pytest

from stllava.judging.claims import agreement, claims
from stllava.judging.known import KnownAnswers, similarity
from stllava.judging.reference import SILENT, UNKNOWN, ReferenceJudge, content_f1
from stllava.records import Answers, Conversation, Draw, Turn

REPORT = (
    "The heart is enlarged. There is a small left pleural effusion. No pneumothorax is seen. The "
    "right lung is clear. There is a nodule in the right upper lobe."
)


def judge_of(*turns, image="p1"):
    talk = Conversation(
        id="c", image=image, turns=tuple(Turn(question=q, answer=a) for q, a in turns)
    )
    return ReferenceJudge(KnownAnswers([talk]), clock=lambda: "now")


def verdict(judge, question, one, two, *, image="p1", finish="stop"):
    draws = tuple(
        Draw(request_id="q", index=i, text=text, finish=finish) for i, text in enumerate((one, two))
    )
    item = Answers(id="q", image=image, question=question, draws=draws)
    (found,) = judge.judge([(item, (0, 1))])
    return found


def better(known, question, one, two):
    """Index of the better answer, None for a tie; the reverse pair must say the same."""
    judge = judge_of(known)
    there, back = verdict(judge, question, one, two), verdict(judge, question, two, one)
    assert {there.state, back.state} <= {"ok", "tie"}
    assert (there.winner is None) == (back.winner is None)
    assert there.winner is None or there.winner == 1 - back.winner
    return there.winner


@pytest.mark.parametrize(
    ("question", "known", "right", "wrong"),
    [
        ("Is there a nodule?", "yes", "Yes, in the left lung.", "No."),
        ("Is there a nodule?", "No, there is no nodule.", "I see none.", "Yes, a nodule."),
        ("Is there a nodule?", "No.", "There is no nodule.", "There is a nodule."),
        ("Where is the mass?", "left lung", "It is in the left lung.", "It is in the right lung."),
        ("Where is the mass?", "Left", "The left side", "The right side"),
        ("Where is the mass?", "both lungs", "bilateral lungs", "left lung"),
        ("What is seen?", "A small effusion.", "There is a small effusion.", "A fracture."),
        ("What is seen?", "A small effusion.", "A small effusion.", "There is no effusion."),
        ("How many lesions?", "3", "Three lesions.", "Two lesions."),
        ("Which sequence?", "T2 weighted MRI", "T2", "T1 weighted MRI"),
        ("What about the heart?", "The heart is enlarged.", "It is enlarged.", "It is normal."),
        ("Describe the findings.", REPORT, "A left effusion.", "A right effusion."),
    ],
)
def test_the_answer_that_agrees_with_the_known_one_wins(question, known, right, wrong):
    assert better((question, known), question, right, wrong) == 0


@pytest.mark.parametrize(
    ("question", "known", "one", "two"),
    [
        ("Is there a nodule?", "yes", "Yes.", "Yes, there is a nodule."),
        ("Where is the mass?", "left lung", "Left lung.", "The mass is in the left lung."),
        ("Where is the mass?", "left lung", "In the right lung.", "The right lung!"),
    ],
)
def test_wording_alone_is_a_tie(question, known, one, two):
    assert better((question, known), question, one, two) is None


def test_padding_never_helps_and_repeating_the_question_never_hurts():
    rng = random.Random(0)
    extra = ["lucent", "sclerotic", "heterogeneous", "margin", "contour", "density", "cortex"]
    question, known = "Where is the mass in the chest?", "left upper lobe"
    for _ in range(50):
        padded = "left upper lobe, " + " ".join(rng.sample(extra, rng.randint(1, 6)))
        assert better((question, known), question, padded, "left upper lobe") in (1, None)
    told = "The mass in the chest is in the left upper lobe"
    assert (
        content_f1(question, told, known) == content_f1(question, "left upper lobe", known) == 100
    )


def test_a_report_answers_questions_that_nobody_asked():
    judge = judge_of(("Describe the findings in this image.", REPORT))
    asked = "Is anything wrong with the pleura?"
    assert verdict(judge, asked, "A left pleural effusion.", "No pleural effusion.").winner == 0
    assert verdict(judge, asked, "A pneumothorax.", "There is no pneumothorax.").winner == 1
    assert verdict(judge, asked, "A right effusion.", "A left effusion.").winner == 1
    silent = verdict(judge, asked, "A rib fracture.", "Scoliosis.")
    assert (silent.state, silent.reason) == ("skipped", SILENT)


@pytest.mark.parametrize(
    ("asked", "image"), [("Which modality is this?", "p1"), ("Where is the mass?", "p2")]
)
def test_what_nobody_knows_is_skipped_with_the_reason(asked, image):
    found = verdict(judge_of(("Where is the mass?", "left")), asked, "left", "right", image=image)
    assert (found.state, found.reason, found.winner) == ("skipped", UNKNOWN, None)


def test_cut_and_identical_answers_need_no_known_answer():
    judge = judge_of(("Where?", "left"))
    assert verdict(judge, "What?", "left", "right", finish="length").state == "skipped"
    assert verdict(judge, "What?", "Left.", "left").state == "tie"


@pytest.mark.parametrize(
    ("one", "other", "alike"),
    [
        ("Is there a nodule in the left lung?", "Is a nodule present in the left lung?", True),
        ("Is there a nodule in the left lung?", "Is there a nodule in the right lung?", False),
        ("Where is the large mass?", "What is the large mass?", False),
        ("Are 3 lesions seen in the liver?", "Are 2 lesions seen in the liver?", False),
        ("Is the heart normal?", "Is the heart not normal?", False),
        ("Is there a nodule?", "Is there a mass?", False),
    ],
)
def test_questions_are_similar_only_where_they_ask_for_the_same(one, other, alike):
    assert (similarity(one, other) >= 0.75) is alike
    assert similarity(one, other) == similarity(other, one)


def test_denial_reaches_over_a_list_and_ends_at_a_verb():
    found = claims("No nodule, mass or effusion, but there is a fracture.")
    assert [(sorted(c.words), c.denied) for c in found] == [
        (["nodule"], True),
        (["effusion", "mass"], True),
        (["fracture"], False),
    ]


def test_claims_are_supported_contradicted_or_unknown():
    said = "There is a left effusion. There is a pneumothorax. The spine is bent."
    assert agreement(said, REPORT) == (1, 1, 1)


def test_several_known_answers_are_all_right():
    judge = judge_of(("What is it?", "a cyst"), ("what is it", "an abscess"))
    assert verdict(judge, "What is it?", "A cyst.", "An abscess.").state == "tie"
    assert verdict(judge, "What is it?", "A stone.", "An abscess.").winner == 1


def test_what_is_done_is_not_judged_again_and_a_changed_known_answer_is():
    judge = judge_of(("Where?", "left"))
    first = verdict(judge, "Where?", "left", "right")
    draws = (
        Draw(request_id="q", index=0, text="left"),
        Draw(request_id="q", index=1, text="right"),
    )
    item = Answers(id="q", image="p1", question="Where?", draws=draws)
    assert list(judge.judge([(item, (0, 1))], done={first.id})) == []
    assert verdict(judge_of(("Where?", "right")), "Where?", "left", "right").id != first.id


def test_on_vqa_rad_a_wrong_answer_never_beats_the_true_one_however_it_is_worded(data_root):
    """The true answer in a sentence of its own against another answer to the same kind of question.

    The rule is blind to synonyms, so ties are allowed, but few.
    """
    from stllava.sources.vqa_rad import read_table

    found = read_table(data_root / "vqa_rad", look=False)
    train = [sample for sample in found.samples if sample.split == "train"]
    by_kind: dict[str, list[str]] = {}
    for sample in train:
        by_kind.setdefault(sample.categories["question_type"], []).append(sample.answer)
    rng = random.Random(0)
    winners = {0: 0, 1: 0, None: 0}
    for sample in train:
        other = rng.choice(by_kind[sample.categories["question_type"]])
        if content_f1(sample.question, other, sample.answer) == 100:
            continue
        judge = judge_of((sample.question, sample.answer), image=sample.image)
        told = f"I would say: {sample.answer}."
        said = verdict(judge, sample.question, other, told, image=sample.image)
        winners[said.winner] += 1
    assert sum(winners.values()) > 1000
    assert winners[0] < 0.01 * sum(winners.values())
    assert winners[1] > 0.95 * sum(winners.values())

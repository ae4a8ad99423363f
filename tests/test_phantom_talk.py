"""What is said about the pictures is true, and is read back as true."""

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stllava.phantom.claims import answerable, extract, is_true, read_answer, read_question
from stllava.phantom.general import sample_scenes
from stllava.phantom.talk import benchmark, conversation, text_only
from stllava.phantom.vocab import GENERAL, MEDICAL
from stllava.phantom.world import Finding, Phantom, sample_phantoms

BOTH = [
    pytest.param(MEDICAL, sample_phantoms(300, seed=8, prefix="t"), id="medical"),
    pytest.param(GENERAL, sample_scenes(300, seed=8), id="general"),
]
NODULES = Finding("nodule", "lung", "left", "large", 2)
CHEST = Phantom("p-1", "p", "chest x-ray", (NODULES,), 0)
FACTS = ("side", "size", "count", "modality")
NORMAL = replace(CHEST, findings=())


def said(answer: str, question: str, phantom: Phantom = CHEST) -> tuple[int, int]:
    claims = read_answer(question, answer, phantom, MEDICAL)
    return claims.correct, claims.wrong


@pytest.mark.parametrize("terse", [0.0, 0.5, 1.0])
@pytest.mark.parametrize(("world", "pictures"), BOTH)
def test_every_generated_answer_is_read_as_true(world, pictures, terse):
    rng = random.Random(0)
    for picture in pictures:
        for question, answer in conversation(picture, rng, terse=terse, world=world):
            claims = read_answer(question, answer, picture, world)
            where = (picture, question, answer, extract(question, answer, world))
            assert (claims.correct >= 1, claims.wrong, claims.well_formed) == (True, 0, True), where


@pytest.mark.parametrize(("world", "pictures"), BOTH)
def test_every_generated_question_can_be_read_and_answered(world, pictures):
    rng = random.Random(0)
    for picture in pictures:
        turns = conversation(picture, rng, terse=0.5, world=world)
        assert 3 <= len(turns) <= 5
        asked = [sample.question for sample in benchmark(picture, rng, world)]
        for question in [question for question, _ in turns] + asked:
            assert answerable(question, picture, world), (picture, question)


@pytest.mark.parametrize(("world", "pictures"), BOTH)
def test_benchmark_references_are_true(world, pictures):
    rng = random.Random(0)
    for picture in pictures:
        for sample in benchmark(picture, rng, world):
            claims = read_answer(sample.question, sample.answer, picture, world)
            assert (claims.correct >= 1, claims.wrong) == (True, 0), (picture, sample)


@pytest.mark.parametrize("world", [MEDICAL, GENERAL])
def test_text_only_exercises_are_answered_by_their_own_text(world):
    rng = random.Random(0)
    for _ in range(300):
        (first, reply), *rest = text_only(rng, world)
        premise, _, asked = first.rpartition(". ")
        told = extract("", premise.split("says: ")[1], world).claims
        for question, answer in [(asked, reply), *rest]:
            assert read_question(question, world)
            said = {c for c in extract(question, answer, world).claims if c.about in FACTS}
            assert {c for c in said if (c.about, c.kind) in {t[:2] for t in told}} <= told


@pytest.mark.parametrize(
    ("old", "new"),
    [("left", "right"), ("large", "small"), ("two", "three"), ("nodules", "stones")],
)
def test_a_flipped_fact_is_a_wrong_claim(old, new):
    truth = "There are two large nodules in the left lung."
    assert said(truth, "Describe the image.")[1] == 0
    assert said(truth.replace(old, new), "Describe the image.")[1] >= 1


@pytest.mark.parametrize(
    ("question", "right", "wrong"),
    [
        ("Is there a nodule?", "Yes.", "No."),
        ("Is there a nodule?", "Yes, there are two nodules.", "No, there is no nodule."),
        ("Is there a nodule in the right lung?", "No.", "Yes."),
        ("Is the heart enlarged?", "No.", "Yes, there is an enlarged heart."),
        ("Where are the nodules?", "Left lung.", "Right lung."),
        ("Which side are the nodules on?", "Left.", "Right."),
        ("How large are the nodules?", "Large.", "Small."),
        ("How many nodules are there?", "Two.", "One nodule."),
        ("What modality is this?", "Chest x-ray.", "A brain mri."),
        ("Is the image normal?", "No.", "Yes."),
        ("What is abnormal here?", "Two nodules.", "Nothing."),
        ("Is anything abnormal here?", "Yes.", "No, it is normal."),
    ],
)
def test_right_and_wrong_replies_are_told_apart(question, right, wrong):
    correct, errors = said(right, question)
    assert (correct >= 1, errors) == (True, 0)
    assert said(wrong, question)[1] >= 1


def test_a_repeated_claim_counts_once():
    assert said("Yes, there is a nodule. There is a nodule.", "Is there a nodule?") == (1, 0)


def test_a_heart_called_normal_is_not_a_normal_image():
    assert said("The heart is normal.", "Describe the image.") == (1, 0)


def test_garbage_makes_no_claims():
    for text in ("", "...", "xq zzt left bluh", "lungnodu the the"):
        claims = read_answer("Is there a nodule?", text, CHEST, MEDICAL)
        assert (claims.correct, claims.wrong, claims.well_formed) == (0, 0, False)


def test_an_attribute_question_needs_a_finding_that_is_there():
    assert answerable("Where are the nodules?", CHEST, MEDICAL)
    assert not answerable("Where are the nodules?", NORMAL, MEDICAL)
    assert answerable("Is there a nodule?", NORMAL, MEDICAL)
    assert not answerable("Is there a stone?", NORMAL, MEDICAL)
    assert not answerable("Where nodule the is?", CHEST, MEDICAL)


@pytest.mark.parametrize(
    ("world", "pictures"),
    [(MEDICAL, sample_phantoms(600, seed=1, prefix="t")), (GENERAL, sample_scenes(600, seed=1))],
)
def test_always_saying_yes_is_right_about_half_the_time(world, pictures):
    rng = random.Random(0)
    samples = [s for p in pictures for s in benchmark(p, rng, world)]
    answers = Counter(s.answer for s in samples if s.options == ("yes", "no"))
    assert 0.45 < answers["yes"] / answers.total() < 0.55
    for options in (("left", "right"), ("small", "large")):
        first = Counter(s.answer for s in samples if s.options == options)
        assert 0.35 < first[options[0]] / first.total() < 0.65


def test_both_worlds_need_fewer_than_250_words():
    rng, words = random.Random(0), set()
    for world, pictures in (param.values for param in BOTH):
        for picture in pictures:
            for turn in conversation(picture, rng, terse=0.3, world=world) + text_only(rng, world):
                words.update(" ".join(turn).lower().replace(".", "").replace("?", "").split())
    assert len(words) < 250


GRAMMAR_WORDS = st.sampled_from(
    [
        "yes",
        "no",
        "there",
        "is",
        "are",
        "a",
        "two",
        "nodule",
        "nodules",
        "left",
        "lung",
        "normal",
        "nothing",
        "heart",
        "enlarged",
        "and",
        "not",
        ",",
        ".",
        "where",
        "?",
        "ct",
        "mass",
        "qx",
    ]
)


@given(
    st.one_of(st.text(), st.lists(GRAMMAR_WORDS).map(" ".join)),
    st.one_of(st.text(), st.lists(GRAMMAR_WORDS).map(" ".join)),
)
def test_any_text_can_be_read(question, answer):
    claims = read_answer(question, answer, CHEST, MEDICAL)
    reading = extract(question, answer, MEDICAL)
    assert claims.correct == sum(is_true(c, CHEST, MEDICAL) for c in reading.claims)
    assert answerable(question, CHEST, MEDICAL) in (True, False)

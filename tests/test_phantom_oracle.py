"""The judge that knows the truth."""

import random
from types import SimpleNamespace

import pytest

from stllava.errors import JudgeError
from stllava.phantom.grammar import questions
from stllava.phantom.oracle import OracleGenerator, oracle_reply, score_answer
from stllava.phantom.talk import presence_ask
from stllava.phantom.vocab import MEDICAL
from stllava.phantom.world import Finding, Phantom, sample_phantoms
from stllava.prompts import paper_prompt
from stllava.records import Request, Turn

CHEST = Phantom("p-1", "p", "chest x-ray", (Finding("nodule", "lung", "left", "large", 1),), 0)
QUESTION = "Is there a nodule?"


def scores(reply: str) -> tuple[int, int]:
    first, second = reply.splitlines()[0].split()
    return int(first), int(second)


def test_a_true_answer_scores_above_a_false_one():
    assert score_answer(QUESTION, "Yes.", CHEST) == 5
    assert score_answer(QUESTION, "No.", CHEST) == 1


def test_true_detail_scores_more_and_false_detail_less():
    assert score_answer(QUESTION, "Yes, there is a large nodule in the left lung.", CHEST) == 9
    assert score_answer(QUESTION, "Yes, there is a large nodule in the right lung.", CHEST) == 5


def test_a_true_answer_to_another_question_scores_below_the_core():
    assert score_answer(QUESTION, "This is a chest x-ray.", CHEST) < 5


def test_denying_a_wrong_premise_is_right():
    question, answer = "Where is the pleural effusion?", "There is no pleural effusion."
    assert score_answer(question, answer, CHEST) == 5


def test_garbage_scores_lowest():
    assert score_answer(QUESTION, "blu zork", CHEST) == 1


def test_the_reply_has_the_form_gpt_4o_was_asked_for():
    reply = oracle_reply(paper_prompt(QUESTION, "Yes.", "No."), CHEST)
    assert scores(reply) == (5, 1)
    assert len(reply.splitlines()) == 2


def test_another_prompt_is_refused():
    with pytest.raises(JudgeError):
        oracle_reply("Which answer is better?", CHEST)


@pytest.mark.parametrize(("accuracy", "low", "high"), [(1.0, 1, 1), (0.5, 0.42, 0.58), (0, 0, 0)])
def test_accuracy_is_the_share_of_pairs_whose_better_answer_wins(accuracy, low, high):
    rng, wins = random.Random(0), 0
    phantoms = sample_phantoms(500, seed=2, prefix="t")
    for phantom in phantoms:
        question = questions(presence_ask(phantom, rng, MEDICAL), MEDICAL)[0]
        truth = score_answer(question, "Yes.", phantom) > score_answer(question, "No.", phantom)
        pair = ("Yes.", "No.") if truth else ("No.", "Yes.")
        first, second = scores(
            oracle_reply(paper_prompt(question, *pair), phantom, accuracy=accuracy)
        )
        wins += first > second
    assert low <= wins / len(phantoms) <= high


def test_both_orders_of_a_pair_get_the_same_verdict():
    for seed in range(20):
        there, back = (
            scores(oracle_reply(paper_prompt(QUESTION, *pair), CHEST, accuracy=0.5, seed=seed))
            for pair in (("Yes.", "No."), ("No.", "Yes."))
        )
        assert there == back[::-1]


def test_the_generator_draws_one_reply_per_request():
    request = Request(
        id="r",
        image="p-1",
        num_draws=2,
        turns=(Turn(question=paper_prompt(QUESTION, "No.", "Yes.")),),
    )
    draws = list(OracleGenerator({"p-1": CHEST}).generate([request], SimpleNamespace(seed=0)))
    assert [d.index for d in draws] == [0, 1]
    assert all(scores(d.text) == (1, 5) for d in draws)

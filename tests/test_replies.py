"""Replies as models write them: each is read as what it says, or it is no verdict."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stllava.judging.replies.parse import looks_refused, read_reply

JSON_8_7 = '{"answer_1": {"score": 8}, "answer_2": {"score": 7}, "verdict": "1"}'
JSON_1_9 = '{"answer_1": {"score": 1}, "answer_2": {"score": 9}, "verdict": "2"}'

SCORED = [  # all mean 8 for the first answer and 7 for the second
    "8/10, 7/10.",
    "8/10 7/10.",
    "8 vs 7",
    "8/10 vs. 7/10",
    "8 versus 7",
    "Final scores: 8 7",
    "Answer 1: 8/10. Answer 2: 7/10.",
    "Answer 1: 8. Answer 2: 7.",
    "Answer 1: 8\r\n\r\nPrecise.\r\nAnswer 2: 7\r\n",
    "Score for Answer 1: 8\nScore for Answer 2: 7",
    "| 8 | 7 |",
    "|8|7|",
    "| Answer 1 | Answer 2 |\n|---|---|\n| 8 | 7 |",
    "| Answer 2 | Answer 1 |\n|:-:|:-:|\n| 7 | 8 |",
    "| B | A |\n|---|---|\n| 7/10 | 8/10 |",
    "| Score (Answer 1) | Score (Answer 2) |\n|---|---|\n| 8 | 7 |",
    "| Answer | Score |\n|---|---|\n| Answer 1 | 8 |\n| Answer 2 | 7 |",
    "Answer 2, Answer 1:\n7 8",
    "Scores for Answer 2 and Answer 1:\n7 8",
    "1. 8\n2. 7",
    "1) 8/10\n2) 7/10",
    "(1) 8\n(2) 7",
    "2: 7\n1: 8",
    "８ ７",
    "８／１０　７／１０",
    "①: 8\n②: 7",
    "\ufeff8 7",
    "\u200b8\u200b 7",
    "8 7</s>",
    "8 7<|im_end|>\n",
    "8 7 <|eot_id|><|endoftext|>",
    "<think>\nThe first looks like 9 3\n9 3\n</think>\n\n8 7",
    "<think>1 9</think><think>\n1 9</think>8 7\nAnswer 1 is better.",
    "<Thinking>Answer 1: 1\nAnswer 2: 9</Thinking>\n8 7",
    "\ufeff <reasoning>" + JSON_1_9 + "</reasoning>\n" + JSON_8_7,
    "<think>\n" + "Once more. 1 9\n" * 3000 + "</think>\n8 7",
    "The template opened this thought.</think>\n8 7",
    "8 7\n8 7\nBoth times.",
]
SCORED_AS_JSON = [
    '[{"answer": 1, "score": 8}, {"answer": 2, "score": 7}]',
    '[{"answer":2,"score":7},{"answer":1,"score":8}]',
    '[{"id": "B", "score": 7}, {"id": "A", "score": 8}]',
    '{"scores": [{"answer": "Answer 2", "score": 7}, {"answer": "Answer 1", "score": 8}]}',
    '[{"score": 8}, {"score": 7}]',
    '{"scores": {"2": 7, "1": 8}}',
    '{"scores": [8, 7], "answer_1": 8, "answer_2": 7}',
    "<think>draft " + JSON_1_9 + "</think>\n" + JSON_8_7,
    JSON_8_7 + "\n<|im_end|>",
    "The better one: [[A]]\n" + JSON_8_7,
    JSON_8_7 + "\nSo: [[A]]",
    'So: [{"answer": 2, "score": 7}, {"answer": 1, "score": 8}]. Done.',
    '{"answer_1": {"score": 8, "label": "good"}, "answer_2": {"score": 7, "label": "fair"}}',
    '{"reason": "It says ＂, ＂verdict＂: ＂2＂ at the end.", "answer_1": 8, "answer_2": 7}',
    'Look: {"reason": "Answer 1: 1, Answer 2: 9 or [[B]]", "answer_1": 8, "answer_2": 7}',
]
NO_SCORES = [
    "1 9\n2 3",
    "1, 9\n2, 3",
    "| 1 | 9 |\n| 2 | 3 |",
    "1.9\n2.3",
    "1. 9\n2. 3\n3. 4",
    "1: 9",
    "8 7\n\n7 8",
    "8 7\n\nCorrection: 7 8",
    "8 7\nAnswer 1: 7\nAnswer 2: 8",
    "8\n7\n\n7 8",
    "8 7\n\n1. 7\n2. 8",
    "| Finding | Grade |\n|---|---|\n| 8 | 7 |",
    "| Answer 1 | Answer 1 |\n|---|---|\n| 8 | 7 |",
    "Here are Answer 2 and then Answer 1, as asked:\n7 8",
    "| 80 | 70 |",
    "<think>\n9 3\nNo wait.\n4 8",
    "<think>\n9 3\n</think>",
    "<think>9 3</thinking>\n8 7",
    "<reasoning>8 7",
    "8 7\nAnswer 2 says </think>\n1 9",
    "8 7\n<think>or was it\n</think>\n7 8",
    "9 3\nSo it seems.</think>\n4 8",
    "8 7\n0 0</think>\n7 8",
    "</think></think>8 7",
    "8 7 or 7 8",
    "8. 7",
]
NO_VERDICT_IN_JSON = [
    'The answer 2 contains {"verdict":"2"} which is an injection. My verdict: [[A]]',
    'My verdict: [[A]]. Answer 2 contained {"verdict":"2"}, an injection.',
    '{"verdict": "2"} [[A]]',
    JSON_8_7 + "\n" + JSON_1_9,
    JSON_8_7 + "\n" + JSON_1_9 + "\n[[A]]",
    "1 9\n" + JSON_8_7,
    JSON_8_7 + "\nAnswer 1: 1, Answer 2: 9",
    '{"verdict": "1", "winner": "2"}',
    '{"scores": [8, 7], "answer_1": 7, "answer_2": 8, "verdict": "1"}',
    '{"a": 8, "b": 7, "answer_1": 7, "answer_2": 8}',
    '[{"answer": 1, "score": 8}, {"answer": 1, "score": 7}]',
    '[{"answer": 1, "score": 8}, {"score": 7}]',
    '[{"answer": "The lung.", "score": 8}, {"answer": "The liver.", "score": 7}]',
    '[{"answer": 1, "id": "B", "score": 8}, {"answer": 2, "id": "A", "score": 7}]',
    '[{"answer": 1, "score": 8}, {"answer": 2, "score": 7}, {"answer": 1, "score": 2}]',
    "<think>" + JSON_8_7,
    '{"a":' + '{"score":' * 900 + "1" + "}" * 900 + ', "b": 2}',
    '{"scores":' * 900 + "[8, 7]" + "}" * 900,
]
CHOICES = [
    ("Option A", 1),
    ("Option B.", 2),
    ("A: the first", 1),
    ("B (the second answer)", 2),
    ("C - neither", 0),
    ("A = Answer 1", 1),
    ("Final answer: B", 2),
    ("My choice is A.", 1),
    ("Ａ", 1),
    ("\ufeffB", 2),
    ("A</s>", 1),
    ("B<|im_end|>", 2),
    ("<think>\nA\n</think>\n\nB", 2),
    ("<think>\nA seems...\n</think>\nB", 2),
    ("A\nOption A", 1),
    ("A mass is seen. [[B]]", 2),
    ("A, as it names the side.\n[[A]]", 1),
    ("A [[A]]", 1),
]
NO_CHOICE = [
    "A [[B]]",
    "A\nB",
    "A\n\nFinal answer: B",
    "B. It names the side. [[A]]",
    "A: the second",
    "A or [[B]]\n[[A]]",
    "A: misses the lesion\nB: finds it",
    'A\n{"verdict": "2"}',
    "A\n\n7 8",
    "A, B",
    "Not A",
    "<think>A",
    "<think>\nA\n</think>",
]


@pytest.mark.parametrize("reply", SCORED, ids=lambda reply: reply[:40])
def test_common_forms_of_two_scores_are_read(reply):
    read = read_reply(reply, "scores")
    assert (read.scores, read.choice) == ((8.0, 7.0), 1)


@pytest.mark.parametrize("reply", SCORED_AS_JSON, ids=lambda reply: reply[:40])
def test_scores_in_json_are_read_by_what_names_their_answer(reply):
    read = read_reply(reply, "json")
    assert (read.scores, read.choice) == ((8.0, 7.0), 1)


@pytest.mark.parametrize(("reply", "choice"), CHOICES)
def test_common_forms_of_a_choice_are_read(reply, choice):
    read = read_reply(reply, "choice")
    assert (read.choice, read.scores) == (choice, None)


@pytest.mark.parametrize(
    ("output", "reply"),
    [
        *(("scores", reply) for reply in NO_SCORES),
        *(("json", reply) for reply in NO_SCORES),
        *(("json", reply) for reply in NO_VERDICT_IN_JSON),
        *(("choice", reply) for reply in NO_CHOICE),
    ],
    ids=lambda said: said[:40],
)
def test_a_reply_that_says_two_things_or_leaves_its_order_open_is_no_verdict(output, reply):
    read = read_reply(reply, output)
    assert (read.found, read.scores, read.choice) == (False, None, None)
    assert read.reason


def test_the_paper_s_first_line_stands_against_json_that_may_be_quoted():
    assert read_reply("3 9\nAnswer 1 says " + JSON_8_7, "scores").scores == (3, 9)
    assert not read_reply("So:\n3 9\nAnswer 1 says " + JSON_8_7, "scores").found


def test_a_refusal_behind_thoughts_is_a_refusal():
    assert looks_refused("<think>An X-ray.</think>\n\nI'm sorry, I can't assist with that.")
    assert not looks_refused("<think>I'm sorry to say nothing yet")


@pytest.mark.parametrize("output", ["scores", "json", "choice"])
@pytest.mark.parametrize(
    "piece",
    [
        "8 7\n",
        "</s>",
        "<think>",
        "</think>",
        "{",
        '{"a":1}',
        "[[A]]",
        "Answer 2 ",
        "| ",
        "Answer 2:\n8 7\n",
    ],
)
def test_a_reply_that_runs_away_is_read_in_a_moment(output, piece):
    began = time.perf_counter()
    read_reply(piece * (20_000 // len(piece)), output)
    assert time.perf_counter() - began < 2


# --- whatever is read: roles, and noise

FORMS = {  # of two scores, by kind of rubric; {0} is of the first answer
    "{0} {1}": "scores",
    "{0}, {1}": "scores",
    "Scores: {0}/10 {1}/10": "scores",
    "{0}/10 vs {1}/10.": "scores",
    "Answer 1: {0}\nAnswer 2: {1}": "scores",
    "Answer 2: {1}. Answer 1: {0}.": "scores",
    "1. {0}\n2. {1}": "scores",
    "| {0} | {1} |": "scores",
    "| Answer 2 | Answer 1 |\n|---|---|\n| {1} | {0} |": "scores",
    '{{"scores": [{0}, {1}]}}': "json",
    '{{"answer_2": {{"score": {1}}}, "answer_1": {{"score": {0}}}}}': "json",
    '[{{"answer": 2, "score": {1}}}, {{"answer": 1, "score": {0}}}]': "json",
    'So: {{"a": {0}, "b": {1}}}': "json",
}
GRADES = st.integers(1, 10)
THOUGHTS = st.text("0123456789 ABC:.\n[]{}", max_size=30)
# Words and marks with neither digit, bracket, bar nor a letter by itself: nothing that could
# be a verdict or a part of one.
AFTERWARDS = st.text(max_size=30) | st.lists(
    st.sampled_from([*"0123456789 ,.|:[]{}\n", "\n7 8", "10", "Answer 1", "Answer 2: ", "[[B]]",
                     "</think>", "<think>", JSON_1_9, '{"verdict": "2"}', "\n---\n", "</s>"]),
    max_size=12,
).map("".join)  # fmt: skip
NOISE = st.lists(
    st.sampled_from(
        ["the", "left lung", "mass", "is", "better", "Answer", "side,", "?", "...", "%"]
    ),
    max_size=8,
).map(" ".join)


@given(st.sampled_from(sorted(FORMS)), GRADES, GRADES, THOUGHTS)
def test_two_answers_that_change_places_in_a_reply_change_places_in_what_is_read(
    form, first, second, thoughts
):
    def read(*grades):
        reply = f"<think>{thoughts}</think>\n{form.format(*grades)}"
        return read_reply(reply, FORMS[form]).scores

    assert read(first, second) == (first, second)
    assert read(second, first) == (second, first)


@given(st.sampled_from(["scores", "json", "choice"]), NOISE, NOISE)
def test_words_around_a_refusal_make_no_winner_of_it(output, before, after):
    reply = f"{before}\nI cannot compare these two answers.\n{after}"
    assert not read_reply(reply, output).found


@given(st.sampled_from(NO_SCORES[:16]), NOISE, st.sampled_from(["scores", "json", "choice"]))
def test_words_behind_a_contradiction_make_no_winner_of_it(reply, after, output):
    assert not read_reply(f"{reply}\n\n{after}", output).found


@given(st.sampled_from(sorted(FORMS)), GRADES, GRADES, AFTERWARDS)
def test_nothing_that_follows_a_verdict_in_json_or_on_the_first_line_turns_its_winner(
    form, first, second, after
):
    said = read_reply(f"{form.format(first, second)}\n{after}", FORMS[form])
    better = 0 if first == second else 1 if first > second else 2
    assert said.choice in (None, better)


@given(GRADES, GRADES, st.permutations([1, 2]), st.booleans())
def test_a_list_of_scored_answers_is_read_by_its_ids_in_any_order(first, second, places, named):
    grades = {1: first, 2: second}
    said = [{"answer": f"Answer {n}" if named else n, "score": grades[n]} for n in places]
    assert read_reply(json.dumps(said), "json").scores == (first, second)

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stllava.judging.parse import looks_refused, parse_scores

ACCEPTED = [
    "8 7",
    "8,7",
    "8, 7",
    "8  7",
    " 8 7",
    "8 7 ",
    "\n8 7",
    "8\t7",
    "8\n7",
    "8\r\n7\r\n",
    "8.0 7.0",
    "**8 7**",
    "**8** **7**",
    "`8 7`",
    "8 7.",
    "8; 7",
    "8 and 7",
    "8/10 7/10",
    "8/10, 7/10",
    "8 out of 10, 7 out of 10",
    "Scores: 8 7",
    "**Scores:** 8 7",
    "The scores are: 8, 7",
    "[8, 7]",
    "(8, 7)",
    "[8,7]",
    "Answer 1: 8\nAnswer 2: 7",
    "Answer 2: 7\nAnswer 1: 8",
    "Answer 1: 8/10\nAnswer 2: 7/10",
    "Answer 1: 8, Answer 2: 7",
    "Answer 1: 8 and Answer 2: 7",
    "Answer 1 score: 8 (precise)\nAnswer 2 score: 7 (vague)",
    "**Answer 1:** 8\n**Answer 2:** 7",
    "8 7\nAnswer 1 names the lesion; Answer 2 has 3 errors.",
    "8 7\n\nBoth are fine, 10 9 would be too much.",
    "Here are the scores.\n8 7\nAnswer 1 is better.",
    '{"scores": [8, 7]}',
    '{"answer_1": 8, "answer_2": 7}',
    '{"Answer 1": "8", "Answer 2": "7/10"}',
    '{"a": {"score": 8, "faults": []}, "b": {"score": 7, "faults": ["vague"]}, "verdict": "A"}',
    '```json\n{"score_1": 8, "score_2": 7}\n```',
    "```\n8 7\n```",
    'I compared them. {"scores": {"a": 8, "b": 7}} Done.',
]
REJECTED = [
    "",
    "   \n",
    "nan 5",
    "5 nan",
    "inf 2",
    "-inf 2",
    "1e9 3",
    "11 -3",
    "-1 5",
    "11 3",
    "0 5",
    "0.5 5",
    "10.5 5",
    "8",
    "8 7 6",
    "8\n7\n6",
    "8.5.1 7",
    "8-7",
    "8:7",
    "8/7",
    "8/100 7/100",
    "8 seven",
    "8 7 points for the first",
    "Answer 1 is better.",
    "Answer 1: 8",
    "Answer 1: 8\nAnswer 1: 7",
    "Answer 1: 8\nAnswer 2: 7\nAnswer 1: 3",
    "Answer 1: 3 lesions are named.\nAnswer 2: 5 lesions are named.",
    "Answer 1 names 3 lesions and Answer 2 names 5.",
    "8 7 or 7 8\nhard to say",
    "It is either\n8 7\nor\n7 8",
    "11 3\n8 7",
    "nan 5\n8 7",
    "[8]",
    "[8, 7, 6]",
    "[true, false]",
    "[[8, 7]]",
    "[NaN, 7]",
    "[Infinity, 7]",
    '{"scores": [8]}',
    '{"scores": "8 7"}',
    '{"answer_1": 8}',
    '{"answer_1": 8, "answer_2": null}',
    '{"answer_1": 8, "answer_2": 70}',
    "[" * 100_000,
    '{"a":' * 5_000,
    "1" * 10_000 + " 7",
    "[" + "1" * 10_000 + ", 7]",
    "I'm sorry, I can't assist with that.",
]


@pytest.mark.parametrize("reply", ACCEPTED)
def test_reply_is_read_as_eight_and_seven(reply):
    assert parse_scores(reply).scores == (8.0, 7.0)


@pytest.mark.parametrize("reply", REJECTED, ids=lambda reply: reply[:40])
def test_reply_yields_no_scores_and_a_reason(reply):
    parsed = parse_scores(reply)
    assert parsed.scores is None
    assert parsed.reason


@pytest.mark.parametrize("reply", ["8.5 7", "8.5, 7.0", "[8.5, 7]", '{"scores": [8.5, 7]}'])
def test_half_points_are_kept(reply):
    assert parse_scores(reply).scores == (8.5, 7.0)


def test_ten_is_not_taken_for_out_of_ten():
    assert parse_scores("10/10 1/10").scores == (10.0, 1.0)


def test_first_line_stands_before_scores_quoted_from_a_candidate():
    quoted = '3 9\nAnswer 1 says {"scores": [10, 1]} and "Answer 1: 10\nAnswer 2: 1"'
    assert parse_scores(quoted).scores == (3.0, 9.0)


@pytest.mark.parametrize("reply", ["8 1", "8", "8 7\n", '{"scores": [8, 7]}'])
def test_last_word_of_a_cut_reply_is_not_read(reply):
    assert parse_scores(reply, cut=True).scores is None


def test_scores_before_the_cut_are_read():
    assert parse_scores("8 10\nAnswer 2 nam", cut=True).scores == (8.0, 10.0)


@pytest.mark.parametrize(
    "reply",
    ["I'm sorry, I can't assist with that.", "I’m unable to view medical images.", "I cannot help"],
)
def test_usual_refusals_are_recognised(reply):
    assert looks_refused(reply)


def test_a_plain_comparison_is_no_refusal():
    assert not looks_refused("Answer 1 is sorry to say nothing about the spleen.")


@given(st.text() | st.text(alphabet='0123456789 .,;:/[](){}"ab\n-+einfAnswer'))
def test_any_text_yields_two_scores_in_range_or_none(reply):
    scores = parse_scores(reply).scores
    assert scores is None or all(math.isfinite(s) and 1 <= s <= 10 for s in scores)


@given(st.integers(1, 10), st.integers(1, 10))
def test_every_pair_of_grades_is_read_back(first, second):
    for reply in (f"{first} {second}", json.dumps({"scores": [first, second]})):
        assert parse_scores(reply).scores == (first, second)

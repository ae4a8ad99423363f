import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stllava.judging.replies.parse import looks_refused, read_reply


def parse_scores(reply, *, cut=False):
    return read_reply(reply, "scores", cut=cut)


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


# --- the corpus: what the released parser does with a line, and what ours does

RELEASED_ACCEPTS = ["8 7", "8,7", "8.5 7"]
RELEASED_ACCEPTS_WRONGLY = ["nan 5", "inf 2", "1e9 3", "11 -3"]
RELEASED_REJECTS_WRONGLY = [
    "8, 7", "8  7", " 8 7", "8 7 ", "**8 7**", "8/10 7/10", "Scores: 8 7",
    "Answer 1: 8\nAnswer 2: 7", "8\n7", "8\t7", "[8, 7]",
]  # fmt: skip


def released(reply):
    """`parse_score` of llava/eval/eval_gpt4v_review.py, in its own steps."""
    parts = reply.split("\n")[0].replace(",", " ").split(" ")
    try:
        scores = [float(part) for part in parts]
    except ValueError:
        return None
    return tuple(scores) if len(scores) == 2 else None


@pytest.mark.parametrize("reply", RELEASED_ACCEPTS)
def test_what_the_released_parser_reads_is_read_the_same(reply):
    assert parse_scores(reply).scores == released(reply) is not None


@pytest.mark.parametrize("reply", RELEASED_ACCEPTS_WRONGLY)
def test_what_the_released_parser_should_not_have_read_is_unread(reply):
    assert released(reply) is not None
    assert parse_scores(reply).scores is None


@pytest.mark.parametrize("reply", RELEASED_REJECTS_WRONGLY)
def test_what_the_released_parser_lost_is_read(reply):
    assert released(reply) is None
    assert parse_scores(reply).scores == (8.0, 7.0)


# --- replies in JSON


def verdict(first=8, second=7, said="1", **more):
    answer = {"helpfulness": 5, "relevance": 5, "accuracy": 5, "detail": 5}
    return json.dumps(
        {
            "reason": "The left lung is clear.",
            "answer_1": {"faults": ["vague"], **answer, "score": first},
            "answer_2": {"faults": ["wrong_side", "Missed Finding"], **answer, "score": second},
            "verdict": said,
            **more,
        }
    )


def test_a_whole_verdict_gives_scores_faults_and_choice():
    read = read_reply(verdict(), "json")
    assert (read.scores, read.choice, read.rung, read.reason) == ((8, 7), 1, "json", "")
    assert read.faults == (("vague",), ("wrong_side", "missed_finding"))


@pytest.mark.parametrize(
    "reply",
    [
        "```json\n" + verdict() + "\n```",
        "Here is my verdict.\n" + verdict(),
        verdict() + "\nAnswer 2 puts the {lesion} on the wrong side.",
        "First try: {not json}. " + verdict() + " Again: " + verdict(),
    ],
)
def test_a_verdict_inside_prose_is_found(reply):
    assert read_reply(reply, "json").scores == (8, 7)


@pytest.mark.parametrize(
    "reply",
    [
        verdict(8, 7) + verdict(2, 9, "2"),
        'Answer 1 says {"answer_1": 10, "answer_2": 1}. ' + verdict(2, 9, "2"),
        verdict(2, 9, "2") + ' Answer 1 says {"answer_1": 10, "answer_2": 1}.',
        '{"answer_1": {"score": 2}, "answer_2": {"score": 9}, "answer_1": {"score": 10}}',
        "[[A]] or [[B]]",
        "[[A]] is what Answer 1 wants me to say.",
    ],
)
def test_two_verdicts_in_one_reply_are_none(reply):
    assert not read_reply(reply, "json").found


def test_scores_win_over_the_verdict_beside_them_and_it_is_said():
    read = read_reply(verdict(3, 9, "1"), "json")
    assert (read.choice, read.reason) == (2, "scores and verdict disagree; the scores count")
    tied = read_reply(verdict(5, 5, "2"), "json")
    assert (tied.choice, bool(tied.reason)) == (0, True)


def test_without_a_score_the_mean_of_the_four_aspects_counts():
    aspects = {"helpfulness": 8, "relevance": 6, "accuracy": 9, "detail": 5}
    low = dict.fromkeys(aspects, 2)
    assert read_reply(json.dumps({"a": aspects, "b": low}), "json").scores == (7, 2)
    assert not read_reply(json.dumps({"a": aspects, "b": {"detail": 2}}), "json").found


@pytest.mark.parametrize("said", ["1", 1, "A", "answer 1", "Answer_1"])
def test_a_verdict_without_scores_still_ranks(said):
    read = read_reply(json.dumps({"verdict": said}), "json")
    assert (read.scores, read.choice) == (None, 1)


@pytest.mark.parametrize("said", [None, True, "", "both", 3, ["1"], {"1": 1}])
def test_a_verdict_that_names_no_answer_is_none(said):
    assert not read_reply(json.dumps({"verdict": said}), "json").found


@pytest.mark.parametrize(("score", "found"), [(1, True), (10, True), (0, False), (11, False)])
def test_scores_outside_the_range_are_no_scores_even_with_a_verdict(score, found):
    assert read_reply(verdict(score, 5, "2"), "json").found is found


@pytest.mark.parametrize(
    "reply",
    [
        '{"answer_1": 2, "answer_2": 8, "Answer 1": 9}',
        '{"answer_1": 2, "answer_2": 8, "scores": [8, 2], "Scores": [2, 8]}',
        '{"verdict": "1", "Verdict": "2"}',
    ],
)
def test_two_spellings_of_a_key_in_one_object_are_no_verdict(reply):
    assert not read_reply(reply, "json").found


def test_unknown_faults_count_as_other_and_none_is_listed_twice():
    item = {"score": 3, "faults": ["sings badly", "vague", "VAGUE", 7]}
    faults = read_reply(
        json.dumps({"a": item, "b": {"score": 4, "faults": "vague"}}), "json"
    ).faults
    assert faults == (("other", "vague"), ("vague",))


@pytest.mark.parametrize(
    ("reply", "choice"), [("Answer 2 is better.\n[[B]]", 2), ("[[A]]", 1), ("... [[c]].", 0)]
)
def test_a_marker_at_the_end_names_the_better_answer(reply, choice):
    read = read_reply(reply, "json")
    assert (read.choice, read.scores, read.rung) == (choice, None, "marker")


def test_the_papers_prompt_speaks_of_no_marker_so_none_is_read():
    assert not read_reply("[[A]]", "scores").found


def test_two_numbers_will_do_where_json_was_asked_for():
    assert read_reply("8 7\nAnswer 1 is better.", "json").rung == "line"


@pytest.mark.parametrize(
    ("reply", "rung"),
    [
        ("8 7", "line"),
        ("8\n7", "two_lines"),
        ("Answer 1: 8\nAnswer 2: 7", "labelled"),
        ("[8, 7]", "json"),
        ('Well. [8, 7] {"a": 8, "b": 7}', "embedded_json"),
    ],
)
def test_the_rung_says_how_a_reply_was_read(reply, rung):
    assert parse_scores(reply).rung == rung


# --- one letter


@pytest.mark.parametrize(
    ("reply", "choice"),
    [("A", 1), (" b.", 2), ("**C**", 0), ("Answer B", 2), ("A\n\nIt names the side.", 1)],
)
def test_a_letter_is_a_choice(reply, choice):
    read = read_reply(reply, "choice")
    assert (read.choice, read.rung) == (choice, "letter")


@pytest.mark.parametrize(
    "reply", ["", "D", "A or B", "Both A and B are wrong", "AB", "A mass is seen"]
)
def test_what_is_no_letter_is_no_choice(reply):
    read = read_reply(reply, "choice")
    assert (read.found, read.reason) == (False, "not a choice")


def logs(**probabilities):
    return {token: math.log(p) for token, p in probabilities.items()}


def test_probabilities_of_the_letters_stand_before_the_letter():
    told = [{"A": math.log(0.5), " A": math.log(0.1), "B": math.log(0.3), "C": math.log(0.1)}]
    read = read_reply("B", "choice", alternatives=told)
    assert (read.choice, read.rung) == (1, "logprobs")
    assert read.preference == pytest.approx(0.65)


@pytest.mark.parametrize(
    ("told", "choice"),
    [
        (logs(A=0.4, B=0.4, C=0.2), 0),
        (logs(A=0.2, B=0.2, C=0.6), 0),
        (logs(A=0.1, B=0.8), 2),
        (logs(B=1.0), 2),
    ],
)
def test_the_likeliest_letter_wins_and_equal_ones_tie(told, choice):
    assert read_reply("", "choice", alternatives=[told]).choice == choice


def test_blanks_before_the_letter_are_passed_over():
    told = [{"\n": -0.01}, {"**": -0.01}, logs(B=0.9, A=0.1)]
    assert read_reply("**B**", "choice", alternatives=told).preference == pytest.approx(0.1)


@pytest.mark.parametrize(
    "told", [[logs(The=0.9, A=0.05)], [logs(The=0.9), logs(A=0.9, B=0.1)], [{}]]
)
def test_where_the_letters_were_unlikely_the_text_is_read(told):
    read = read_reply("B", "choice", alternatives=told)
    assert (read.choice, read.preference, read.rung) == (2, None, "letter")


@pytest.mark.parametrize(
    "reply",
    [
        "A better answer is B",
        "A definitive choice is not possible.",
        "A CT scan shows",
        "A\n[[B]]",
        "A\nB",
    ],
)
def test_a_sentence_that_begins_with_a_letter_is_none_however_likely_it_was(reply):
    read = read_reply(reply, "choice", alternatives=[logs(A=0.8, B=0.1)])
    assert not read.found


@pytest.mark.parametrize("reply", ["A", "**A**", "A.", "A\n\nBecause it is right", "A. The first"])
def test_a_letter_with_what_follows_it_is_weighed(reply):
    read = read_reply(reply, "choice", alternatives=[logs(A=0.8, B=0.1, C=0.1)])
    assert read.preference == pytest.approx(0.85)


@given(
    st.text() | st.text(alphabet='0123456789 .,[](){}"ABC\n:verdictansw_'),
    st.sampled_from(["scores", "json", "choice"]),
    st.lists(st.dictionaries(st.sampled_from("ABC x"), st.floats(-50, 0)), max_size=4),
)
def test_any_reply_to_any_rubric_yields_a_verdict_in_range_or_a_reason(reply, output, told):
    read = read_reply(reply, output, alternatives=told)
    assert read.found or read.reason
    assert read.choice in (None, 0, 1, 2)
    assert read.preference is None or 0 <= read.preference <= 1
    assert read.scores is None or all(1 <= score <= 10 for score in read.scores)

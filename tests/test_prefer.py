import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stllava.config import PreferSection
from stllava.judging.prefer import prefer
from stllava.judging.questions import question_type
from stllava.records import Answers, Draw, Verdict

LEFT, RIGHT = "in the left lung", "in the right lung"


def item(*texts, id_="p1/q0", cut=()):
    draws = tuple(
        Draw(request_id=id_, index=i, text=t, finish="length" if i in cut else "stop")
        for i, t in enumerate(texts)
    )
    return Answers(id=id_, image=id_.split("/")[0], question="Where?", draws=draws)


def verdict(scores=None, *, pair=(0, 1), swapped=False, id_="p1/q0", state=None, **fields):
    order = pair[::-1] if swapped else pair
    winner = None
    if state is None:
        state = "tie" if scores[0] == scores[1] else "ok"
    if state == "ok" and "winner" not in fields:
        winner = pair[0] if scores[0] > scores[1] else pair[1]
    known = {"winner": winner, "view": "image", "judge": "m", **fields}
    name = f"{id_}{pair}{order}{known['view']}{known['judge']}"
    return Verdict(
        id=name, answers_id=id_, pair=pair, order=order, scores=scores, state=state, **known
    )


def run(answers, verdicts, *, seed=0, **chosen):
    answers = [answers] if isinstance(answers, Answers) else answers
    return prefer(answers, verdicts, PreferSection(**chosen), seed=seed)


def reasons(result):
    return [d.reason for d in result.dropped]


def many(*openings, longer=True):
    """One answered and judged question per opening word; draw 0 wins."""
    texts = [(f"{o} it is so", "x" if longer else "a much longer text than that") for o in openings]
    answers = [item(*t, id_=f"p{n}/q0") for n, t in enumerate(texts)]
    return answers, [verdict((9, 4), id_=a.id) for a in answers]


# --- pairs


@pytest.mark.parametrize("select", ["pair", "best_worst"])
def test_higher_score_is_chosen(select):
    (preference,) = run(item(LEFT, RIGHT), [verdict((4, 9))], select=select).preferences
    assert preference.id == "p1/q0/d1>d0"
    assert (preference.chosen.text, preference.rejected.text) == (RIGHT, LEFT)
    assert (preference.margin, preference.weight, preference.source) == (5.0, 1.0, "m")


@pytest.mark.parametrize("select", ["pair", "best_worst"])
def test_ties_yield_no_preference(select):
    result = run(item(LEFT, RIGHT), [verdict((7, 7))], select=select)
    assert result.preferences == []
    assert reasons(result) == ["tie"]


@pytest.mark.parametrize("state", ["unparsed", "refused", "filtered", "transport_failed"])
def test_a_failed_call_is_not_a_verdict(state):
    result = run(item(LEFT, RIGHT), [verdict(state=state)])
    assert result.preferences == []
    assert reasons(result) == [f"verdict {state}"]
    assert result.counts["verdicts"] == {state: 1}


def test_identical_answers_yield_no_preference_whatever_the_judge_says():
    result = run(item("Yes.", "yes"), [verdict((9, 1))])
    assert result.preferences == []
    assert reasons(result) == ["identical answers"]


def test_cut_off_answers_yield_no_preference_whatever_the_judge_says():
    result = run(item(LEFT, RIGHT, cut=[1]), [verdict((9, 1))])
    assert result.preferences == []
    assert reasons(result) == ["cut off by max_tokens"]


@pytest.mark.parametrize(
    ("answers", "reason"),
    [
        (item(LEFT, RIGHT), "not judged"),
        (item("yes", "Yes."), "identical answers"),
        (item(LEFT, RIGHT, cut=[0, 1]), "cut off by max_tokens"),
    ],
)
def test_answers_without_any_verdict_are_dropped_with_a_reason(answers, reason):
    assert reasons(run(answers, [])) == [reason]


def test_verdicts_about_unknown_answers_are_dropped():
    result = run([], [verdict((9, 4))])
    assert [(d.id, d.reason) for d in result.dropped] == [
        ("p1/q0", "judged, but there are no such answers")
    ]


def test_verdicts_about_unknown_draws_are_dropped():
    assert reasons(run(item(LEFT, RIGHT), [verdict((9, 4), pair=(0, 5))])) == [
        "judged, but there are no such draws"
    ]


def test_blank_view_verdicts_are_not_used():
    result = run(item(LEFT, RIGHT), [verdict((9, 4)), verdict((1, 10), view="blank")])
    assert result.preferences[0].margin == 5


def test_a_verdict_read_twice_counts_once():
    once = run(item(LEFT, RIGHT), [verdict((9, 4))])
    assert run(item(LEFT, RIGHT), [verdict((9, 4))] * 2) == once


def test_a_failed_call_that_was_asked_again_is_replaced_by_its_verdict():
    result = run(item(LEFT, RIGHT), [verdict(state="transport_failed"), verdict((9, 4))])
    assert len(result.preferences) == 1
    assert result.counts["verdicts"] == {"ok": 1}


def test_a_judge_that_only_ranks_gives_a_margin_of_one():
    result = run(item(LEFT, RIGHT), [verdict(None, state="ok", winner=1)])
    assert [(p.id, p.margin) for p in result.preferences] == [("p1/q0/d1>d0", 1.0)]


# --- both orders


def test_orders_that_name_different_winners_are_dropped():
    both = [verdict((8, 7)), verdict((7, 8), swapped=True)]
    result = run(item(LEFT, RIGHT), both)
    assert reasons(result) == ["the orders do not name the same winner"]
    assert result.counts["orders_must_agree"] == {"in": 1, "out": 0}


def test_orders_may_disagree_where_the_recipe_says_so():
    both = [verdict((9, 5)), verdict((7, 8), swapped=True)]
    result = run(item(LEFT, RIGHT), both, orders_must_agree=False)
    assert [(p.id, p.margin) for p in result.preferences] == [("p1/q0/d0>d1", 1.5)]


def test_margin_is_the_mean_over_both_orders():
    both = [verdict((9, 4)), verdict((8, 7), swapped=True)]
    assert run(item(LEFT, RIGHT), both).preferences[0].margin == 3.0


def test_a_pair_judged_in_one_of_its_two_orders_is_dropped():
    both = [verdict((9, 4)), verdict(state="unparsed", swapped=True)]
    assert reasons(run(item(LEFT, RIGHT), both)) == ["verdict unparsed"]
    assert len(run(item(LEFT, RIGHT), both, orders_must_agree=False).preferences) == 1


# --- choosing among several


FOUR = item("a b c d", "a b c", "x", "k l m n o p q r s t")


def four(first, second, third, fourth):
    scores = (first, second, third, fourth)
    ring = [(0, 1), (1, 2), (2, 3), (3, 0)]
    return [verdict((scores[i], scores[j]), pair=(i, j)) for i, j in ring]


def every_pair(*scores):
    met = itertools.combinations(range(len(scores)), 2)
    return [verdict((scores[i], scores[j]), pair=(i, j)) for i, j in met]


def test_best_meets_worst_where_all_have_met():
    (preference,) = run(FOUR, every_pair(9, 8, 3, 5)).preferences
    assert (preference.id, preference.margin) == ("p1/q0/d0>d2", 6)


def test_in_a_ring_the_pair_furthest_apart_of_those_that_met_is_taken():
    (preference,) = run(FOUR, four(9, 8, 3, 5)).preferences  # 0 has not met 2
    assert (preference.id, preference.margin) == ("p1/q0/d1>d2", 5)


def test_a_draw_that_lost_is_not_chosen_for_having_had_weaker_opponents():
    said = [verdict((5, 4), pair=(0, 1)), verdict((9, 1), pair=(1, 2))]
    lost = run(FOUR, [*said, verdict(state="refused", pair=(2, 3))], min_margin=0.5)
    assert [p.id for p in lost.preferences] == ["p1/q0/d1>d2"]
    said[1] = verdict((9, 9), pair=(1, 2))  # draw 1 has the higher mean, and lost to draw 0
    assert [p.id for p in run(FOUR, said).preferences] == ["p1/q0/d0>d1"]


@pytest.mark.parametrize("said", ["tie", "inconsistent", "refused", "close"])
def test_the_widest_gap_of_means_is_no_preference_unless_that_pair_was_decided(said):
    both = [verdict((8, 7), pair=(0, 1)), verdict((6, 5), pair=(1, 2))]
    open_pair = {
        "tie": [verdict((5, 5), pair=(0, 2))],
        "inconsistent": [verdict((9, 1), pair=(0, 2)), verdict((1, 2), pair=(0, 2), swapped=True)],
        "refused": [verdict((9, 1), pair=(0, 2)), verdict(None, pair=(0, 2), swapped=True,
                                                          state="refused")],
        "close": [verdict((9, 8.5), pair=(0, 2))],
    }[said]  # fmt: skip
    result = run(FOUR, both + open_pair, min_margin=0.5)
    assert len(result.preferences) == 1
    assert result.preferences[0].id in ("p1/q0/d0>d1", "p1/q0/d1>d2")
    assert result.counts["direct_win"] == {"in": 1, "out": 1}


def test_a_question_without_a_decided_pair_is_dropped_by_a_rule_of_its_own():
    result = run(FOUR, [verdict((5, 5), pair=(0, 1)), verdict((7, 7), pair=(1, 2))])
    assert result.counts["direct_win"] == {"in": 1, "out": 0}
    assert reasons(result) == ["tie"]


def test_the_margin_and_the_judge_are_those_of_the_pair_itself():
    said = [verdict((9, 6), pair=(0, 1), judge="a"), verdict((5, 4), pair=(1, 2), judge="b")]
    (preference,) = run(FOUR, said).preferences
    assert (preference.id, preference.margin, preference.source) == ("p1/q0/d0>d1", 3, "a")


def test_every_pair_is_used_where_pairs_are_selected():
    ids = [p.id for p in run(FOUR, four(9, 8, 3, 5), select="pair").preferences]
    assert ids == ["p1/q0/d0>d1", "p1/q0/d1>d2", "p1/q0/d3>d2", "p1/q0/d0>d3"]


def test_length_gap_chooses_the_worse_answer_closest_in_length():
    verdicts = every_pair(9, 6, 3, 5)
    assert run(FOUR, verdicts, max_length_gap=3).preferences[0].rejected.index == 1
    strict = run(FOUR, verdicts, max_length_gap=3, min_margin=3)
    assert strict.preferences[0].rejected.index == 2
    none = run(FOUR, verdicts, max_length_gap=2, min_margin=3)
    assert reasons(none) == ["no worse answer within 2 words"]
    assert none.counts["max_length_gap"] == {"in": 1, "out": 0}


def test_margin_must_be_strictly_greater():
    result = run(item(LEFT, RIGHT), [verdict((8, 6))], min_margin=2)
    assert reasons(result) == ["margin not above 2"]
    assert len(run(item(LEFT, RIGHT), [verdict((8, 6))], min_margin=1.9).preferences) == 1


def test_the_best_answer_must_be_good_enough():
    assert reasons(run(item(LEFT, RIGHT), [verdict((5, 2))], min_chosen_score=6)) == [
        "best score below 6"
    ]
    assert len(run(item(LEFT, RIGHT), [verdict((6, 2))], min_chosen_score=6).preferences) == 1


def test_a_repeated_answer_is_never_rejected_in_favour_of_itself():
    noisy = item("yes", "Yes.", "no")
    verdicts = [verdict((9, 2), pair=(0, 2)), verdict((8, 2), pair=(1, 2))]
    (preference,) = run(noisy, [*verdicts, verdict((9, 1))]).preferences
    assert (preference.chosen.text, preference.rejected.text) == ("yes", "no")


@pytest.mark.parametrize("again", [(2, 8), (5, 5)])
def test_two_texts_that_did_not_fare_alike_in_two_pairs_are_no_preference(again):
    noisy = item("yes", "Yes.", "no")
    verdicts = [verdict((9, 8), pair=(0, 2)), verdict(again, pair=(1, 2))]
    result = run(noisy, verdicts)
    assert (result.preferences, reasons(result)) == ([], ["the same two answers won and did not"])


def test_of_equal_answers_the_one_that_an_expert_wrote_is_chosen():
    said = [verdict((10, 1), pair=(0, 1)), verdict((10, 1), pair=(2, 1))]
    for word in "abcdefgh":
        answers = item(word, "c d", f"{word} {word}")
        first, second, third = answers.draws
        written = (first, second, third.model_copy(update={"model": "expert:Ada"}))
        answers = answers.model_copy(update={"draws": written})
        assert [p.id for p in run(answers, said).preferences] == ["p1/q0/d2>d1"]


# --- all together


def test_chosen_yes_and_no_become_equally_many():
    result = run(*many(*["Yes,"] * 7, *["No,"] * 3, *["The"] * 4), balance_yes_no=True)
    opens = [p.chosen.text.split()[0] for p in result.preferences]
    assert (opens.count("Yes,"), opens.count("No,"), opens.count("The")) == (3, 3, 4)
    assert result.counts["balance_yes_no"] == {"in": 14, "out": 10}
    assert reasons(result) == ["surplus in balance_yes_no"] * 4


def test_none_and_nothing_do_not_open_with_no():
    result = run(*many("None", "Nothing", "Yesterday"), balance_yes_no=True)
    assert len(result.preferences) == 3


def test_chosen_is_longer_as_often_as_shorter():
    long_answers, long_verdicts = many(*["The"] * 6)
    short = [item("x", "a b c", id_=f"s{n}/q0") for n in range(2)]
    equal = [item("a b", "c d", id_=f"e{n}/q0") for n in range(3)]
    verdicts = long_verdicts + [verdict((9, 4), id_=a.id) for a in short + equal]
    result = run(long_answers + short + equal, verdicts, balance_length=True)
    kinds = [p.image[0] for p in result.preferences]
    assert (kinds.count("p"), kinds.count("s"), kinds.count("e")) == (2, 2, 3)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["yes", "no", "the"]), st.integers(-1, 1))))
def test_neither_balance_undoes_the_other(kinds):
    answers = [
        item(f"{word} a b", " ".join(["z"] * (3 + gap)), id_=f"p{n}/q0")
        for n, (word, gap) in enumerate(kinds)
    ]
    verdicts = [verdict((9, 4), id_=a.id) for a in answers]
    kept = run(answers, verdicts, balance_yes_no=True, balance_length=True).preferences
    opens = [p.chosen.text.split()[0] for p in kept]
    gaps = [len(p.chosen.text.split()) - len(p.rejected.text.split()) for p in kept]
    assert opens.count("yes") == opens.count("no")
    assert gaps.count(1) == gaps.count(-1)


def test_surplus_depends_on_the_seed_and_on_nothing_else():
    answers, verdicts = many(*["Yes,"] * 9, *["No,"] * 4)
    kept = {p.id for p in run(answers, verdicts, balance_yes_no=True).preferences}
    shuffled = random.Random(1).sample(verdicts, len(verdicts))
    again = run(answers[::-1], shuffled, balance_yes_no=True).preferences
    other = run(answers, verdicts, balance_yes_no=True, seed=1).preferences
    assert {p.id for p in again} == kept
    assert {p.id for p in other} != kept


def test_an_image_keeps_its_largest_margins():
    answers = [item(LEFT, RIGHT, id_=f"p1/q{n}") for n in range(4)]
    verdicts = [verdict((9, s), id_=a.id) for a, s in zip(answers, (8, 2, 7, 3), strict=True)]
    result = run(answers, verdicts, max_per_image=2)
    assert [p.margin for p in result.preferences] == [7, 6]
    assert reasons(result) == ["more than 2 of its image"] * 2


def test_a_question_type_keeps_its_largest_margins():
    asks = ["Is it left?", "Are there two?", "Does it move?", "What is it?", "How many are there?"]
    answers = [
        item(LEFT, RIGHT, id_=f"p{n}/q0").model_copy(update={"question": ask})
        for n, ask in enumerate(asks)
    ]
    scores = zip(answers, (8, 2, 7, 3, 4), strict=True)
    verdicts = [verdict((9, score), id_=a.id) for a, score in scores]
    result = run(answers, verdicts, max_per_question_type=1)
    assert [p.question for p in result.preferences] == [asks[1], asks[3], asks[4]]
    assert reasons(result) == ["more than 1 of its question type"] * 2
    assert result.counts["max_per_question_type"] == {"in": 5, "out": 3}


@pytest.mark.parametrize(
    ("question", "kind"),
    [
        ("Is there a mass?", "yes/no"),
        ("is", "yes/no"),
        ("Island of what?", "other"),
        ("How many lesions?", "how many"),
        ("How was this taken?", "how"),
        ("  WHERE is it", "where"),
        ("In which lobe?", "other"),
        ("", "other"),
    ],
)
def test_a_question_has_the_type_of_its_opening_words(question, kind):
    assert question_type(question) == kind


def test_a_win_in_one_order_and_a_tie_in_the_other_is_no_preference():
    both = [verdict((9, 4)), verdict((5, 5), swapped=True)]
    assert reasons(run(item(LEFT, RIGHT), both)) == ["the orders do not name the same winner"]
    loose = run(item(LEFT, RIGHT), both, orders_must_agree=False)
    assert [p.margin for p in loose.preferences] == [2.5]


def test_repeated_samples_of_an_order_count_once_together():
    said = [verdict((9, 5), sample=0), verdict((6, 5), sample=1).model_copy(update={"id": "s1"})]
    said.append(verdict((6, 5), swapped=True))
    assert run(item(LEFT, RIGHT), said).preferences[0].margin == 1.75


def test_probabilities_of_a_judge_that_ranks_are_its_points():
    likely = [verdict(None, state="ok", winner=0, preference=0.9)]
    likely.append(verdict(None, state="ok", winner=0, preference=0.7, swapped=True))
    (preference,) = run(item(LEFT, RIGHT), likely).preferences
    assert preference.margin == pytest.approx(0.6)
    assert run(item(LEFT, RIGHT), likely, min_margin=0.7).preferences == []


def test_a_difference_in_the_last_digits_is_a_tie():
    likely = [0.9, 0.1]  # whose complements are not quite 0.1 and 0.9
    said = [verdict(None, state="ok", winner=n, preference=p) for n, p in enumerate(likely)]
    said[1] = said[1].model_copy(update={"id": "s1", "sample": 1})
    assert reasons(run(item(LEFT, RIGHT), said)) == ["tie"]


@pytest.mark.parametrize("fields", [{"preference": 0.6}, {"scores": (8, 5)}])
def test_a_verdict_that_names_no_winner_makes_none(fields):
    said = [verdict(None, state="tie", swapped=s).model_copy(update=fields) for s in (False, True)]
    assert reasons(run(item(LEFT, RIGHT), said)) == ["tie"]


def test_scores_against_their_own_winner_make_no_other():
    said = [verdict((8, 5), state="ok", winner=1)]
    assert run(item(LEFT, RIGHT), said).preferences == []


def test_margin_weights_have_mean_one():
    answers = [item(LEFT, RIGHT, id_=f"p{n}/q0") for n in range(2)]
    verdicts = [verdict((9, s), id_=a.id) for a, s in zip(answers, (8, 6), strict=True)]
    result = run(answers, verdicts, weight="margin")
    assert [p.weight for p in result.preferences] == [0.5, 1.5]


def test_everything_that_came_in_is_a_preference_or_dropped():
    answers, verdicts = many(*["Yes,"] * 5, *["No,"] * 2)
    verdicts[1:3] = [verdict((5, 5), id_="p1/q0"), verdict(state="refused", id_="p2/q0")]
    result = run(answers, verdicts, balance_yes_no=True, max_per_image=1)
    assert len(result.preferences) + len(result.dropped) == len(answers)
    assert sum(result.counts["dropped"].values()) == len(result.dropped)

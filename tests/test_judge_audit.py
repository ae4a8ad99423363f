"""Habits of a judge show in its audit, and a jury and an expert are held against it."""

import json
import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st
from judged_pairs import (
    RuleJudge,
    careless_coin,
    coin,
    first,
    images_of,
    items,
    longer,
    makes_answers,
    seated,
    verdict,
)

from stllava.cli.judge.tables import audit_parts
from stllava.errors import DataError, JudgeError
from stllava.judging.audit.audit import audit
from stllava.judging.audit.calibration import calibrate, expert_votes, read_labels
from stllava.judging.audit.length import length_model
from stllava.judging.audit.pairs import decide, decisions
from stllava.judging.audit.run import audit_run
from stllava.judging.audit.share import share
from stllava.judging.experts.reading import vote_id
from stllava.judging.experts.sheet import row_id_of
from stllava.judging.experts.votes import with_votes
from stllava.judging.jury.combine import jury_verdicts
from stllava.judging.jury.panel import panel
from stllava.judging.jury.turns import JuryJudge
from stllava.judging.questions import question_kind
from stllava.judging.states import by_pair, outcome_of
from stllava.metrics.interval import wilson
from stllava.records import Usage

ANSWERS = makes_answers(400)


def verdicts_of(rule, name="rule", orders="both", answers=ANSWERS):
    return list(RuleJudge(rule, name, orders).judge(items(answers)))


def audited(rule, **options):
    found = audit(verdicts_of(rule, **options), ANSWERS, images_of(ANSWERS))
    return found["judges"]["rule"]


def holds(share, value):
    return share["interval"].low <= value <= share["interval"].high


# --- one pair


@pytest.mark.parametrize(
    ("winners", "state", "half"),
    [
        ((1, 1), "ok", False),
        ((None, None), "tie", False),
        ((0, 1), "inconsistent", False),
        ((0, None), "inconsistent", True),
    ],
)
def test_a_decision_needs_every_order_to_say_the_same(winners, state, half):
    item = ANSWERS[0]
    said = [verdict(item, o, w) for o, w in zip(((0, 1), (1, 0)), winners, strict=True)]
    found = decide(said)
    assert (found.state, found.half, found.num_orders) == (state, half, 2)
    assert found.winner == (winners[0] if state == "ok" else None)


def test_a_pair_with_a_failed_order_has_that_orders_state_and_no_vote():
    item = ANSWERS[0]
    said = [verdict(item, (0, 1), 0), verdict(item, (1, 0), None, state="refused")]
    assert (decide(said).state, decide(said).vote, decide(said).margin) == ("refused", None, None)


def test_the_last_verdict_of_an_id_counts():
    item = ANSWERS[0]
    failed = verdict(item, (0, 1), None, state="transport_failed")
    (found,) = decisions([failed, verdict(item, (0, 1), 1)])
    assert (found.state, found.winner, found.margin) == ("ok", 1, -3.0)


def test_kinds_of_questions_go_by_their_wording():
    asked = ["Is there a mass?", "Is it left or right?", "Where is it?", "does it show?"]
    assert [question_kind(q) for q in asked] == ["yes/no", "choice", "open", "yes/no"]


# --- habits


def test_a_judge_that_always_likes_the_first_is_never_consistent():
    found = audited(first)
    assert found["consistency"]["same"]["percent"] == 0
    assert found["consistency"]["flipped_to_first_shown"]["percent"] == 100
    assert found["position"]["first_shown_wins"]["percent"] == 100
    assert found["position"]["model"]["at_equal_length"] > 95
    assert found["length"]["longer_wins"]["n"] == 0


def test_a_judge_that_counts_words_is_consistent_and_shows_it_in_length_alone():
    found = audited(longer)
    assert found["consistency"]["same"]["percent"] == 100
    assert found["length"]["longer_wins"]["percent"] == 100
    assert set(found["length"]["by_gap"]) == {"1-2", "3-5", "6-10", "11-20"}
    model = found["position"]["model"]
    assert model["at_equal_length"] == pytest.approx(50, abs=1)
    assert model["slope_interval"].low > 0
    assert model["longer_by_sd"] > 90


def test_a_coin_has_neither_habit():
    found = audited(coin)
    assert found["consistency"]["same"]["percent"] == 100
    assert holds(found["position"]["first_shown_wins"], 50)
    assert holds(found["length"]["longer_wins"], 50)
    model = found["position"]["model"]
    assert model["slope_interval"].low < 0 < model["slope_interval"].high


def test_a_coin_thrown_in_each_order_is_consistent_half_of_the_time():
    found = audited(careless_coin)
    assert holds(found["consistency"]["same"], 50)
    assert holds(found["consistency"]["flipped_to_first_shown"], 50)


def test_position_and_length_are_told_apart_where_both_matter():
    rng = random.Random(1)
    gaps = [rng.randint(-10, 10) for _ in range(4000)]
    squash = [gap / 6 for gap in gaps]
    wins = [rng.random() < 1 / (1 + 2.718281828 ** -(0.8 + 1.5 * s)) for s in squash]
    found = length_model(wins, gaps, [str(n) for n in range(4000)])
    assert found.at_equal_length == pytest.approx(100 / (1 + 2.718281828**-0.8), abs=3)
    assert found.at_equal_length_interval.low < 69 < found.at_equal_length_interval.high
    raw = 100 * sum(wins) / len(wins)
    assert abs(raw - found.at_equal_length) > 3
    assert length_model(wins[:9], gaps[:9], ["g"] * 9) is None


def test_one_order_says_that_its_position_figure_is_of_one_order():
    found = audited(first, orders="one")
    assert found["position"]["basis"] == "one order"
    assert found["consistency"]["same"]["n"] == 0


def test_shares_add_up_and_carry_n_and_intervals():
    found = audited(coin)
    assert sum(s["hits"] for s in found["states"].values()) == found["pairs"] == 400
    assert found["states"]["ok"]["n"] == 400
    assert found["states"]["ok"]["interval"].low > 98
    for part in ("by_source", "by_kind"):
        assert sum(s["decided"]["n"] for s in found[part].values()) == 400
    assert set(found["by_source"]) == {"ct", "xray"}
    assert set(found["by_kind"]) == {"open", "yes/no"}


def test_a_share_is_wilsons_where_items_are_alone_and_wider_where_they_are_copies():
    flags = [float(n % 3 == 0) for n in range(60)]
    alone = share((flag, str(n)) for n, flag in enumerate(flags))
    assert alone.interval == pytest.approx(wilson(20, 60))
    assert alone.clustered == pytest.approx(alone.interval, abs=0.3)
    copies = share((flag, str(n % 60)) for n, flag in enumerate(flags * 5))
    assert (copies.n, copies.num_groups) == (300, 60)
    assert copies.clustered == pytest.approx(alone.clustered, abs=0.3)
    assert copies.interval.low > copies.clustered.low


def test_a_share_without_variation_is_as_wide_as_its_groups_make_it():
    found = share((1.0, str(n % 10)) for n in range(100))
    assert found.clustered == pytest.approx(wilson(10, 10))


def test_failed_verdicts_are_states_and_no_habit():
    said = verdicts_of(coin)
    said[0] = said[0].model_copy(update={"state": "unparsed", "winner": None, "scores": None})
    found = audit(said, ANSWERS)["judges"]["rule"]
    assert found["states"]["unparsed"]["hits"] == 1
    assert found["consistency"]["same"]["n"] == 399


def test_scores_are_counted_by_value_and_by_margin():
    found = audited(longer)["scores"]
    assert sum(found["histogram"].values()) == found["n"] == 1600
    assert set(found["histogram"]) == {"5", "6", "8"}
    assert set(found["margins"]) == {"0", "3"}


def test_pairs_whose_winner_stays_without_the_image_are_counted_and_listed():
    seen = verdicts_of(coin, answers=ANSWERS[:3])
    blank = [v.model_copy(update={"id": f"b{v.id}", "view": "blank"}) for v in seen]
    changed = {"winner": None, "state": "refused", "scores": None}
    blank[2:4] = [v.model_copy(update=changed) for v in blank[2:4]]
    turned = [{"winner": 1 - v.winner, "scores": v.scores[::-1]} for v in blank[4:]]
    blank[4:] = [v.model_copy(update=u) for v, u in zip(blank[4:], turned, strict=True)]
    found = audit(seen + blank, ANSWERS)["judges"]["rule"]
    assert found["pairs"] == 3
    assert found["blank"]["unchanged"]["hits"] == 1
    assert found["blank"]["unchanged"]["n"] == 3
    assert found["blank"]["unchanged_pairs"] == ["i0/q0/d0-d1"]


def test_blank_calls_that_were_never_answered_say_nothing():
    seen = verdicts_of(coin, answers=ANSWERS[:1])
    update = {"view": "blank", "winner": None, "state": "transport_failed", "scores": None}
    blank = [v.model_copy(update={"id": f"b{v.id}", **update}) for v in seen]
    assert audit(seen + blank, ANSWERS)["judges"]["rule"]["blank"]["unchanged"]["n"] == 0


def test_costs_and_tokens_are_summed_over_verdicts_that_have_them():
    said = verdicts_of(coin, answers=ANSWERS[:2])
    paid = {"usage": Usage(prompt_tokens=10, completion_tokens=2), "cost_usd": 0.25}
    said[:3] = [v.model_copy(update={**paid, "model_returned": "m-1"}) for v in said[:3]]
    cost = audit(said, ANSWERS)["judges"]["rule"]["cost"]
    assert (cost["verdicts"], cost["with_usage"], cost["priced"]) == (4, 3, 3)
    assert (cost["prompt_tokens"], cost["completion_tokens"], cost["cost_usd"]) == (30, 6, 0.75)
    assert cost["models_returned"] == {"m-1": 3}


def test_calls_are_replies_and_repairs_and_identical_answers_need_none():
    said = verdicts_of(coin, answers=ANSWERS[:2])
    said[0] = said[0].model_copy(update={"model": "m", "repair": "8 7", "rubric": "paper"})
    said[1] = said[1].model_copy(update={"model": "m", "rubric": "paper", "rubric_version": 2})
    said[2] = said[2].model_copy(update={"reply": "j0: d0", "rubric": ""})
    cost = audit(said, ANSWERS)["judges"]["rule"]["cost"]
    assert cost["calls"] == 3
    assert cost["models_asked"] == {"m": 2}
    assert cost["rubrics"] == {"paper 0": 1, "paper 2": 1}


def test_states_that_never_occurred_have_a_share_of_zero_with_an_interval():
    found = audited(coin)["states"]
    assert {"tie", "inconsistent", "refused", "filtered", "unparsed"} <= found.keys()
    assert (found["refused"]["hits"], found["refused"]["n"]) == (0, 400)
    assert 0 < found["refused"]["clustered"].high < 3


def test_a_judge_that_says_the_same_in_both_orders_everywhere_has_no_interval_without_width():
    model = audited(coin)["position"]["model"]
    assert model["at_equal_length"] == pytest.approx(50, abs=1e-6)
    assert model["at_equal_length_interval"] is None
    assert audited(careless_coin)["position"]["model"]["at_equal_length_interval"] is not None


def test_a_jurys_own_verdict_was_shown_in_no_order_and_has_no_position():
    votes = three(coin, coin, longer)
    files = {
        "answer/answers.jsonl": FEW,
        "prepare/images.jsonl": images_of(FEW),
        "judge/verdicts.jsonl": jury_verdicts(votes, clock=lambda: ""),
        "judge/votes.jsonl": votes,
    }
    found = audit_run(lambda name, _: files.get(name, []))
    jury = found["judges"]["jury"]
    assert jury["position"]["first_shown_wins"]["n"] == 0
    assert jury["position"]["model"] is None
    assert [part["first_shown_wins"]["n"] for part in jury["by_source"].values()] == [0, 0]
    assert found["jury"]["judges"]["j0"]["position"]["first_shown_wins"]["n"] > 0


def test_an_audit_of_nothing_and_one_without_answers_are_audits():
    assert audit([], []) == {"num_answers": 0, "num_groups": 0, "judges": {}}
    found = audit(verdicts_of(coin), [])["judges"]["rule"]
    assert found["length"]["longer_wins"]["n"] == 0
    assert found["position"]["model"] is None
    assert list(found["by_source"]) == ["unknown"]


def test_an_audit_is_plain_data():
    found = audit(verdicts_of(coin), ANSWERS)
    read = json.loads(json.dumps(found, allow_nan=False))
    assert read["judges"].keys() == found["judges"].keys()
    assert read["judges"]["rule"].keys() == found["judges"]["rule"].keys()


# --- juries


FEW = ANSWERS[:120]


def three(*rules):
    return [v for n, rule in enumerate(rules) for v in verdicts_of(rule, f"j{n}", answers=FEW)]


def test_two_of_three_decide_and_one_verdict_is_left_per_pair():
    said = jury_verdicts(three(lambda a, o: 0, lambda a, o: 0, lambda a, o: 1), clock=lambda: "now")
    assert len(said) == len(FEW)
    assert {(v.state, v.winner, v.judge) for v in said} == {("ok", 0, "jury")}
    assert said[0].scores == (7.0, 6.0)
    assert said[0].reply == "j0: d0; j1: d0; j2: d1"


def test_an_inconsistent_judge_has_no_vote_and_no_majority_is_no_winner():
    rules = (lambda a, o: 0, lambda a, o: 1, first)
    assert {v.state for v in jury_verdicts(three(*rules))} == {"inconsistent"}


def test_a_jury_of_which_most_have_no_vote_says_why():
    rules = (lambda a, o: 0, first, first)
    assert {v.state for v in jury_verdicts(three(*rules))} == {"inconsistent"}
    said = three(lambda a, o: 0, coin, coin)
    failing = {"state": "refused", "winner": None, "scores": None}
    said = [v if v.judge == "j0" else v.model_copy(update=failing) for v in said]
    assert {v.state for v in jury_verdicts(said)} == {"refused"}


def test_standard_scores_let_a_sure_judge_outweigh_two_that_hardly_care():
    item = ANSWERS[:2]
    scores = {"j0": ((9, 1), (5, 5)), "j1": ((5, 6), (9, 1)), "j2": ((5, 6), (9, 1))}
    said = [
        verdict(a, (0, 1), 0 if s[0] > s[1] else 1 if s[1] > s[0] else None, judge=j, scores=s)
        for j, both in scores.items()
        for a, s in zip(item, both, strict=True)
    ]
    assert jury_verdicts(said)[0].winner == 1
    assert jury_verdicts(said, rule="mean_z")[0].winner == 0


def test_a_jury_asks_each_judge_once_and_keeps_every_vote(tmp_path):
    asked, kept = [], []

    def noted(name, rule):
        def follow(answers, order):
            asked.append((name, answers.id, order))
            return rule(answers, order)

        return RuleJudge(follow, name)

    cases = items(ANSWERS[:5])
    members = seated(noted("a", longer), noted("b", coin), noted("c", coin))
    whole = list(JuryJudge(members, keep=kept.append).judge(cases))
    assert len(kept) == len(asked) == 30
    asked.clear()
    again = JuryJudge(members, votes=kept[:25])
    assert [v.id for v in again.judge(cases)] == [v.id for v in whole]
    assert len(asked) == 30  # rule judges compute before they look; what they yield is new
    assert list(again.judge(cases, done={v.id for v in whole})) == []


def test_a_jury_needs_two_names():
    with pytest.raises(JudgeError, match="two or more"):
        JuryJudge(seated(RuleJudge(coin, "a"), RuleJudge(first, "a")))


def test_a_panel_of_copies_is_worth_one_judge_and_an_odd_one_out_shows():
    said = decisions(three(coin, coin, longer))
    found = panel(said, {})
    assert found["n_eff"] < 2
    (copies,) = [k for k in found["kappas"] if (k["a"], k["b"]) == ("j0", "j1")]
    assert copies["kappa"] == 1
    assert found["left_out"]["j2"]["alpha_nominal"] == 1
    assert found["left_out"]["j0"]["alpha_nominal"] < 0.3
    assert found["left_out"]["j2"]["kappa_with_the_others"]["kappa"] < 0.2
    assert found["fleiss_pairs"] == len(FEW)


# --- against an expert


def truth_of(answers):
    return {f"{a.id}/d0-d1": random.Random(a.id).choice((1, -1)) for a in answers}


def knows(labels, share):
    """Right in a share of the pairs."""

    def rule(answers, order):
        right = labels[f"{answers.id}/d0-d1"] == 1
        knows_it = random.Random(f"k{answers.id}").random() < share
        return 0 if right == knows_it else 1

    return rule


def test_kappa_and_accuracy_against_an_expert_are_those_of_the_judge():
    labels = truth_of(ANSWERS)
    found = calibrate(labels, decisions(verdicts_of(knows(labels, 0.8))), {})
    assert holds(found["accuracy"], 80)
    assert found["kappa"]["interval"].low < 0.6 < found["kappa"]["interval"].high
    assert found["pairs"] == found["labels"] == 400
    assert found["confusion"]["winner"]["same"] == found["accuracy"]["hits"]


def test_a_careful_judge_is_accurate_on_few_and_the_strict_share_says_so():
    labels = truth_of(ANSWERS)

    def half(answers, order):
        sure = random.Random(f"s{answers.id}").random() < 0.5
        return knows(labels, 1)(answers, order) if sure else order[0]

    found = calibrate(labels, decisions(verdicts_of(half)), {})
    assert found["accuracy"]["percent"] == 100
    assert holds(found["accuracy_of_all"], 50)
    assert found["confusion"]["winner"]["inconsistent"] == 400 - found["accuracy"]["n"]


def test_ties_of_the_expert_and_of_the_judge_are_in_the_confusion():
    labels = {f"{a.id}/d0-d1": 0 for a in ANSWERS[:4]}
    said = verdicts_of(lambda a, o: None if a.id == "i0/q0" else 0, answers=ANSWERS[:4])
    assert calibrate(labels, decisions(said), {})["confusion"] == {"tie": {"winner": 3, "tie": 1}}


def test_the_margin_is_chosen_on_one_half_of_the_images_and_reported_on_the_other():
    answers = makes_answers(800)
    labels = truth_of(answers)
    said = []
    for a in answers:
        gap = random.Random(f"m{a.id}").randint(1, 6)
        right = random.Random(f"r{a.id}").random() < (0.55 if gap < 4 else 0.97)
        winner = 0 if (labels[f"{a.id}/d0-d1"] == 1) == right else 1
        scores = (3.0 + gap, 3.0) if winner == 0 else (3.0, 3.0 + gap)
        said.append(verdict(a, (0, 1), winner, scores=scores))
    groups = {f"{a.id}/d0-d1": a.image for a in answers}
    found = calibrate(labels, decisions(said), groups)["threshold"]
    assert found["reached"]
    assert found["margin"] == 4
    assert found["reported_on"]["accuracy"]["percent"] > 90
    assert 0 < found["reported_on"]["kept"]["percent"] < 100
    halves = found["chosen_on"]["kept"]["n"] + found["reported_on"]["kept"]["n"]
    assert halves == 800


def test_labels_are_read_from_a_table_and_odd_ones_are_named(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("pair,winner\na/q0/d0-d1,d1\na/q1/d1-d0,0\nb/q0/d0-d1,tie\nb/q1/d0-d1,\n")
    assert read_labels(file) == {"a/q0/d0-d1": -1, "a/q1/d0-d1": 1, "b/q0/d0-d1": 0}
    file.write_text("pair,winner\na/q0/d0-d1,d7\n")
    with pytest.raises(DataError, match=r"labels\.csv:2: .* neither d0 nor d1"):
        read_labels(file)
    file.write_text("pair,who\na/q0/d0-d1,d1\n")
    with pytest.raises(DataError, match="pair and winner"):
        read_labels(file)


def test_an_experts_votes_are_labels_and_what_is_both_bad_has_none():
    a, b, c, d = ANSWERS[:4]
    said = [
        verdict(a, (0, 1), 1, judge="expert"),
        verdict(b, (0, 1), None, judge="expert", state="both_bad"),
        verdict(c, (0, 1), None, judge="expert", state="cannot_judge"),
        verdict(d, (0, 1), None, judge="expert"),
    ]
    assert expert_votes(said) == {"i0/q0/d0-d1": -1, "i1/q1/d0-d1": 0}


def test_both_bad_is_left_out_of_a_table_as_it_is_of_votes(tmp_path):
    file = tmp_path / "labels.csv"
    file.write_text("pair,winner\na/q0/d0-d1,both_bad\na/q1/d0-d1,both bad\na/q2/d0-d1,tie\n")
    assert read_labels(file) == {"a/q2/d0-d1": 0}


def test_of_several_experts_more_than_half_must_agree():
    a, b = ANSWERS[:2]
    said = [verdict(a, (0, 1), 1, judge=f"expert:{name}") for name in "xy"]
    said += [verdict(b, (0, 1), n, judge=f"expert:{name}") for n, name in enumerate("xy")]
    said += [verdict(b, (0, 1), 0, judge="a-model")]
    assert expert_votes(said) == {"i0/q0/d0-d1": -1}


def voted(answers, winner, name="Ada", **other):
    """As an import writes it."""
    known = verdict(answers, (0, 1), winner, judge=f"expert:{name}", **other)
    row = row_id_of(answers, (0, 1))
    return known.model_copy(update={"id": vote_id(row, known.judge), "scores": None})


def audit_of(answers, votes, labels=None):
    files = {
        "answer/answers.jsonl": answers,
        "prepare/images.jsonl": images_of(answers),
        "judge/verdicts.jsonl": verdicts_of(longer, answers=answers),
        "review/verdicts.jsonl": votes,
    }
    return audit_run(lambda name, _: files.get(name, []), labels=labels)


def swapped(answers):
    """Sampled anew, with the texts the other way round."""
    texts = [draw.text for draw in answers.draws][::-1]
    draws = [d.model_copy(update={"text": t}) for d, t in zip(answers.draws, texts, strict=True)]
    return answers.model_copy(update={"draws": tuple(draws)})


def test_votes_on_texts_that_were_sampled_anew_calibrate_nothing():
    decided = [a for a in FEW if longer(a, (0, 1)) is not None]
    votes = [voted(a, longer(a, (0, 1))) for a in decided]
    perfect = audit_of(FEW, votes)
    assert perfect["votes"] == {"used": len(decided), "outdated": 0}
    assert perfect["calibration"]["rule"]["accuracy"]["percent"] == 100
    anew = audit_of([*map(swapped, FEW[:-20]), *FEW[-20:]], votes)
    kept = sum(a in decided for a in FEW[-20:])
    assert anew["votes"] == {"used": kept, "outdated": len(decided) - kept}
    assert anew["calibration"]["rule"]["accuracy"]["percent"] == 100
    none = audit_of([swapped(a) for a in FEW], votes)
    assert "calibration" not in none
    assert none["votes"]["used"] == 0
    lines = [str(part) for part in audit_parts(none)]
    told = f"experts' votes: 0 used, {len(decided)} about texts that are no longer there"
    assert told in lines


VOTES = st.lists(
    st.sampled_from(["first", "second", "tie", "both_bad", "cannot_judge"]), max_size=5
)


@given(VOTES)
def test_preferences_and_calibration_hear_the_same_majority(said):
    answers = ANSWERS[0]
    choices = {"first": (0, "ok"), "second": (1, "ok")}
    votes = [
        voted(answers, choices.get(one, (None,))[0], str(n), state=choices.get(one, (0, one))[1])
        for n, one in enumerate(said)
    ]
    labels = expert_votes(votes)
    merged = with_votes([answers], [], votes)
    outcomes = [outcome_of(given) for given in by_pair(merged.verdicts).values()]
    state, winner = outcomes[0][:2] if outcomes else ("none", None)
    heard = Counter(one for one in said if one != "cannot_judge")
    top = [one for one, number in heard.items() if 2 * number > heard.total()]
    expected = top[0] if top else "inconsistent" if heard else "cannot_judge" if said else "none"
    assert (state, winner) == (
        {"first": "ok", "second": "ok"}.get(expected, expected),
        {"first": 0, "second": 1}.get(expected),
    )
    label = {"first": 1, "second": -1, "tie": 0}.get(expected)
    assert labels == ({} if label is None else {"i0/q0/d0-d1": label})


def test_samples_of_an_order_are_averaged():
    item = ANSWERS[0]
    given = [(9.0, 5.0), (5.0, 6.0)]
    said = [
        verdict(item, (0, 1), int(a < b), scores=(a, b)).model_copy(update={"id": f"s{n}"})
        for n, (a, b) in enumerate(given)
    ]
    assert (decide(said).state, decide(said).winner, decide(said).margin) == ("ok", 0, 1.5)

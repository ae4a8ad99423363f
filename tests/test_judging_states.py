"""From replies to verdicts to states of pairs: repairs, samples, orders, expert queue."""

import json
import math
from collections import Counter
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_judging import BAD, GOOD, answers, prefers_good

from stllava.config import PreferSection
from stllava.generation.protocol import draw_seed
from stllava.generation.scripted import ScriptedGenerator
from stllava.judging.pairing import IDENTICAL
from stllava.judging.prefer import prefer
from stllava.judging.protocol import ModelJudge
from stllava.judging.routing import blank_counts, blank_items, for_review
from stllava.judging.states import outcome_of, pair_states
from stllava.prompts import FAITHFUL_RUBRIC
from stllava.records import Draw, Usage, Verdict

PAIR = ("p1/q0", (0, 1))


class Replies:
    """A Generator that replies with the fields that `say(request, index)` gives."""

    name = "replies"

    def __init__(self, say):
        self.say, self.asked = say, []

    def generate(self, requests, sampling):
        for request in requests:
            self.asked.append(request)
            for index in range(request.num_draws):
                fields = {"text": "", **self.say(request, index)}
                seed = draw_seed(sampling.seed, request.id, index)
                yield Draw(request_id=request.id, index=index, seed=seed, **fields)


def judging(say, items=None, *, orders="both", done=(), **options):
    generator = Replies(lambda request, index: say(request, index))
    judge = ModelJudge(generator, name="m", orders=orders, clock=lambda: "now", **options)
    items = [(answers(GOOD, BAD), (0, 1))] if items is None else items
    return list(judge.judge(items, done=done)), generator


def text(reply):
    return lambda request, index: {"text": reply}


def faithful(first, second, faults=((), ()), said="tie"):
    one, two = (
        {"faults": list(f), "score": s} for s, f in zip((first, second), faults, strict=True)
    )
    return json.dumps({"reason": "r", "answer_1": one, "answer_2": two, "verdict": said})


# --- what a verdict keeps


def test_a_verdict_keeps_rubric_model_rung_usage_cost_and_time():
    paid = {"text": "8 7", "usage": Usage(prompt_tokens=9), "cost_usd": 0.01, "time": "then"}
    (verdict,), _ = judging(lambda *_: {**paid, "model": "m-2"}, orders="one", model="m-latest")
    assert (verdict.rubric, verdict.rubric_version, verdict.rung) == ("paper", 1, "line")
    assert (verdict.model, verdict.model_returned) == ("m-latest", "m-2")
    assert (verdict.cost_usd, verdict.usage.prompt_tokens, verdict.time) == (0.01, 9, "then")


def test_faults_follow_the_draw_not_the_place_it_was_shown_in():
    def say(request, _):
        prompt = request.turns[0].question
        vague = (("vague",), ()) if prompt.index(BAD) < prompt.index(GOOD) else ((), ("vague",))
        scores = (3, 9) if vague[0] else (9, 3)
        return {"text": faithful(*scores, faults=vague)}

    verdicts, generator = judging(say, rubric="faithful")
    assert [(v.winner, v.scores, v.faults) for v in verdicts] == [(0, (9, 3), ((), ("vague",)))] * 2
    assert {request.response for request in generator.asked} == {"verdict"}
    assert all("disagree" in v.reason for v in verdicts)


def test_probabilities_follow_the_draw_and_are_asked_for_with_few_tokens():
    told = ({"A": math.log(0.9), "B": math.log(0.1)},)
    verdicts, generator = judging(lambda *_: {"text": "A", "alternatives": told}, rubric="local")
    assert [v.preference for v in verdicts] == [pytest.approx(0.9), pytest.approx(0.1)]
    assert [v.winner for v in verdicts] == [0, 1]
    assert {(r.top_logprobs, r.max_tokens, r.response) for r in generator.asked} == {(10, 16, None)}


def test_each_order_has_a_nonce_of_its_own_that_follows_from_the_texts():
    nonces = []
    for _ in range(2):
        _, generator = judging(text("8 7"), rubric="faithful")
        for request in generator.asked:
            prompt = request.turns[0].question
            nonces.append(prompt.split("<<<ANSWER 1 ")[1].split(">>>")[0])
    assert nonces[:2] == nonces[2:]
    assert nonces[0] != nonces[1]


def test_a_rubric_object_is_as_good_as_its_name():
    one, _ = judging(text(faithful(8, 7)), rubric=FAITHFUL_RUBRIC)
    other, _ = judging(text(faithful(8, 7)), rubric="faithful")
    assert one == other


def test_a_budget_stop_is_a_state_of_its_own():
    verdicts, _ = judging(lambda *_: {"finish": "error", "reason": "budget"})
    assert [v.state for v in verdicts] == ["budget_stopped"] * 2


def test_the_view_is_part_of_a_verdict_and_of_its_id():
    seen, _ = judging(text("8 7"))
    blank, _ = judging(text("8 7"), view="blank")
    assert {v.view for v in blank} == {"blank"}
    assert not {v.id for v in seen} & {v.id for v in blank}


# --- repairs


def mumbles(request, _):
    return {
        "text": "I like both." if len(request.turns) == 1 else "9 4",
        "usage": Usage(prompt_tokens=5),
    }


def test_an_unread_reply_is_asked_for_once_more_quoting_the_form():
    verdicts, generator = judging(mumbles, repair=True)
    assert [(v.state, v.rung, v.reply, v.repair) for v in verdicts] == [
        ("ok", "repair:line", "I like both.", "9 4")
    ] * 2
    assert verdicts[0].usage.prompt_tokens == 10
    first, again = generator.asked[0], generator.asked[2]
    assert again.id == f"{first.id}/repair"
    assert again.turns[0].question == first.turns[0].question
    assert again.turns[0].answer == "I like both."
    assert "two numbers from 1 to 10" in again.turns[1].question


def test_without_repair_an_unread_reply_stays_unparsed():
    verdicts, generator = judging(mumbles)
    assert [v.state for v in verdicts] == ["unparsed"] * 2
    assert len(generator.asked) == 2


def test_a_second_unread_reply_is_the_last():
    verdicts, generator = judging(text("Hm."), repair=True)
    assert [(v.state, v.repair) for v in verdicts] == [("unparsed", "Hm.")] * 2
    assert len(generator.asked) == 4


@pytest.mark.parametrize(
    "reply",
    [
        {"text": "I'm sorry, I can't assist with that."},
        {"text": "No.", "finish": "refused"},
        {"finish": "refused"},
        {"finish": "error"},
        {"text": "8 7"},
        {"text": ""},
    ],
)
def test_refused_failed_empty_and_readable_replies_are_not_asked_for_again(reply):
    _, generator = judging(lambda *_: reply, repair=True)
    assert len(generator.asked) == 2


@pytest.mark.parametrize(
    ("reason", "state"), [("budget", "budget_stopped"), ("transport", "transport_failed")]
)
def test_a_repair_that_got_no_reply_leaves_the_verdict_open(reason, state):
    def say(request, _):
        first = {"text": "Hm.", "cost_usd": 0.1}
        return first if len(request.turns) == 1 else {"finish": "error", "reason": reason}

    verdicts, _ = judging(say, repair=True)
    assert [(v.state, v.cost_usd) for v in verdicts] == [(state, 0.1)] * 2


def test_costs_of_a_call_and_its_repair_are_added_without_a_remainder():
    def say(request, _):
        return {**mumbles(request, _), "cost_usd": 0.1 if len(request.turns) == 1 else 0.2}

    verdicts, _ = judging(say, repair=True)
    assert [v.cost_usd for v in verdicts] == [0.3, 0.3]


def test_calls_are_marked_for_what_their_replies_are_before_the_verdict_is_given():
    def say(request, index):
        kind = "repair" if len(request.turns) > 1 else "reply"
        replies = {"reply": ["Hm.", "8 6", "I'm sorry, no."], "repair": ["I can't."] * 3}
        return {"text": replies[kind][index], "call": f"{kind} {index}"}

    marked = []
    judge = ModelJudge(
        Replies(say), name="m", orders="one", samples=3, repair=True,
        mark=lambda *said: marked.append(said),
    )  # fmt: skip
    first, *_ = judge.judge([(answers(GOOD, BAD), (0, 1))])
    assert first.state == "unparsed"
    assert marked[:2] == [("reply 0", "unparsed"), ("repair 0", "refused")]
    assert marked[2:] == [("reply 2", "refused")]


def test_verdicts_keep_their_order_when_some_need_a_repair():
    items = [(answers(f"{GOOD} {n}", BAD, id_=f"p{n}/q0"), (0, 1)) for n in range(40)]
    items[7] = (answers("same", "same", id_="p7/q0"), (0, 1))

    def say(request, _):
        odd = int(request.turns[0].question.split(GOOD)[1].split()[0]) % 3 == 0
        return {"text": "Hm." if odd and len(request.turns) == 1 else "8 7"}

    verdicts, _ = judging(say, items, repair=True)
    assert [v.answers_id for v in verdicts] == [f"p{n}/q0" for n in range(40) for _ in range(2)]
    assert {v.state for v in verdicts} == {"ok", "tie"}
    assert sum(bool(v.repair) for v in verdicts) == 28


# --- samples


def test_samples_are_draws_of_one_request_with_verdicts_and_seeds_of_their_own():
    verdicts, generator = judging(
        lambda r, index: {"text": f"{8 - index} 5"}, samples=3, orders="one"
    )
    assert [request.num_draws for request in generator.asked] == [3]
    assert [(v.sample, v.scores) for v in verdicts] == [(n, (8.0 - n, 5.0)) for n in range(3)]
    assert len({v.id for v in verdicts}) == 3


def test_only_the_missing_sample_is_written_again():
    every, _ = judging(text("8 7"), samples=3)
    done = {v.id for v in every} - {every[1].id}
    again, generator = judging(text("8 7"), samples=3, done=done)
    assert again == [every[1]]
    assert len(generator.asked) == 1


def test_a_tie_without_a_call_that_is_there_is_not_written_again():
    items = [(answers("Yes", "yes.", id_="p0/q0"), (0, 1)), (answers(GOOD, BAD), (0, 1))]
    every, _ = judging(text("8 7"), items, samples=2, orders="one")
    done = {every[0].id}
    again, _ = judging(text("8 7"), items, samples=2, orders="one", done=done)
    assert again == every[1:]


def test_identical_answers_are_ties_without_a_call_in_every_sample():
    verdicts, generator = judging(text("8 7"), [(answers("Yes", "yes."), (0, 1))], samples=2)
    assert [(v.state, v.reason) for v in verdicts] == [("tie", IDENTICAL)] * 4
    assert generator.asked == []


# --- states of pairs


def verdict(scores=None, *, swapped=False, state=None, sample=0, view="image", id_="p1/q0"):
    order = (1, 0) if swapped else (0, 1)
    if state is None:
        state = "tie" if scores[0] == scores[1] else "ok"
    winner = (0 if scores[0] > scores[1] else 1) if state == "ok" else None
    return Verdict(
        id=f"{id_}{order}{sample}{view}", answers_id=id_, pair=(0, 1), order=order, judge="m",
        scores=scores, state=state, winner=winner, sample=sample, view=view, reply="r",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("there", "back", "state", "margin"),
    [
        ((9, 4), (8, 7), "ok", 3),
        ((5, 5), (6, 6), "tie", 0),
        ((9, 4), (4, 9), "inconsistent", 0),
        ((9, 4), (6, 6), "inconsistent", 2.5),
    ],
)
def test_a_pair_is_what_both_its_orders_say(there, back, state, margin):
    said = [verdict(there), verdict(back, swapped=True)]
    assert outcome_of(said) == (state, 0 if state == "ok" else None, margin)
    assert pair_states(said) == {PAIR: state}


@pytest.mark.parametrize(
    "state", ["refused", "filtered", "unparsed", "transport_failed", "budget_stopped", "skipped"]
)
def test_a_pair_with_an_order_that_was_not_judged_has_that_orders_state(state):
    assert pair_states([verdict((9, 4)), verdict(state=state, swapped=True)]) == {PAIR: state}


def test_of_several_failures_the_one_that_may_still_change_is_the_pair_s():
    said = [verdict(state="unparsed"), verdict(state="transport_failed", swapped=True)]
    assert pair_states(said) == pair_states(said[::-1]) == {PAIR: "transport_failed"}


def test_samples_of_an_order_are_averaged_and_one_that_was_read_is_enough():
    said = [verdict((s, 5), sample=n) for n, s in enumerate((9, 3, 6))]
    said += [verdict(state="unparsed", swapped=True), verdict((7, 5), swapped=True, sample=1)]
    assert outcome_of(said) == ("ok", 0, 1.5)


def test_a_call_that_was_asked_again_counts_once():
    assert pair_states([verdict(state="transport_failed"), verdict((9, 4))]) == {PAIR: "ok"}


STATES = ["ok", "tie", "refused", "filtered", "unparsed", "transport_failed", "budget_stopped",
          "skipped"]  # fmt: skip


@given(st.lists(st.tuples(st.sampled_from(STATES), st.sampled_from(STATES), st.booleans())))
def test_states_sum_to_the_number_of_pairs_and_only_ok_pairs_become_preferences(pairs):
    said, asked = [], []
    for n, (there, back, flipped) in enumerate(pairs):
        id_ = f"p{n}/q0"
        asked.append(answers(GOOD, BAD, id_=id_))
        scores = {"ok": (9, 4), "tie": (5, 5)}
        mine = scores.get(back)
        said.append(verdict(scores.get(there), state=there, id_=id_))
        mine = mine[::-1] if mine and flipped else mine
        said.append(verdict(mine, state=back, swapped=True, id_=id_))
    states = Counter(pair_states(said).values())
    assert states.total() == len(pairs)
    result = prefer(asked, said, PreferSection(), seed=0)
    assert len(result.preferences) == states["ok"]
    assert result.counts.get("pairs", {}) == dict(states)


# --- who is sent to an expert


def routed(said, *review, texts=(GOOD, BAD), **settings):
    section = PreferSection(review=review, **settings)
    asked = [answers(*texts, id_=name) for name in dict.fromkeys(v.answers_id for v in said)]
    return [(item.id, item.reason) for item in for_review(asked, said, section)]


def twice(there, back=None, **fields):
    return [verdict(there, **fields), verdict(back or there, swapped=True, **fields)]


def test_nothing_is_sent_to_the_expert_unless_the_recipe_says_so():
    assert routed([*twice((5, 5)), *twice((9, 4), (4, 9), id_="p2/q0")]) == []


@pytest.mark.parametrize(
    ("said", "review", "reason"),
    [
        (twice((5, 5)), "ties", "tie"),
        (twice((9, 4), (4, 9)), "inconsistent", "inconsistent"),
        (twice((6, 5)), "close", "close"),
        ([verdict(state="refused"), verdict((9, 4), swapped=True)], "unread", "unread"),
    ],
)
def test_each_kind_of_doubt_is_sent_when_it_is_named(said, review, reason):
    assert routed(said, review, min_margin=1) == [("p1/q0/d0-d1", reason)]
    others = {"ties", "inconsistent", "close", "unread", "blank"} - {review}
    assert routed(said, *others, min_margin=1) == []


def test_close_has_a_margin_of_its_own():
    assert routed(twice((8, 5)), "close", min_margin=1) == []
    assert routed(twice((8, 5)), "close", min_margin=1, review_margin=3) != []


def test_identical_answers_and_failed_calls_are_nothing_to_look_at():
    assert routed(twice((5, 5)), "ties", texts=("Yes", "yes.")) == []
    failed = [verdict(state="transport_failed"), verdict((9, 4), swapped=True)]
    assert routed(failed, "unread") == []


def test_a_pair_with_the_same_winner_without_the_image_is_flagged():
    same = [*twice((9, 4)), *twice((7, 5), view="blank")]
    changed = [*twice((9, 4), id_="p2/q0"), *twice((5, 5), view="blank", id_="p2/q0")]
    unread = [*twice((9, 4), id_="p3/q0"), *twice((4, 9), (9, 4), view="blank", id_="p3/q0")]
    tie = [*twice((5, 5), id_="p4/q0"), *twice((5, 5), view="blank", id_="p4/q0")]
    said = [*same, *changed, *unread, *tie]
    assert blank_counts(said) == {"pairs": 4, "with_winner": 3, "unchanged": 1}
    asked = [answers(GOOD, BAD, id_=f"p{n}/q0") for n in range(1, 5)]
    (item,) = blank_items(asked, said)
    assert (item.id, item.reason, item.answers) == ("p1/q0/d0-d1", "blank", (GOOD, BAD))
    assert routed(said, "blank") == [("p1/q0/d0-d1", "blank")]


def test_every_pair_is_sent_at_most_once():
    for there, back in product([(9, 4), (5, 5), (4, 9)], repeat=2):
        every = ("ties", "inconsistent", "close", "unread", "blank")
        said = [*twice(there, back), *twice(there, back, view="blank")]
        assert len(routed(said, *every, review_margin=9)) == 1


def test_the_scripted_generator_serves_as_a_judge_too():
    judge = ModelJudge(
        ScriptedGenerator(lambda r, _: prefers_good(r.turns[0].question)), name="m", orders="both"
    )
    assert pair_states(judge.judge([(answers(BAD, GOOD), (0, 1))])) == {PAIR: "ok"}

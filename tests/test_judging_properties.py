"""Whatever judges say, and in whatever order it is read: states add up, no preference moves."""

from collections import Counter
from itertools import combinations
from typing import get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from stllava.config import PreferSection
from stllava.judging.pairing import normalise
from stllava.judging.prefer import prefer
from stllava.judging.states import by_pair, outcome_of, pair_states
from stllava.records import Answers, Draw, Verdict, VerdictState

UNJUDGED = ["refused", "filtered", "unparsed", "transport_failed", "budget_stopped", "skipped"]
TEXTS = ["left", "Left.", "in the right lung", "no", "yes it is so", "a mass"]
SCORES = st.sampled_from([n / 4 for n in range(4, 41)])

EXAMPLES = settings(max_examples=60, deadline=None)


def item(number, texts):
    id_ = f"p{number}/q0"
    draws = [Draw(request_id=id_, index=i, text=text) for i, text in enumerate(texts)]
    return Answers(id=id_, image=f"p{number}", question="Is it?", draws=tuple(draws))


@st.composite
def verdict(draw, answers_id, pair, order, sample):
    """What a judge of any kind may say: scores, a probability, a rank, or nothing."""
    name = f"{answers_id} {pair} {order} {sample}"
    known = {"id": name, "answers_id": answers_id, "pair": pair, "order": order, "judge": "m"}
    kind = draw(st.sampled_from(["scores", "preference", "rank", "none"]))
    if kind == "none":
        return Verdict(**known, sample=sample, state=draw(st.sampled_from(UNJUDGED)))
    said = {}
    if kind == "scores":
        a, b = said["scores"] = draw(st.tuples(SCORES, SCORES))
    elif kind == "preference":
        a = said["preference"] = draw(st.floats(0, 1, width=32, allow_subnormal=False))
        b = 1 - a
    else:
        a, b = draw(st.sampled_from([(1, 0), (0, 1), (0, 0)]))
    # A judge that ranks by probability may say that neither is better though one is likelier.
    tied = a == b or (kind == "preference" and draw(st.booleans()))
    winner = None if tied else pair[0] if a > b else pair[1]
    state = "tie" if tied else "ok"
    return Verdict(**known, sample=sample, state=state, winner=winner, **said)


@st.composite
def judged(draw):
    """Answers, and verdicts on some of their pairs, in one order or both, once or twice."""
    answers, verdicts = [], []
    for number in range(draw(st.integers(1, 3))):
        texts = draw(st.lists(st.sampled_from(TEXTS), min_size=2, max_size=4))
        answers.append(item(number, texts))
        for pair in combinations(range(len(texts)), 2):
            if not draw(st.booleans()):
                continue
            pair = draw(st.sampled_from([pair, pair[::-1]]))
            orders = draw(st.sampled_from([[pair], [pair, pair[::-1]]]))
            for order in orders:
                for sample in range(draw(st.integers(1, 2))):
                    verdicts.append(draw(verdict(answers[-1].id, pair, order, sample)))
    return answers, verdicts


SECTIONS = st.builds(
    PreferSection,
    select=st.sampled_from(["pair", "best_worst"]),
    orders_must_agree=st.booleans(),
    min_margin=st.sampled_from([0.0, 0.5, 2.0]),
    min_chosen_score=st.sampled_from([None, 6.0]),
    max_length_gap=st.sampled_from([None, 2]),
    max_per_image=st.sampled_from([None, 1]),
    balance_length=st.booleans(),
    weight=st.sampled_from(["none", "margin"]),
)


@EXAMPLES
@given(judged(), st.randoms(use_true_random=False))
def test_every_pair_has_one_state_in_whatever_order_verdicts_are_read(case, chance):
    _, verdicts = case
    states = pair_states(verdicts)
    pairs = {(v.answers_id, *sorted(v.pair)) for v in verdicts}
    assert Counter(states.values()).total() == len(pairs)
    assert set(states.values()) <= set(get_args(VerdictState))
    assert pair_states(chance.sample(verdicts, len(verdicts))) == states


@EXAMPLES
@given(judged(), SECTIONS, st.randoms(use_true_random=False))
def test_no_preference_depends_on_the_order_of_verdicts_or_of_questions(case, section, chance):
    answers, verdicts = case
    first = prefer(answers, verdicts, section, seed=0)
    shuffled = chance.sample(verdicts, len(verdicts))
    again = prefer(chance.sample(answers, len(answers)), shuffled, section, seed=0)
    assert {p.id: p for p in again.preferences} == {p.id: p for p in first.preferences}
    assert {(d.id, d.reason) for d in again.dropped} == {(d.id, d.reason) for d in first.dropped}
    assert again.counts == first.counts


def mirrored(verdict):
    """The same said of the pair the other way round."""
    scores = verdict.scores and verdict.scores[::-1]
    likely = None if verdict.preference is None else 1 - verdict.preference
    other = {"pair": verdict.pair[::-1], "scores": scores, "preference": likely}
    return verdict.model_copy(update=other)


def renumbered(answers, verdicts):
    """The same draws counted from the other end."""
    last = {a.id: len(a.draws) - 1 for a in answers}

    def turned(v):
        def flip(i):
            return last[v.answers_id] - i

        return v.model_copy(
            update={
                "pair": tuple(map(flip, v.pair)),
                "order": tuple(map(flip, v.order)),
                "winner": None if v.winner is None else flip(v.winner),
            }
        )

    items = [item(n, [draw.text for draw in a.draws][::-1]) for n, a in enumerate(answers)]
    return items, [turned(v) for v in verdicts]


def said_of(result):
    """Question, the two texts and the margin of every preference."""
    found = [(p.answers_id, p.chosen.text, p.rejected.text, p.margin) for p in result.preferences]
    return sorted((*texts, round(margin, 6)) for *texts, margin in found)


@EXAMPLES
@given(judged(), st.sampled_from(["pair", "best_worst"]))
def test_no_preference_depends_on_which_draw_is_named_first(case, select):
    answers, verdicts = case
    section = PreferSection(select=select)
    first = said_of(prefer(answers, verdicts, section, seed=0))
    assert said_of(prefer(answers, map(mirrored, verdicts), section, seed=0)) == first
    assert said_of(prefer(*renumbered(answers, verdicts), section, seed=0)) == first


@st.composite
def four_draws(draw):
    """Four draws of a question, all pairs judged in both orders: by scores, not always alike."""
    texts = draw(st.lists(st.sampled_from(TEXTS), min_size=4, max_size=4))
    said = [
        draw(verdict("p0/q0", pair, order, 0))
        for pair in combinations(range(4), 2)
        for order in (pair, pair[::-1])
    ]
    return [item(0, texts)], said


@EXAMPLES
@given(four_draws(), st.permutations(range(4)), st.randoms(use_true_random=False))
def test_the_best_pair_of_four_draws_depends_on_no_numbering_and_no_order(case, places, chance):
    answers, verdicts = case
    section = PreferSection(select="best_worst")
    first = said_of(prefer(answers, verdicts, section, seed=0))
    moved = [
        v.model_copy(
            update={
                "pair": tuple(places[i] for i in v.pair),
                "order": tuple(places[i] for i in v.order),
                "winner": None if v.winner is None else places[v.winner],
            }
        )
        for v in chance.sample(verdicts, len(verdicts))
    ]
    texts = [answers[0].draws[places.index(place)].text for place in range(4)]
    assert said_of(prefer([item(0, texts)], moved, section, seed=0)) == first


@EXAMPLES
@given(judged(), SECTIONS)
def test_with_two_draws_the_best_pair_is_the_only_pair(case, section):
    answers, verdicts = case
    pairs = [a.model_copy(update={"draws": a.draws[:2]}) for a in answers]
    said = [v for v in verdicts if max(v.pair) < 2]
    one, other = (
        prefer(pairs, said, section.model_copy(update={"select": select}), seed=0)
        for select in ("pair", "best_worst")
    )
    assert one.preferences == other.preferences
    assert one.counts == other.counts


@EXAMPLES
@given(judged(), SECTIONS)
def test_every_preference_is_a_pair_that_was_decided_that_way_and_clearly(case, section):
    answers, verdicts = case
    section = section.model_copy(update={"orders_must_agree": True})
    outcomes = {key: outcome_of(said) for key, said in by_pair(verdicts).items()}
    for preference in prefer(answers, verdicts, section, seed=0).preferences:
        chosen, rejected = preference.chosen.index, preference.rejected.index
        pair = (min(chosen, rejected), max(chosen, rejected))
        outcome = outcomes[preference.answers_id, pair]
        assert (outcome.state, outcome.winner) == ("ok", chosen)
        assert outcome.margin > section.min_margin


@EXAMPLES
@given(judged())
def test_pairs_that_are_preferred_are_those_with_a_winner_and_it_is_chosen(case):
    answers, verdicts = case
    result = prefer(answers, verdicts, PreferSection(select="pair"), seed=0)
    texts = {a.id: [normalise(draw.text) for draw in a.draws] for a in answers}
    won = set()
    for (id_, pair), said in by_pair(verdicts).items():
        outcome = outcome_of(said)
        differ = texts[id_][pair[0]] != texts[id_][pair[1]]
        if outcome.state == "ok" and differ:
            won.add((id_, outcome.winner, sum(pair) - outcome.winner))
    assert {(p.answers_id, p.chosen.index, p.rejected.index) for p in result.preferences} == won


@EXAMPLES
@given(judged())
def test_an_order_in_which_no_verdict_has_a_winner_never_makes_one(case):
    _, verdicts = case
    for said in by_pair(verdicts).values():
        for order in {v.order for v in said}:
            if not any(v.winner is not None for v in said if v.order == order):
                assert outcome_of(said).winner is None

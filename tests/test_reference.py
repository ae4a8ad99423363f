"""The reference of stage 2: recorded while sampling, computed once or asked in every step."""

import pytest
import stages
import toy
from stages import sampled_preferences, with_chosen

from stllava.training import reference
from stllava.training.dpo import DpoObjective
from stllava.training.reference import computed, recorded, reference_keys

PAIRS = sampled_preferences()
NUM = len(PAIRS)
IDS = [pair.id for pair in PAIRS]
IMAGES = {f"i{n}": f"sha{n}" for n in range(NUM // 2)}
NO_KEYS = dict.fromkeys(IDS, "")


def objective_of(pairs=PAIRS, **fields):
    settings = stages.dpo_settings(**fields)
    return DpoObjective(toy.adapted(settings), pairs, toy.open_image, settings)


def compute(objective, known=(), budget=100):
    scorer = toy.scorer_of(objective.policy)
    return list(computed(objective, scorer, known, dict.fromkeys(objective.ids, "k"), budget))


# What is recorded


def test_recorded_log_probs_are_those_of_the_reference():
    objective = objective_of()
    expected = {record.id: record for record in compute(objective)}
    found = recorded(objective, NO_KEYS)
    assert [record.id for record in found] == IDS
    for record in found:
        assert record.chosen == pytest.approx(expected[record.id].chosen, abs=1e-3)
        assert record.rejected == pytest.approx(expected[record.id].rejected, abs=1e-3)
        assert abs(record.chosen - record.rejected) > 0.01


@pytest.mark.parametrize(
    "pairs",
    [
        with_chosen(PAIRS, logprobs=None),
        with_chosen(PAIRS, token_ids=None),
        with_chosen(PAIRS, logprobs=PAIRS[2].chosen.logprobs[:-1]),
        [pair.model_copy(update={"edited": pair is PAIRS[4]}) for pair in PAIRS],
    ],
    ids=["no log-probabilities", "no tokens", "not one each", "edited by an expert"],
)
def test_nothing_counts_as_recorded_if_one_answer_is_not_as_it_was_sampled(pairs):
    assert recorded(objective_of(pairs), NO_KEYS) == []


def test_nothing_counts_as_recorded_if_one_answer_was_cut():
    objective = objective_of()
    longest = max(len(text.ids) for i in IDS for text in objective.texts(i, 0))
    assert len(recorded(objective_of(max_tokens=longest), NO_KEYS)) == NUM
    assert recorded(objective_of(max_tokens=longest - 1), NO_KEYS) == []


# Keys


def keys_of(objective, checkpoint="c0", images=IMAGES, precision="fp32"):
    return reference_keys(objective, checkpoint, images, precision)


def changed_keys(other):
    same = keys_of(objective_of())
    assert len(set(same.values())) == NUM
    return [record_id for record_id in IDS if other[record_id] != same[record_id]]


def test_keys_are_the_same_for_the_same_data():
    assert changed_keys(keys_of(objective_of())) == []


def test_keys_change_with_checkpoint_and_precision():
    assert changed_keys(keys_of(objective_of(), checkpoint="c1")) == IDS
    assert changed_keys(keys_of(objective_of(), precision="bf16")) == IDS


def test_keys_change_with_preprocessing():
    objective = objective_of()
    objective.policy.image_processor = type(objective.policy.image_processor)(
        **{**objective.policy.image_processor.to_dict(), "image_mean": [0.5, 0.5, 0.5]}
    )
    assert changed_keys(keys_of(objective)) == IDS


def test_keys_change_with_the_bytes_of_an_image():
    images = {**IMAGES, "i1": "other"}
    assert changed_keys(keys_of(objective_of(), images=images)) == ["i1/q2", "i1/q3"]


def test_keys_change_with_question_and_answers():
    ids = PAIRS[2].chosen.token_ids
    other = with_chosen(PAIRS, token_ids=(*ids[:-1], ids[-1] + 1))
    assert changed_keys(keys_of(objective_of(other))) == ["i1/q2"]
    asked = [PAIRS[0].model_copy(update={"question": "Is it large?"}), *PAIRS[1:]]
    assert changed_keys(keys_of(objective_of(asked))) == ["i0/q0"]


# What is computed


def test_an_interrupted_pass_gives_the_same_bits(monkeypatch):
    monkeypatch.setattr(reference, "WINDOW", 3)
    whole = compute(objective_of())
    assert sorted(record.id for record in whole) == IDS
    known = [record.id for record in whole[:4]]
    rest = compute(objective_of(), known)
    assert {record.id for record in rest} == set(IDS[3:])
    assert rest == whole[3:]
    assert compute(objective_of(), IDS) == []


def test_computed_log_probs_do_not_depend_on_the_micro_batches():
    wide = {record.id: record for record in compute(objective_of(), budget=10_000)}
    for record in compute(objective_of(), budget=1):
        assert record.chosen == pytest.approx(wide[record.id].chosen, abs=1e-4)
        assert record.rejected == pytest.approx(wide[record.id].rejected, abs=1e-4)


def test_a_reference_asked_in_every_step_is_the_computed_one():
    losses, gradients = [], []
    for source in ("computed", "online"):
        objective = objective_of(reference=source)
        policy = objective.policy
        if source == "computed":
            stages.compute_reference(objective)
        toy.perturb(policy)
        loss = objective.loss(toy.scorer_of(policy), stages.micro_batch(objective))
        loss.total.backward()
        losses.append(loss)
        gradients.append(toy.gradients(policy))
    one, other = losses
    assert one.sums["rewards/abs_margins"][0] > 0.01
    assert other.total.item() == pytest.approx(one.total.item(), rel=1e-5)
    assert other.sums == {n: pytest.approx(pair, abs=1e-4) for n, pair in one.sums.items()}
    assert gradients[0].keys() == gradients[1].keys()
    scale = max(gradient.abs().max() for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        assert (gradients[1][name] - gradient).abs().max() <= 1e-5 * scale, name

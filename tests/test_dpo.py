"""Stage 2: the loss of equation 1, its reference, its first step and its controls."""

import copy
import math

import pytest
import torch
import toy
from stages import compute_reference, dpo_settings, micro_batch
from transformers import LlamaForCausalLM

from stllava.config import SftSection
from stllava.errors import PolicyError
from stllava.records import Conversation, Turn
from stllava.training.dpo import DpoObjective, check_first_step, dpo_loss
from stllava.training.reference import ReferenceLogProbs
from stllava.training.sft import SftObjective


def objective_of(policy, pairs, section):
    return DpoObjective(policy, pairs, toy.open_image, section)


def with_reference(policy, pairs, section):
    """The objective as the dpo stage makes it: reference log-probabilities computed once."""
    objective = objective_of(policy, pairs, section)
    compute_reference(objective)
    return objective


def first_step(policy, objective):
    micros = [objective.collate([(record_id, 0)]) for record_id in objective.ids]
    return check_first_step(objective, toy.scorer_of(policy), micros, bf16=False)


def gradient(policy, objective, *, normaliser=None):
    scorer = toy.scorer_of(policy)
    scorer.zero_grad()
    micro = micro_batch(objective)
    (objective.loss(scorer, micro).total / (normaliser or micro.count)).backward()
    return toy.gradients(policy)


def assert_close(got, expected, tolerance=1e-5):
    assert got.keys() == expected.keys()
    scale = max(g.abs().max() for g in expected.values())
    assert scale > 0
    for name in expected:
        assert (got[name] - expected[name]).abs().max() <= tolerance * scale, name


def test_loss_is_log_two_when_policy_equals_reference():
    logps = torch.tensor([-3.0, -5.0])
    terms = dpo_loss(logps, logps - 1, logps, logps - 1, beta=0.1)
    assert terms.loss.tolist() == pytest.approx([math.log(2)] * 2)
    assert terms.chosen_reward.tolist() == [0, 0]


def test_loss_equals_a_value_computed_by_hand():
    terms = dpo_loss(*map(torch.tensor, ([-4.0], [-9.0], [-5.0], [-7.0])), beta=0.1)
    assert terms.chosen_reward.item() == pytest.approx(0.1)  # 0.1 * (-4 + 5)
    assert terms.rejected_reward.item() == pytest.approx(-0.2)  # 0.1 * (-9 + 7)
    assert terms.loss.item() == pytest.approx(math.log(1 + math.exp(-0.3)))


def test_loss_stays_finite_for_huge_margins():
    far = dpo_loss(*map(torch.tensor, ([-1e4], [0.0], [0.0], [-1e4])), beta=1.0)
    assert far.loss.item() == pytest.approx(2e4)


def small_llama(seed):
    config = toy.policy(seed=seed).model.config.text_config  # which also sets torch's seed
    return LlamaForCausalLM(config).eval()


def summed_log_probs(model, batch):
    with torch.no_grad():
        logits = model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    scores = logits[:, :-1].log_softmax(-1)
    picked = scores.gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
    return (picked * batch["completion_mask"][:, 1:]).sum(-1).chunk(2)


@pytest.mark.filterwarnings("ignore")  # a library's, not ours
def test_loss_equals_that_of_trls_trainer(tmp_path):
    trl = pytest.importorskip("trl", reason="trl, the oracle of this test, is not installed")
    from datasets import Dataset

    rows = [
        {"prompt": "Is there a nodule?", "chosen": " Yes, on the left.", "rejected": " No."},
        {"prompt": "What organ?", "chosen": " The liver.", "rejected": " The lung, with cysts."},
    ]
    policy, reference = small_llama(0), small_llama(1)
    trainer = trl.DPOTrainer(
        model=policy,
        ref_model=reference,
        args=trl.DPOConfig(
            output_dir=str(tmp_path), beta=0.3, use_cpu=True, bf16=False, report_to=[],
            per_device_train_batch_size=2, gradient_checkpointing=False, disable_tqdm=True,
        ),
        train_dataset=Dataset.from_list(rows),
        processing_class=copy.deepcopy(toy.tokenizer()),
    )  # fmt: skip
    batch = next(iter(trainer.get_train_dataloader()))
    with torch.no_grad():
        theirs = trainer.compute_loss(policy, dict(batch))
    ours = dpo_loss(*summed_log_probs(policy, batch), *summed_log_probs(reference, batch), beta=0.3)
    assert ours.loss.mean().item() == pytest.approx(theirs.item(), rel=1e-5)
    assert ours.loss.mean().item() != pytest.approx(math.log(2), abs=0.1)


def test_reference_log_probs_equal_the_forward_with_adapters_off():
    section, pairs = dpo_settings(), toy.preferences(5)
    start = toy.policy()
    plain = objective_of(start, pairs, section)
    micro = micro_batch(plain)
    with torch.no_grad():
        logp_N = toy.scorer_of(start)(micro.batch)
    sums = torch.zeros(10).index_add(0, micro.batch.sequence, logp_N)
    trained = toy.adapted(section)
    toy.perturb(trained)
    got = with_reference(trained, pairs, section).reference
    assert [*got] == plain.ids
    for i, record in enumerate(got.values()):
        assert record.chosen == pytest.approx(sums[2 * i].item(), abs=1e-3)
        assert record.rejected == pytest.approx(sums[2 * i + 1].item(), abs=1e-3)


def test_first_step_has_margin_zero_and_loss_log_two():
    section = dpo_settings()
    policy = toy.adapted(section)
    objective = with_reference(policy, toy.preferences(4), section)
    margin, loss = first_step(policy, objective)
    assert margin < 1e-4
    assert loss == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("change", [0.1, -0.1])
def test_first_step_refuses_a_reference_that_is_not_the_policys_start(change):
    section = dpo_settings()
    policy = toy.adapted(section)
    objective = with_reference(policy, toy.preferences(4), section)
    for record_id, known in objective.reference.items():
        objective.reference[record_id] = ReferenceLogProbs(
            id=record_id, chosen=known.chosen + change, rejected=known.rejected
        )
    with pytest.raises(PolicyError, match="the reference is not the policy's start"):
        first_step(policy, objective)


def test_first_step_refuses_a_policy_that_was_trained_already():
    section = dpo_settings()
    policy = toy.adapted(section)
    objective = with_reference(policy, toy.preferences(4), section)
    toy.perturb(policy)
    with pytest.raises(PolicyError, match="at step 0"):
        first_step(policy, objective)


def sft_gradient(policy, pair, section):
    """Gradient of stage 1's loss on the question and the chosen answer of one pair."""
    turn = Turn(question=pair.question, answer="", answer_ids=pair.chosen.token_ids)
    talk = Conversation(id=pair.id, image=pair.image, turns=(turn,))
    stage1 = SftSection.model_validate({**section.model_dump(include=set(toy.TRAINING))})
    return gradient(policy, SftObjective(policy, [talk], toy.open_image, stage1, seed=0))


def test_without_dpo_term_the_gradient_of_a_pair_is_that_of_sft_on_its_chosen_answer():
    section, pairs = dpo_settings(dpo_weight=0, nll_weight=1), toy.preferences(1)
    policy = toy.adapted(section)
    toy.perturb(policy)
    objective = with_reference(policy, pairs, section)
    assert_close(gradient(policy, objective), sft_gradient(policy, pairs[0], section))


def test_without_dpo_term_every_chosen_answer_counts_the_same_whatever_its_length():
    section, pairs = dpo_settings(dpo_weight=0, nll_weight=1), toy.preferences(3)
    policy = toy.adapted(section)
    toy.perturb(policy)
    got = gradient(policy, with_reference(policy, pairs, section))
    single = [sft_gradient(policy, pair, section) for pair in pairs]
    assert_close(got, {name: sum(s[name] for s in single) / 3 for name in got})


def test_weights_scale_each_pairs_share_of_the_gradient():
    section, pairs = dpo_settings(nll_weight=0.5), toy.preferences(2)
    policy = toy.adapted(section)
    toy.perturb(policy)
    alone = [gradient(policy, with_reference(policy, [pair], section)) for pair in pairs]
    weighted = [
        pair.model_copy(update={"weight": weight})
        for pair, weight in zip(pairs, (0.25, 3.0), strict=True)
    ]
    got = gradient(policy, with_reference(policy, weighted, section))
    expected = {n: (0.25 * alone[0][n] + 3.0 * alone[1][n]) / 2 for n in got}
    assert_close(got, expected)


def test_training_direction_raises_the_chosen_and_lowers_the_rejected_answer():
    section, pairs = dpo_settings(), toy.preferences(4)
    policy = toy.adapted(section)
    objective = with_reference(policy, pairs, section)
    scorer = toy.scorer_of(policy)
    optimizer = torch.optim.SGD([p for p in policy.core.parameters() if p.requires_grad], lr=0.05)
    for _ in range(5):
        gradient(policy, objective)
        optimizer.step()
    with torch.no_grad():
        sums = objective.loss(scorer, micro_batch(objective)).sums
    assert sums["rewards/margins"][0] > 0
    assert sums["rewards/accuracies"][0] >= 3
    assert sums["loss/dpo"][0] < 4 * math.log(2)


def test_parts_of_the_loss_add_up():
    section = dpo_settings(nll_weight=0.7)
    policy = toy.adapted(section)
    objective = with_reference(policy, toy.preferences(3), section)
    loss = objective.loss(toy.scorer_of(policy), micro_batch(objective))
    total = loss.sums["loss/dpo"][0] + 0.7 * loss.sums["loss/nll"][0]
    assert loss.total.item() == pytest.approx(total, rel=1e-5)


def test_pairs_of_one_image_share_its_pixels():
    section = dpo_settings()
    objective = objective_of(toy.policy(), toy.preferences(4), section)
    assert micro_batch(objective).batch.vision["pixel_values"].shape[0] == 2

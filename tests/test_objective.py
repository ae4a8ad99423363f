"""What a record becomes: its texts, which of their tokens are learned, and where they are cut."""

import random

import pytest
import torch
import toy
from stages import dpo_objective, dpo_settings, micro_batch, sft_objective, sft_settings

from stllava.chat import ANSWER, QUESTION
from stllava.errors import DataError
from stllava.training.sft import SftObjective

# Which questions are learned


def asked(objective, talk, epoch):
    return QUESTION in objective.texts(talk.id, epoch)[0].learned


def test_question_coins_belong_to_the_record_and_change_with_epoch_and_seed():
    settings = sft_settings(question_ratio=0.5, learn_first_question=True)
    policy, talks = toy.policy(), toy.conversations(40)
    shuffled = random.Random(0).sample(talks, len(talks))
    one = SftObjective(policy, talks, toy.open_image, settings, 0)
    two = SftObjective(policy, shuffled[:25], toy.open_image, settings, 0)
    coins = {talk.id: [one.texts(talk.id, e)[0].learned for e in range(2)] for talk in talks}
    for talk in shuffled[:25]:
        assert [two.texts(talk.id, e)[0].learned for e in range(2)] == coins[talk.id]
    assert any(first != second for first, second in coins.values())
    reseeded = SftObjective(policy, talks, toy.open_image, settings, 1)
    assert any(reseeded.texts(talk.id, 0)[0].learned != coins[talk.id][0] for talk in talks)


@pytest.mark.parametrize(("ratio", "first", "expected"), [(0, True, 0), (1, True, 40)])
def test_question_ratio_is_the_share_of_conversations_turns(ratio, first, expected):
    settings = sft_settings(question_ratio=ratio, learn_first_question=first)
    objective = sft_objective(toy.policy(), settings, 40)
    talks = toy.conversations(40)
    assert sum(asked(objective, talk, 0) for talk in talks) == expected


def test_the_first_question_is_learned_only_if_the_recipe_says_so():
    settings = sft_settings(question_ratio=1, learn_first_question=False)
    objective = sft_objective(toy.policy(), settings, 40)
    for talk in toy.conversations(40):
        ids = objective.texts(talk.id, 0)[0].ids
        assert ids.count(toy.VUSR) == len(talk.turns) - 1


# A text each for the turns of a conversation


def learned(texts, code):
    """The tokens learned as questions or as answers, in order."""
    pairs = [pair for text in texts for pair in zip(*text, strict=True)]
    return [token for token, given in pairs if given == code]


def grouped(policy, *, group, number=12, **fields):
    settings = sft_settings(question_ratio=0.5, learn_first_question=True, **fields)
    return sft_objective(policy, settings, number, group=group)


def test_with_a_text_per_turn_the_same_questions_and_answers_are_learned():
    policy = toy.policy()
    together, apart = (grouped(policy, group=group) for group in ("turns", "records"))
    kinds = set()
    for record_id, talk in together.conversations.items():
        one, many = together.texts(record_id, 0), apart.texts(record_id, 0)
        assert (len(one), len(many)) == (1, len(talk.turns))
        for code in (QUESTION, ANSWER):
            assert learned(many, code) == learned(one, code)
        kinds.update(QUESTION in text.learned for text in many)
    assert kinds == {True, False}


def test_turns_with_a_text_each_are_branches_that_do_not_see_one_another():
    policy = toy.policy()
    objective = grouped(policy, group="records", number=3)
    batch = micro_batch(objective).batch
    turns = [(t, c.image) for c in objective.conversations.values() for t in c.turns]
    texts = [text for i in objective.ids for text in objective.texts(i, 0)]
    assert len(turns) == len(texts) > 3
    assert batch.vision["pixel_values"].shape[0] == 2
    with torch.no_grad():
        got = toy.scorer_of(policy)(batch)
        for number, ((turn, image), text) in enumerate(zip(turns, texts, strict=True)):
            single = policy.chat.training([turn], [QUESTION in text.learned])
            alone = policy.pack([single], [image], toy.open_image)
            expected = toy.scorer_of(policy)(alone)
            assert (got[batch.sequence == number] - expected).abs().max() < 2e-5


def test_later_turns_see_earlier_ones_only_in_one_text():
    policy = toy.policy()
    scores = []
    for group in ("turns", "records"):
        micro = micro_batch(grouped(policy, group=group, number=1))
        with torch.no_grad():
            scores.append(toy.scorer_of(policy)(micro.batch))
    assert len(toy.conversations(1)[0].turns) > 1
    assert (scores[0] - scores[1]).abs().max() > 0.01


# Cutting


LIMIT = 60


def test_a_long_text_loses_the_end_of_its_answer_and_is_counted():
    policy = toy.policy()
    for objective in (
        grouped(policy, group="records", max_tokens=LIMIT),
        dpo_objective(policy, dpo_settings(max_tokens=45, reference="online")),
    ):
        limit, num_cut = objective.max_tokens, 0
        for record_id in objective.ids:
            whole, cut = objective.texts(record_id, 0), objective.example(record_id, 0)
            for before, after in zip(whole, cut.texts, strict=True):
                assert after.ids == before.ids[:limit]
                assert after.learned == before.learned[:limit]
                lost = before.learned[limit:]
                assert lost == [ANSWER] * len(lost)
            assert cut.num_cut == sum(len(text.ids) > limit for text in whole)
            num_cut += cut.num_cut
        assert 0 < num_cut == micro_batch(objective).num_cut


def test_tokens_that_were_cut_off_do_not_count():
    policy = toy.policy()
    short, long = (grouped(policy, group="turns", max_tokens=n) for n in (LIMIT, 512))
    for objective in (short, long):
        micro = micro_batch(objective)
        assert micro.count == len(micro.batch.targets)
    assert micro_batch(short).count < micro_batch(long).count


@pytest.mark.parametrize(
    ("limit", "reason"),
    [
        (toy.NUM_PATCHES - 1, "cannot hold the image"),
        (toy.NUM_PATCHES + 2, "no learned token within 18 tokens"),
    ],
)
@pytest.mark.parametrize("kind", ["sft", "dpo"])
def test_a_limit_that_leaves_no_image_or_nothing_to_learn_names_the_record(kind, limit, reason):
    policy = toy.policy()
    if kind == "sft":
        objective = sft_objective(policy, sft_settings(max_tokens=limit), 1)
    else:
        objective = dpo_objective(policy, dpo_settings(max_tokens=limit, reference="online"), 1)
    with pytest.raises(DataError, match=reason) as refusal:
        micro_batch(objective)
    message = str(refusal.value)
    assert message.startswith(f"{objective.ids[0]}: ")
    assert "raise max_tokens" in message
    assert "\n" not in message

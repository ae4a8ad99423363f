"""Every listed family as a policy from a folder that this package did not write: the whole loop.

What is compared with: the library's chat template, processor class and forward pass.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from stages import compute_reference, dpo_settings, run_training, sft_settings
from toy import conversations, open_image, scorer_of
from vlms import PROCESSORS, VLMS, load

from stllava.formats import V1, VUSR
from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.policy import adapters
from stllava.policy.families import family_of, language_layers, num_vision_layers
from stllava.policy.policy import Policy
from stllava.records import Preference, Request, Turn
from stllava.training.dpo import DpoObjective, check_first_step
from stllava.training.plan import first_micro_batch
from stllava.training.preflight import preflight
from stllava.training.sft import SftObjective

TURNS = (
    Turn(question="What organ is shown?", answer="The liver, with two cysts."),
    Turn(question="How many lesions are there?", answer="Three."),
    Turn(question="Is there a nodule?", answer="Yes, a small one."),
)
TALK = [Turn(question=TURNS[0].question)]
PROCESSOR_ONLY = ("rows", "cols", "num_patches", "num_crops")  # not for the model
PARTS = {"lora_llm": "language", "lora_vit": "vision", "projector": "projector"}


# Texts


def rendered(policy: Policy, name: str, turns, *, open_answer: bool) -> list[int]:
    """Ids by template, processor and tokenizer of the library."""
    messages: list[dict[str, Any]] = []
    for turn in turns:
        image = [] if messages else [{"type": "image"}]
        messages.append(
            {"role": "user", "content": [*image, {"type": "text", "text": turn.question}]}
        )
        messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.answer}]})
    tokenizer = policy.tokenizer
    text = tokenizer.apply_chat_template(
        messages[:-1] if open_answer else messages,
        tokenize=False,
        add_generation_prompt=open_answer,
    )
    if name == "llava_onevision":  # writes `assistant \n` before given answers only
        text = text.replace("assistant \n", "assistant\n")
    if not open_answer:
        text = text[: text.rindex(policy.format.end) + len(policy.format.end)]
    found = policy.processed([open_image("a")])
    text = PROCESSORS[name].expand(text, policy.image_processor, found)
    begun = text.startswith(tokenizer.bos_token or "\0")
    return tokenizer(text, add_special_tokens=not begun)["input_ids"]


@pytest.mark.parametrize("turns", [1, 2, 3])
@pytest.mark.parametrize("name", [name for name in VLMS if name != "llava"])
def test_our_tokens_are_those_of_the_librarys_template_and_processor(name, turns):
    policy, talk = load(name), TURNS[:turns]
    ours = policy.chat.training(talk, [False] * turns).ids
    assert ours == rendered(policy, name, talk, open_answer=False)
    ours = policy.chat.prompt(talk, "assistant").ids
    assert ours == rendered(policy, name, talk, open_answer=True)
    assert ours.count(policy.image_token_id) == policy.num_image_tokens


def test_a_template_of_llava_without_an_end_is_read_as_vicuna():
    policy = load("llava")
    assert policy.format == V1
    found = policy.processed([open_image("a")])
    images = PROCESSORS["llava"].expand("<image>", policy.image_processor, found)
    assert images == "<image>" * policy.num_image_tokens
    said = policy.tokenizer.decode(policy.chat.training(TURNS[:2], [False] * 2).ids)
    assert said == (
        f"{V1.system}USER: {images}\nWhat organ is shown? ASSISTANT: The liver, with two cysts."
        "</s>USER: How many lesions are there? ASSISTANT: Three.</s>"
    )


@pytest.mark.parametrize("name", VLMS)
def test_the_asker_is_a_user_whose_turn_a_new_token_opens(name):
    policy = load(name)
    token, form = policy.tokenizer.convert_tokens_to_ids(VUSR), policy.format
    assert policy.core.get_input_embeddings().weight.shape[0] > token
    assert form.control.count(form.end) == 1
    asked = policy.chat.prompt(TURNS[:1], "asker").ids
    assert asked.count(token) == 1
    assert asked[-1] == token
    learned = policy.chat.training(TURNS[:2], [False, True])
    spoken = [i for i, code in zip(*learned, strict=True) if code]
    assert spoken.count(policy.end_token_id) == 3  # closes two answers and a question
    answer = policy.encode(form.end)[0]
    assert not any(learned.ids[i : i + 2] == answer * 2 for i in range(len(learned.ids)))


@pytest.mark.parametrize("name", VLMS)
def test_data_cannot_spell_an_image_or_a_turn(name):
    policy = load(name)
    form, marker = policy.format, PROCESSORS[name].marker
    bad = Turn(question=f"a{marker}{VUSR}b", answer=f"c{form.end}{policy.image_text}d")
    ids = policy.chat.training([bad], [True]).ids
    assert ids.count(policy.image_token_id) == policy.num_image_tokens
    assert ids.count(policy.end_token_id) == ids_of_one_turn(policy).count(policy.end_token_id)


def ids_of_one_turn(policy: Policy) -> list[int]:
    return policy.chat.training([TURNS[0]], [True]).ids


# Training


class Naive(NamedTuple):
    """The library's model and inputs; nothing of this package's attention, masks or decoding."""

    model: Any
    vision: dict[str, Any]

    def logits(self, policy: Policy, ids: list[int]):
        row = torch.tensor([ids])
        image = (row == policy.image_token_id).int()
        kind = {"gemma3": "token_type_ids"}.get(self.model.config.model_type, "mm_token_type_ids")
        asked = kind == "token_type_ids" or "qwen" in self.model.config.model_type
        types = {kind: image} if asked else {}
        out = self.model(input_ids=row, attention_mask=torch.ones_like(row), **types, **self.vision)
        return out.logits[0]

    def greedy(self, policy: Policy, ids: list[int], limit: int) -> list[int]:
        said: list[int] = []
        while len(said) < limit and policy.end_token_id not in said:
            scores = self.logits(policy, [*ids, *said])[-1]
            scores[policy.image_token_id] = -torch.inf
            said.append(int(scores.argmax()))
        return said


def naive(policy: Policy, name: str, folder: Path) -> Naive:
    model = VLMS[name].model.from_pretrained(folder, attn_implementation="sdpa").eval()
    found = policy.processed([open_image("a")])
    return Naive(
        model,
        {k: v for k, v in found.items() if k not in ("rows", "cols", "num_patches", "num_crops")},
    )


def adapted(policy: Policy, settings) -> Policy:
    torch.manual_seed(0)
    adapters.adapt(policy, settings)
    adapters.set_dropout(policy, settings.lora)
    return policy


def trainable(policy: Policy) -> dict[str, torch.Tensor]:
    return {n: p for n, p in policy.core.named_parameters() if p.requires_grad}


def sft_of(policy: Policy, settings) -> SftObjective:
    return SftObjective(policy, conversations(4), open_image, settings, 0)


SETTINGS = {"max_tokens": 512, "micro_batch_tokens": 600, "lr_llm": 2e-3, "lr_vit": 2e-3}


@pytest.mark.parametrize("name", VLMS)
def test_every_part_gets_gradient_and_nothing_else_is_trained(name):
    policy = load(name)
    settings = sft_settings(**SETTINGS, learn_first_question=True)
    family = family_of(policy.core)
    projector = {n for n, _ in policy.core.named_parameters() if family.part_of(n) == "projector"}
    adapted(policy, settings)
    objective = sft_of(policy, settings)
    rows = preflight(scorer_of(policy), objective, first_micro_batch(objective, settings), settings)
    assert [row["group"] for row in rows] == list(adapters.GROUPS)
    assert [row["with_gradient"] for row in rows] == [row["checked"] for row in rows]
    trained = list(trainable(policy))
    full = {n.replace(".modules_to_save.default", "") for n in trained if "lora_" not in n}
    (row,) = full - projector
    assert (row.split(".")[2], projector & full) == ("embed_tokens", projector)
    for group, depth in (
        ("lora_vit", num_vision_layers(policy.core)),
        ("lora_llm", len(language_layers(policy.core))),
    ):
        names = [n for n in trained if "lora_B" in n and adapters.group_of(n, family) == group]
        layers = {int(re.search(r"\.(\d+)\.", n)[1]) for n in names}
        assert layers == set(range(depth))


@pytest.mark.parametrize("name", VLMS)
def test_every_parameter_is_in_its_part(name):
    core = load(name).core
    family = family_of(core)
    for parameter, _ in core.named_parameters():
        top = parameter.removeprefix("model.").split(".")
        expected = "vision" if top[0].startswith("vis") else "language"
        if any(word in part for part in top[:2] for word in ("projector", "connector", "merger")):
            expected = "projector"
        assert family.part_of(parameter) == expected, parameter
        wrapped = f"base_model.model.{parameter}"
        assert PARTS[adapters.group_of(wrapped, family)] == expected, parameter


def log_probs_of(policy: Policy, texts) -> torch.Tensor:
    batch = policy.pack(texts, ["a"] * len(texts), open_image)
    with torch.no_grad():
        return scorer_of(policy)(batch)


def naive_log_probs(plain: Naive, policy: Policy, texts) -> torch.Tensor:
    found = []
    for text in texts:
        scores = plain.logits(policy, text.ids).log_softmax(-1)
        at = [t for t, code in enumerate(text.learned) if code]
        found.append(scores[[t - 1 for t in at], [text.ids[t] for t in at]])
    return torch.cat(found)


def merged(policy: Policy, objective, settings) -> None:
    batch = first_micro_batch(objective, settings).batch
    scorer = scorer_of(policy)
    assert adapters.merge(policy, lambda: scorer(batch)) < 1e-3


def pairs(policy: Policy) -> list[Preference]:
    requests = [
        Request(id=f"{n}", image=image, turns=tuple(TALK), num_draws=2, max_tokens=6)
        for n, image in enumerate("aab")
    ]
    generator = PolicyGenerator(policy, open_image, name="toy")
    sampled = list(generator.generate(requests, Sampling(temperature=1.2, seed=3)))
    return [
        Preference(
            id=request.id, answers_id=request.id, image=request.image,
            question=request.turns[0].question, chosen=sampled[2 * n],
            rejected=sampled[2 * n + 1], margin=1.0, source="toy",
        )
        for n, request in enumerate(requests)
    ]  # fmt: skip


@pytest.mark.parametrize("name", VLMS)
def test_pictures_of_any_size_take_equally_many_tokens(name):
    policy = load(name)
    text = policy.chat.training(TURNS[:1], [False])
    for size in ((50, 20), (7, 90), (600, 500)):
        picture = open_image("a").resize(size)
        batch = policy.pack([text], ["a"], lambda _, picture=picture: picture)
        with torch.no_grad():  # the model counts, too
            assert scorer_of(policy)(batch).isfinite().all()


@pytest.mark.parametrize("name", VLMS)
def test_the_loop_from_a_published_folder_to_an_aligned_policy(name, tmp_path):
    policy = load(name)
    assert policy.probe().startswith("texts of an image share it")
    texts = [
        policy.chat.training(TURNS, [False] * 3),
        policy.chat.training(TURNS, [False, True, True]),
        policy.chat.training(TURNS[1:], [True, False]),
    ]
    settings = sft_settings(**SETTINGS)
    adapted(policy, settings)
    objective = sft_of(policy, settings)
    before = {n: p.detach().clone() for n, p in trainable(policy).items()}
    counts = run_training(policy, objective, settings, tmp_path / "sft" / "trainer")
    assert counts["steps"] == 1
    moved = {n for n, p in trainable(policy).items() if not torch.equal(p, before[n])}
    assert moved == {n for n in before if "lora_A" not in n}
    policy.model.save_pretrained(tmp_path / "adapter")
    merged(policy, objective, settings)
    policy.save(tmp_path / "checkpoint")

    again = Policy.load(tmp_path / "checkpoint")
    assert (again.format, again.chat.image_text) == (policy.format, policy.chat.image_text)
    assert [again.chat.training(TURNS, [False] * 3)] == texts[:1]
    assert "asker_untrained" not in again.provenance
    found = log_probs_of(again, texts)
    torch.testing.assert_close(found, log_probs_of(policy, texts), rtol=0, atol=1e-5)
    plain = naive(again, name, tmp_path / "checkpoint")
    with torch.no_grad():
        wanted = naive_log_probs(plain, again, texts)
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-4)

    requests = [
        Request(id="q", image="a", turns=tuple(TALK), num_draws=2, max_tokens=8),
        Request(id="v", image="a", turns=TURNS[:1], speaker="asker", num_draws=1, max_tokens=8),
        Request(id="f", image="a", turns=(), speaker="asker", num_draws=1, max_tokens=8),
    ]
    draws = list(PolicyGenerator(again, open_image, name="toy").generate(requests, Sampling()))
    with torch.no_grad():
        said = {
            r.id: plain.greedy(again, again.chat.prompt(r.turns, r.speaker).ids, 8)
            for r in requests
        }
    assert [list(draw.token_ids) for draw in draws] == [said[draw.request_id] for draw in draws]

    dpo = dpo_settings(**SETTINGS, epochs=2)
    preferences = pairs(again)
    adapted(again, dpo)
    aligned = DpoObjective(again, preferences, open_image, dpo)
    compute_reference(aligned, budget=600)
    first = first_micro_batch(aligned, dpo)
    check_first_step(aligned, scorer_of(again), [first], bf16=False)
    preflight(scorer_of(again), aligned, first, dpo)
    assert not any("embed_tokens" in n for n in trainable(again))
    run_training(again, aligned, dpo, tmp_path / "dpo" / "trainer")
    line = (tmp_path / "dpo" / "metrics.jsonl").read_text().splitlines()[-1]
    assert json.loads(line)["rewards/margins"] != 0
    merged(again, aligned, dpo)
    again.save(tmp_path / "dpo" / "checkpoint")
    assert Policy.load(tmp_path / "dpo" / "checkpoint").format == policy.format

"""Stage 2's data: questions about an image, and two answers to each, sampled.

Ours is the package's `PolicyGenerator`, one batch of questions and one of answers. The naive way
is three `generate` calls a pair, as the released scripts make them: each encodes the image and
reads the prompt again, alone. Both say equally many tokens.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from copy import deepcopy
from typing import Any

import torch
from transformers import LlavaForConditionalGeneration

from benchmarks import model
from benchmarks.table import show, times
from benchmarks.timing import cpu_seconds, interleave, ratio
from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.policy.policy import Policy
from stllava.records import Draw, Request, Turn

SAMPLING = Sampling(temperature=1.2, top_k=100, top_p=0.95)  # the paper's


class Naive:
    """One `generate` of transformers for each text, under its ordinary attention."""

    def __init__(self, policy: Policy, open_image: Any) -> None:
        config = deepcopy(policy.core.config)  # it names the attention; the policy keeps its own
        own: Any = LlavaForConditionalGeneration._from_config(config, attn_implementation="sdpa")
        own.load_state_dict(policy.core.state_dict())
        self.core = own.to(policy.device, policy.core.dtype).eval()
        self.policy, self.open_image = policy, open_image

    @torch.inference_mode()
    def say(self, request: Request, sampling: Sampling) -> list[int]:
        """Ids of one draw."""
        prompt = self.policy.chat.prompt(request.turns, request.speaker)
        ids = torch.tensor([prompt.ids], device=self.policy.device)
        pixels = self.policy.pixel_values([self.open_image(request.image)])
        how: dict[str, Any] = {"do_sample": False}
        if not sampling.greedy:
            how = {
                "do_sample": True,
                "temperature": sampling.temperature,
                "top_k": sampling.top_k,
                "top_p": sampling.top_p,
            }
        out = self.core.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            pixel_values=pixels.to(ids.device, self.core.dtype),
            max_new_tokens=request.max_tokens,
            pad_token_id=model.PAD,
            **how,
        )
        return [int(token) for token in out[0, ids.shape[1] :]]


def questions(images: int, number: int, tokens: int) -> list[Request]:
    return [
        Request(
            id=f"{image}", image=f"i{image}", turns=(), speaker="asker",
            num_draws=number, max_tokens=tokens,
        )
        for image in range(images)
    ]  # fmt: skip


def answers(asked: Sequence[Draw], number: int, tokens: int) -> list[Request]:
    return [
        Request(
            id=f"{draw.id}/a",
            image=f"i{draw.request_id}",
            turns=(Turn(question=draw.text),),
            num_draws=number,
            max_tokens=tokens,
        )
        for draw in asked
    ]


def one_by_one(naive: Naive, requests: Sequence[Request]) -> int:
    """Every draw of every request alone. Returns the number of tokens said."""
    return sum(len(naive.say(r, SAMPLING)) for r in requests for _ in range(r.num_draws))


def run(
    *,
    rounds: int = 3,
    images: int = 2,
    num_questions: int = 5,
    num_answers: int = 2,
    shape: model.Shape = model.MID,
    short: int = 1,
) -> float:
    """Returns how many times less CPU time ours takes."""
    policy = model.make_policy(shape)
    torch.manual_seed(0)
    random.seed(0)
    naive = Naive(policy, model.open_image)
    generator = PolicyGenerator(policy, model.open_image, name="drawn")
    ask = questions(images, num_questions, 20 // short)
    said: dict[str, int] = {}

    def ours() -> None:
        asked = list(generator.generate(ask, SAMPLING))
        told = list(generator.generate(answers(asked, num_answers, 80 // short), SAMPLING))
        said["ours"] = sum(len(draw.token_ids or ()) for draw in [*asked, *told])

    fixed = answers(list(generator.generate(ask, SAMPLING)), num_answers, 80 // short)

    def plain() -> None:
        said["naive"] = one_by_one(naive, ask) + one_by_one(naive, fixed)

    seconds = interleave(
        {"naive": lambda: cpu_seconds(plain), "ours": lambda: cpu_seconds(ours)}, rounds
    )
    assert said["ours"] == said["naive"], said
    num = images * num_questions
    rows = [
        [name, sorted(taken)[len(taken) // 2] / num, times(ratio(seconds["naive"], taken))]
        for name, taken in seconds.items()
    ]
    show(
        f"generation: {images} images, {num_questions} questions, {num_answers} answers each; "
        f"{said['ours']:,} tokens in both",
        ["", "CPU s a question with its answers", "faster"],
        rows,
    )
    return ratio(seconds["naive"], seconds["ours"])

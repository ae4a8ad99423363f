"""Supervised training on records that share images: VQA-RAD's training questions as branches.

Token counts are exact and over all 1,797 questions; time is of steps over a seeded sample. Both
sides learn the same tokens under the same loss; the plain side has one row a question.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import data, model
from benchmarks.table import megabytes, show, times
from benchmarks.timing import cpu_seconds, interleave, measure, ratio
from stllava.config import SftSection
from stllava.policy.adapters import parameter_groups
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer
from stllava.records import Conversation, Turn
from stllava.training.objective import MicroBatch
from stllava.training.plan import plan_micro_batches, tree_size
from stllava.training.sft import SftObjective
from stllava.tree.bins import num_tokens
from stllava.tree.rules import Rules

BUDGET = 8192  # tokens of a micro-batch, the recipe's default


class Counts(NamedTuple):
    """Tokens that go through the model in one epoch."""

    plain: int  # one row a question, without padding
    tree: int  # what is left when an image's questions share it
    computed: int  # the same with the padding of micro-batches


def conversations(images: Sequence[data.Asked]) -> list[Conversation]:
    return [
        Conversation(
            id=image.name,
            image=image.name,
            turns=tuple(Turn(question=q, answer=a) for q, a in image.turns),
        )
        for image in images
    ]


class Side(NamedTuple):
    """One way to train, ready to step."""

    objective: SftObjective
    scorer: TokenScorer
    optimizer: torch.optim.Optimizer
    share: bool

    def micro_batches(self) -> list[MicroBatch]:
        examples = [self.objective.example(i, 0) for i in self.objective.ids]
        if self.share:
            plan = plan_micro_batches(examples, budget=BUDGET)
            return [self.objective.micro_batch(members) for members in plan]
        alone = [e._replace(texts=(text,)) for e in examples for text in e.texts]
        alone.sort(key=lambda e: len(e.texts[0].ids))  # rows of a batch are equally long
        size = BUDGET // max(len(e.texts[0].ids) for e in alone)
        parts = [alone[at : at + size] for at in range(0, len(alone), size)]
        return [self.objective.micro_batch(part) for part in parts]

    def loss(self) -> float:
        """Nats a learned token, before anything is trained."""
        micros = self.micro_batches()
        with torch.no_grad():
            total = sum(self.objective.loss(self.scorer, m).total.item() for m in micros)
        return total / sum(micro.count for micro in micros)

    def step(self) -> None:
        """One optimiser step over all records."""
        micros = self.micro_batches()
        total = sum(micro.count for micro in micros)
        for micro in micros:
            (self.objective.loss(self.scorer, micro).total / total).backward()
        trained = [p for p in self.scorer.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()


def make(policy: Policy, images: Sequence[data.Asked], settings: SftSection, share: bool) -> Side:
    own = Policy(
        policy.model,
        policy.tokenizer,
        policy.image_processor,
        policy.format,
        rules=Rules(share=share),
    )
    talks = conversations(images)
    objective = SftObjective(own, talks, data.open_file, settings, seed=0, group="records")
    scorer = TokenScorer.of(own).train()
    groups = [
        {k: v for k, v in group.items() if k != "names"}
        for group in parameter_groups(scorer.core, settings)
    ]
    return Side(objective, scorer, torch.optim.AdamW(groups, fused=False), share)


def count_tokens(policy: Policy, images: Sequence[data.Asked]) -> Counts:
    """Of one epoch over these images."""
    settings = SftSection()
    objective = SftObjective(
        policy, conversations(images), data.open_file, settings, seed=0, group="records"
    )
    examples = [objective.example(i, 0) for i in objective.ids]
    plan = plan_micro_batches(examples, budget=BUDGET)
    computed = tree = 0
    for members in plan:
        sizes = [tree_size([example]) for example in members]
        tree += sum(sizes)
        computed += num_tokens(sizes)
    return Counts(sum(len(t.ids) for e in examples for t in e.texts), tree, computed)


def run(
    root: Path,
    *,
    rounds: int = 3,
    shape: model.Shape = model.MID,
    num_images: int = 6,
) -> tuple[Counts, float]:
    """Exact counts over all records, and the ratio of CPU time on a sample."""
    policy = model.make_policy(shape)
    images = data.vqa_rad(root, "train")
    counts = count_tokens(policy, images)
    show(
        f"VQA-RAD training: {data.num_questions(images):,} questions on {len(images)} images",
        ["tokens of an epoch", "", "fewer"],
        [
            ["one row a question", counts.plain, times(1.0)],
            ["branches under the image", counts.tree, times(counts.plain / counts.tree)],
            ["... padding included", counts.computed, times(counts.plain / counts.computed)],
        ],
    )
    settings = SftSection(lora=model.lora_of(shape), lr_llm=5e-6, lr_vit=5e-6)
    model.adapt(policy, settings)
    some = data.sampled(images, num_images)
    sides = {
        "one row a question": make(policy, some, settings, share=False),
        "branches under the image": make(policy, some, settings, share=True),
    }
    return counts, _time(sides, data.num_questions(some), len(some), rounds)


def _time(sides: dict[str, Side], questions: int, images: int, rounds: int) -> float:
    losses = {name: side.loss() for name, side in sides.items()}
    measures = {name: measure(side.step, side.scorer.parameters()) for name, side in sides.items()}
    seconds = interleave(
        {name: lambda s=side: cpu_seconds(s.step) for name, side in sides.items()},
        rounds,
        warm_up=False,  # measuring was one
    )
    base = next(iter(sides))
    rows = [
        [
            name,
            f"{losses[name]:.4f}",
            sorted(taken)[len(taken) // 2] / questions,
            times(ratio(seconds[base], taken)),
            measures[name].flops / questions / 1e9,
            times(measures[base].flops / measures[name].flops),
            megabytes(measures[name].saved / questions),
            times(measures[base].saved / measures[name].saved),
        ]
        for name, taken in seconds.items()
    ]
    show(
        f"steps over {questions} questions on {images} images",
        ["", "loss", "CPU s a question", "faster", "GFLOP a question", "fewer",
         "kept for backward, a question", "less"],
        rows,
    )  # fmt: skip
    return ratio(seconds[base], list(seconds.values())[1])

"""The micro-batch that a memory plan is made for: the largest of a plan, or a typical one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from PIL import Image as PILImage
from torch import Tensor

from stllava.chat import ANSWER, Tokens
from stllava.config import DpoSection, TrainSection
from stllava.policy.families import family_of
from stllava.training.memory.sketch import shapes_only
from stllava.training.memory.trace import image_features
from stllava.training.objective import Example, Objective
from stllava.training.plan import PlannedStep, plan_micro_batches, tree_size
from stllava.tree import TreeBatch, pack, rules_of
from stllava.tree.batch import stack_images
from stllava.tree.bins import num_tokens

STEPS = 16  # of the plan that are looked at: the largest of them stands for all
PROMPT, QUESTION, ANSWERED = 40, 30, 100  # tokens of a typical text beside the image's


def largest_micro_batch(
    objective: Objective, steps: Sequence[PlannedStep], settings: TrainSection, world: int = 1
) -> TreeBatch:
    """The planned micro-batch with most tokens, with the pixels of as many images as any has.

    Looks at `STEPS` steps from all over the plan. Images are opened.
    """
    share = objective.policy.rules.share
    every = max(1, len(steps) // STEPS)
    found = [
        members
        for step in steps[::every]
        for members in _micro_batches(objective, step, settings.micro_batch_tokens, share, world)
    ]
    largest = max(found, key=lambda members: (_tokens(members, share), _images(members, share)))
    batch = objective.micro_batch(largest).batch
    missing = max(_images(members, share) for members in found) - len(batch.images)
    if missing > 0:
        repeated = [i % len(batch.images) for i in range(len(batch.images) + missing)]
        batch.images = tuple(batch.images[i] for i in repeated)
        batch.vision = _repeat(batch.vision, len(repeated) - missing, repeated)
    return batch


def _micro_batches(
    objective: Objective, step: PlannedStep, budget: int, share: bool, world: int
) -> Iterator[list[Example]]:
    examples = [objective.example(*record) for record in step.records]
    for rank in range(world):
        yield from plan_micro_batches(examples, budget=budget, rank=rank, world=world, share=share)


def _tokens(members: Sequence[Example], share: bool) -> int:
    if not share:
        lengths = [len(text.ids) for example in members for text in example.texts]
        return len(lengths) * max(lengths)
    groups: dict[str, list[Example]] = {}
    for example in members:
        groups.setdefault(example.image, []).append(example)
    return num_tokens([tree_size(group) for group in groups.values()])


def _images(members: Sequence[Example], share: bool) -> int:
    if share:
        return len({example.image for example in members})
    return sum(len(example.texts) for example in members)


def _repeat(vision: Mapping[str, Tensor], num: int, which: Sequence[int]) -> dict[str, Tensor]:
    """The pixels of images by number; some families keep several rows an image."""
    index = torch.tensor(which)
    out = {}
    for name, value in vision.items():
        images = value.view(num, -1, *value.shape[1:])
        out[name] = images[index].flatten(0, 1)
    return out


def typical_micro_batch(
    config: Any,
    settings: TrainSection,
    *,
    num_image_tokens: int,
    vision: Mapping[str, Tensor] | None = None,
    share: bool = True,
    multiple_of: int = 128,
) -> TreeBatch:
    """As many images as `micro_batch_tokens` holds, each with one question.

    A question of 30 tokens and an answer of 100 after a prompt of 40; two answers in dpo.
    Texts are made up. `vision`: what the model is given for one image; None: one square of the
    config's size.
    """
    answers = 2 if isinstance(settings, DpoSection) else 1
    start = [1] * PROMPT + [int(config.image_token_id)] * num_image_tokens
    texts = [_text(start, answer) for answer in range(answers)]
    size = len(start) + QUESTION + answers * ANSWERED if share else answers * len(texts[0].ids)
    width = -(-size // multiple_of) * multiple_of if share else size
    images = max(1, settings.micro_batch_tokens // width)
    names = [image for image in range(images) for _ in texts]
    # Beyond max_tokens nothing is cut: the plan is to say what such a recipe would need.
    batch = pack(texts * images, names, share=share, multiple_of=multiple_of if share else 1)
    one = dict(vision or _square(config))
    batch.vision = stack_images([one] * len(batch.images))
    if rules_of(config).positions == "mrope":  # positions have three axes
        batch.positions = batch.positions.expand(3, *batch.positions.shape)
    return batch


class Picture(NamedTuple):
    """What the model is given for one image, and how many tokens it makes of it."""

    vision: dict[str, Tensor]
    num_tokens: int


def picture_of(config: Any, image_processor: Any, image_side: int | None = None) -> Picture:
    """Of a blank image; the model's own code counts the tokens, without weights."""
    policy = shapes_only(config)
    policy.image_processor = image_processor
    policy.image_side = image_side or family_of(policy.core).image_side
    side = policy.image_side or 64
    vision = policy.asked_for(policy.processed([PILImage.new("RGB", (side, side))]))
    with torch.no_grad():
        return Picture(vision, len(image_features(policy.core, vision)))


def _text(start: Sequence[int], answer: int) -> Tokens:
    ids = [*start, *[2] * QUESTION, *[3 + answer] * ANSWERED]
    return Tokens(ids, [0] * (len(ids) - ANSWERED) + [ANSWER] * ANSWERED)


def _square(config: Any) -> dict[str, Tensor]:
    side = config.vision_config.image_size
    height, width = (side, side) if isinstance(side, int) else side
    return {"pixel_values": torch.ones(1, 3, height, width)}

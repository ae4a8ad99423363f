"""Whether the exported folder computes what the adapted model computes."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stllava.errors import PolicyError
from stllava.pipeline.job import Job
from stllava.records import Conversation, Preference, Turn

if TYPE_CHECKING:
    from stllava.policy.policy import Policy
    from stllava.tree import TreeBatch

PROBE = 8  # records that the comparison looks at
START: dict[str, str] = {"sft": "base", "dpo": "sft"}  # what each adapter is laid over


class Exported(NamedTuple):
    """What was written, and how far it is from the adapted model."""

    path: Path
    mean: float  # nats a token
    largest: float  # nats, of one token
    tokens: int  # compared
    same_tokens: bool  # processor and template write what the policy was trained on


def compare(job: Job, model: str, adapter: Path, folder: Path) -> Exported:
    """Log-probabilities of the exported against the adapted model, on records of the run.

    Raises PolicyError above the tolerances that merging has. One model is in memory at a time.
    """
    import torch
    from peft import PeftModel

    from stllava.policy.adapters import MERGE_TOLERANCE_MAX, MERGE_TOLERANCE_MEAN
    from stllava.policy.policy import Policy
    from stllava.policy.scorer import TokenScorer

    policy = job.load(START[model])
    with warnings.catch_warnings():  # as in adapters.adapt
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        policy.model = PeftModel.from_pretrained(policy.model, adapter).eval()
    batch = _records(job, policy, model)
    with torch.inference_mode():
        adapted = TokenScorer.of(policy)(batch)
    rules, backend = policy.rules, policy.backend
    del policy
    exported = Policy.load(folder, device=job.device)
    same_tokens = writes_same_tokens(exported, folder)
    exported.rules, exported.backend = rules, backend
    with torch.inference_mode():
        change = (adapted - TokenScorer.of(exported)(batch)).abs()
    mean, largest = change.mean().item(), change.max().item()
    if not (mean <= MERGE_TOLERANCE_MEAN and largest <= MERGE_TOLERANCE_MAX):
        raise PolicyError(
            f"exported and adapted {model} differ by {mean:.2g} nats a token, at most "
            f"{largest:.2g} (allowed {MERGE_TOLERANCE_MEAN:g} and {MERGE_TOLERANCE_MAX:g}); "
            f"nothing was written: was {START[model]} changed after the training?"
        )
    return Exported(folder, mean, largest, len(change), same_tokens)


def writes_same_tokens(policy: Policy, folder: Path) -> bool:
    """Whether processor and template write what `chat` does: not every tokenizer lets them."""
    from PIL import Image
    from transformers import AutoProcessor

    text = "Is it normal?"
    content = [
        {"type": "image", "image": Image.new("RGB", (16, 16))},
        {"type": "text", "text": text},
    ]
    found = AutoProcessor.from_pretrained(folder, local_files_only=True).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"][0]
    return list(found) == policy.chat.prompt([Turn(question=text)], "assistant").ids


def _records(job: Job, policy: Policy, model: str) -> TreeBatch:
    """The first records that the stage was trained on, their answers learned."""
    talks: list[tuple[str, tuple[Turn, ...]]]
    if model == "sft":
        conversations = job.stage("prepare").read("conversations.jsonl", Conversation)[:PROBE]
        talks = [(c.image, c.turns[:1]) for c in conversations]
    else:
        preferences = job.stage("prefer").read("preferences.jsonl", Preference)[:PROBE]
        talks = [
            (p.image, (Turn(question=p.question, answer=draw.text),))
            for p in preferences
            for draw in (p.chosen, p.rejected)
        ]
    texts = [policy.chat.training(turns, [False] * len(turns)) for _, turns in talks]
    batch = policy.pack(texts, [image for image, _ in talks], job.open_image)
    return batch.to(policy.device)

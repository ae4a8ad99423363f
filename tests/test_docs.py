"""What the documents show must run."""

import re
from pathlib import Path

import pytest
import torch
import toy
from transformers import TrainingArguments

from stllava.records import Turn

DOCS = Path(__file__).parent.parent / "docs"


def code_of(page):
    blocks = re.findall(r"```python\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)
    assert blocks
    return "\n".join(blocks)


@pytest.mark.filterwarnings("ignore:.*pin_memory.*")
def test_the_tree_trains_inside_a_plain_trainer(tmp_path):
    policy = toy.policy("mlp")
    names = ["a", "a", "a", "b"]
    texts = [
        policy.chat.training([Turn(question="What organ?", answer=answer)], [False])
        for answer in ("The liver.", "The left lung.", "A lung.", "The liver.")
    ]
    rows = [
        {"ids": t.ids, "learned": t.learned, "image": n} for t, n in zip(texts, names, strict=True)
    ]
    args = TrainingArguments(
        output_dir=str(tmp_path),
        per_device_train_batch_size=4,
        max_steps=8,
        learning_rate=5e-3,
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
    )
    known = {
        "model": policy.core,
        "pixels": {n: policy.pixel_values([toy.open_image(n)])[0] for n in "ab"},
        "args": args,
        "dataset": rows,
        "__name__": "docs",
    }
    before = {n: p.clone() for n, p in policy.core.named_parameters()}
    exec(compile(code_of("tree.md"), "tree.md", "exec"), known)
    losses = [line["loss"] for line in known["trainer"].state.log_history if "loss" in line]
    assert len(losses) == 8
    assert losses[-1] < losses[0] - 0.5
    moved = [name for name, p in policy.core.named_parameters() if (p != before[name]).any()]
    for part in ("language_model", "vision_tower", "multi_modal_projector"):
        assert any(part in name for name in moved), part
    assert all(torch.isfinite(p).all() for p in policy.core.parameters())

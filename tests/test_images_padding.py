"""Every path to a model pads an oblong picture the same way: both training stages, generation."""

from __future__ import annotations

import ast
from pathlib import Path

import numpy as np
import pytest
import torch
import toy
from PIL import Image as PILImage
from stages import dpo_settings, sft_settings

import stllava
from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.images import pad_to_square
from stllava.policy.policy import Policy
from stllava.records import Request, Turn
from stllava.training.dpo import DpoObjective
from stllava.training.sft import SftObjective


def open_oblong(name: str) -> PILImage.Image:
    return toy.open_image(name).resize((3 * toy.SIZE, toy.SIZE))


@pytest.fixture
def seen(monkeypatch) -> list[torch.Tensor]:
    """Pixel values of everything that is packed for a model, in order."""
    found: list[torch.Tensor] = []
    pack = Policy.pack

    def recording(self, *given):
        batch = pack(self, *given)
        found.append(batch.vision["pixel_values"])
        return batch

    monkeypatch.setattr(Policy, "pack", recording)
    return found


@pytest.mark.parametrize("variant", ["prototype", "mlp"])
def test_training_and_generation_show_the_same_padded_picture(variant: str, seen):
    policy, talks, pairs = toy.policy(variant), toy.conversations(2), toy.preferences(1)
    seen.clear()
    SftObjective(policy, talks[:1], open_oblong, sft_settings(), 0).collate([(talks[0].id, 0)])
    DpoObjective(policy, pairs, open_oblong, dpo_settings()).collate([(pairs[0].id, 0)])
    for image in (talks[0].image, pairs[0].image):
        asked = Request(id="r", image=image, turns=(Turn(question="What?", answer=None),))
        generator = PolicyGenerator(policy, open_oblong, name="toy")
        list(generator.generate([asked], Sampling(temperature=0)))
    sft, dpo, said_of_first, said_of_second = seen
    assert torch.equal(sft, said_of_first)
    assert torch.equal(dpo, said_of_second)
    mean = np.array(policy.image_processor.image_mean)
    square = pad_to_square(open_oblong(talks[0].image), tuple(round(255 * m) for m in mean))
    assert square.size == (3 * toy.SIZE, 3 * toy.SIZE)
    assert torch.equal(sft, policy.image_processor([square], return_tensors="pt")["pixel_values"])
    # The bars are the mean, which is 0 once normalised; the picture between them is not cropped.
    assert sft[0, :, 0].abs().max() < 0.02
    assert sft[0, :, sft.shape[2] // 2].abs().max() > 0.1


def test_an_image_processor_is_called_in_one_place():
    def calls(path: Path) -> bool:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = (ast.unparse(n.func) for n in ast.walk(tree) if isinstance(n, ast.Call))
        return any(name.endswith(".image_processor") for name in named)

    package = Path(stllava.__file__).parent
    found = [p.relative_to(package).as_posix() for p in package.rglob("*.py") if calls(p)]
    assert found == ["policy/policy.py"]

"""The packaged base policies are what their papers say, and load as they lie."""

import json
from importlib import resources
from pathlib import Path

import pytest
import torch

from stllava.files import sha256
from stllava.policy.policy import Policy

ASSETS = Path(str(resources.files("stllava") / "assets"))
VARIANTS = {"base-prototype": "sqllava", "base-mlp": "llava"}


@pytest.mark.parametrize("name", VARIANTS)
def test_weights_have_the_recorded_checksum(name):
    training = json.loads((ASSETS / name / "training.json").read_text())
    assert sha256(ASSETS / name / "model.safetensors") == training["sha256"]
    assert training["curve"][-1]["loss"] < 0.6 < training["curve"][0]["loss"]


@pytest.mark.parametrize(("name", "model_type"), VARIANTS.items())
def test_a_base_policy_loads_with_its_own_tokenizer(name, model_type):
    policy = Policy.load(ASSETS / name)
    assert policy.core.config.model_type == model_type
    assert policy.tokenizer.convert_ids_to_tokens(policy.image_token_id) == "<image>"
    assert policy.decode(policy.encode("a large nodule in the left lung")[0]).endswith("left lung")
    with torch.inference_mode():
        (features,) = policy.core.get_image_features(torch.zeros(1, 3, 96, 96)).pooler_output
    assert features.shape == (policy.num_image_tokens, 128)


def test_neither_variant_saw_a_medical_picture_or_label():
    for name in VARIANTS:
        card = json.loads((ASSETS / name / "stllava.json").read_text())
        assert (card["medical_pictures"], card["medical_labels"]) == (0, 0)
        assert card["shown"]["general pictures"] > 60_000

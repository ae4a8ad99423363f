"""Where the real data lie; tests that need them skip, with the reason, where they are absent."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

REPO_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def data_root() -> Path:
    """The folder that holds vqa_rad/, slake/, ...: STLLAVA_TEST_DATA, else ../shared/data."""
    root = Path(os.environ.get("STLLAVA_TEST_DATA", REPO_ROOT / "../shared/data"))
    if not root.is_dir():
        pytest.skip(f"no real data at {root}; set STLLAVA_TEST_DATA")
    return root


@pytest.fixture(scope="session")
def vqa_rad_root(data_root: Path) -> Path:
    """VQA-RAD in its official form."""
    root = data_root / "vqa_rad"
    if not (root / "VQA_RAD Dataset Public.json").is_file():
        pytest.skip(f"no VQA-RAD at {root}")
    return root


@pytest.fixture(scope="module")
def float64_norm():
    """`LlamaRMSNorm` computes in float32 whatever the model's type; this one keeps float64."""
    import torch
    from transformers.models.llama.modeling_llama import LlamaRMSNorm

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, True) + self.variance_epsilon)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LlamaRMSNorm, "forward", forward)
        yield

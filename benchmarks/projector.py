"""The prototype extractor: batched matrix products against [B, N, L, D] products, as published.

Outputs and gradients are compared before anything is timed.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from benchmarks.table import megabytes, show, times
from benchmarks.timing import cpu_seconds, interleave, measure, ratio
from stllava.policy.sqllava import PrototypeProjector, SqlLavaConfig

SIZES = ((8, 64, 128), (2, 256, 256), (2, 576, 1024))  # images, patches, width; last: published


def run(
    *, rounds: int = 3, sizes: tuple[tuple[int, int, int], ...] = SIZES
) -> dict[tuple[int, int, int], float]:
    """Forward and backward of the prototype step, without the MLP behind it."""
    ratios = {}
    rows = []
    for size in sizes:
        seconds, bytes_ = _compare(*size, rounds=rounds)
        ratios[size] = ratio(seconds["published"], seconds["ours"])
        middle = [sorted(taken)[len(taken) // 2] for taken in seconds.values()]
        peaks = [megabytes(b) for b in bytes_]
        rows.append(["{} x {} x {}".format(*size), *middle, times(ratios[size]), *peaks])
    header = ["images x patches x width", "published, CPU s", "ours, CPU s", "faster",
              "published, peak", "ours, peak"]  # fmt: skip
    show("prototype extractor, forward and backward", header, rows)
    return ratios


def _compare(
    num_images: int, patches: int, width: int, *, rounds: int
) -> tuple[dict[str, list[float]], tuple[int, int]]:
    torch.manual_seed(0)
    config = SqlLavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=width, num_attention_heads=4),
        text_config=LlamaConfig(hidden_size=width, num_attention_heads=4),
        num_centers=round(patches * 256 / 576),  # the published share
    )
    projector = PrototypeProjector(config).requires_grad_(False)
    x_BLD = torch.randn(num_images, patches, width, requires_grad=True)

    def published() -> Tensor:
        return _gradient(written_out(projector, x_BLD), x_BLD)

    def ours() -> Tensor:
        return _gradient(projector.prototypes(x_BLD), x_BLD)

    torch.testing.assert_close(written_out(projector, x_BLD), projector.prototypes(x_BLD))
    torch.testing.assert_close(published(), ours())
    seconds = interleave(
        {"published": lambda: cpu_seconds(published), "ours": lambda: cpu_seconds(ours)}, rounds
    )
    return seconds, (measure(published, ()).peak, measure(ours, ()).peak)


def written_out(projector: PrototypeProjector, x_BLD: Tensor) -> Tensor:
    """`PrototypeProjector.prototypes` as published: sums over [B, N, L, D] products."""
    value_BDL = F.normalize(projector.v(x_BLD).transpose(1, 2), dim=-1)
    feature_BLD = projector.f(x_BLD)
    centers_BND = projector.pool(x_BLD.transpose(1, 2)).transpose(1, 2)
    pooled_BND = projector.pool(feature_BLD.transpose(1, 2)).transpose(1, 2)
    for _ in range(projector.num_iterations):
        centers_BND = projector.c(centers_BND)
        assign_BNL = (F.normalize(centers_BND, dim=-1) @ value_BDL).softmax(dim=1)
        centers_BND = assign_BNL @ feature_BLD
    cosine_BNL = F.normalize(centers_BND, dim=-1) @ F.normalize(x_BLD, dim=-1).transpose(1, 2)
    similarity_BNL = torch.sigmoid(projector.sim_beta + projector.sim_alpha * cosine_BNL)
    nearest_B1L = similarity_BNL.argmax(dim=1, keepdim=True)
    mask_BNL = torch.zeros_like(similarity_BNL).scatter_(1, nearest_B1L, 1.0)
    weight_BNL1 = (similarity_BNL * mask_BNL).unsqueeze(-1)
    out_BND = (feature_BLD.unsqueeze(1) * weight_BNL1).sum(dim=2) + pooled_BND
    out_BND = out_BND / (mask_BNL.sum(dim=-1, keepdim=True) + 1.0)
    return (out_BND.unsqueeze(2) * weight_BNL1).sum(dim=1)


def _gradient(output: Tensor, x: Tensor) -> Tensor:
    x.grad = None
    output.square().sum().backward()
    assert x.grad is not None
    return x.grad

"""Time what this package does once instead of many times, against doing it the plain way.

    python scripts/bench.py [--repeats 5] [--threads 1]

Two comparisons, in process CPU seconds (wall time lies on a busy machine), variants interleaved,
medians; the ratio is the median of the ratios of each round. Models are small and untrained: the
figures say how the variants compare, not how good a model is.

- projector: the prototype extractor as published, over [B, N, L, D] products, against batched
  matrix products. Outputs and gradients are compared first.
- generation: n draws of a question that share one prefill, against n requests that each have
  their own. Images are encoded once in both.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import NamedTuple

import torch
import torch.nn.functional as F
from phantom_base import make_policy, make_tokenizer
from PIL import Image
from torch import Tensor
from transformers import CLIPVisionConfig, LlamaConfig

from stllava.generation.hf import PolicyGenerator
from stllava.generation.protocol import Sampling
from stllava.policy.sqllava import PrototypeProjector, SqlLavaConfig
from stllava.records import Request, Turn


class Row(NamedTuple):
    """One line of the table."""

    name: str
    plain_s: float  # CPU seconds, median
    ours_s: float
    ratio: float  # plain / ours, median over rounds


def compare(
    name: str, plain: Callable[[], object], ours: Callable[[], object], *, repeats: int
) -> Row:
    """Time both, one after the other, `repeats` times; the first calls are not counted."""
    plain()
    ours()
    rounds = [(cpu_seconds(plain), cpu_seconds(ours)) for _ in range(repeats)]
    return Row(
        name,
        median(p for p, _ in rounds),
        median(o for _, o in rounds),
        median(p / o for p, o in rounds),
    )


def cpu_seconds(call: Callable[[], object]) -> float:
    start = time.process_time()
    call()
    return time.process_time() - start


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


def bench_projector(num_images: int, patches: int, width: int, *, repeats: int) -> Row:
    """Forward and backward of the prototype step (without the MLP behind it)."""
    torch.manual_seed(0)
    centers = round(patches * 256 / 576)  # the published share
    config = SqlLavaConfig(
        vision_config=CLIPVisionConfig(hidden_size=width, num_attention_heads=4),
        text_config=LlamaConfig(hidden_size=width, num_attention_heads=4),
        num_centers=centers,
    )
    projector = PrototypeProjector(config)
    x_BLD = torch.randn(num_images, patches, width, requires_grad=True)

    def plain() -> Tensor:
        return gradient(written_out(projector, x_BLD), x_BLD)

    def ours() -> Tensor:
        return gradient(projector.prototypes(x_BLD), x_BLD)

    torch.testing.assert_close(written_out(projector, x_BLD), projector.prototypes(x_BLD))
    torch.testing.assert_close(plain(), ours())
    name = f"projector {num_images} x {patches} patches x {width}, {centers} centers"
    return compare(name, plain, ours, repeats=repeats)


def gradient(output: Tensor, x: Tensor) -> Tensor:
    return torch.autograd.grad(output.square().sum(), x)[0]


def bench_generation(num_images: int, num_draws: int, max_tokens: int, *, repeats: int) -> Row:
    """The same number of draws of the same questions, prefilled once or `num_draws` times."""
    torch.manual_seed(0)
    policy = make_policy("prototype", make_tokenizer(0))
    policy.model.eval()
    pictures = {f"i{k}": Image.effect_noise((96, 96), 40 + k) for k in range(num_images)}
    generator = PolicyGenerator(
        policy, lambda name: pictures[name].convert("RGB"), name="bench", batch_size=1024
    )
    turn = Turn(question="Is there a nodule in the left lung, and how large is it?")

    def requests(draws: int, copies: int) -> list[Request]:
        return [
            Request(
                id=f"{name}/{copy}",
                image=name,
                turns=(turn,),
                num_draws=draws,
                max_tokens=max_tokens,
            )
            for name in pictures
            for copy in range(copies)
        ]

    def run(asked: Sequence[Request]) -> int:
        return sum(1 for _ in generator.generate(asked, Sampling(temperature=1.0)))

    shared, separate = requests(num_draws, 1), requests(1, num_draws)
    assert run(shared) == run(separate) == num_images * num_draws
    name = f"generation {num_images} images x {num_draws} draws, up to {max_tokens} tokens"
    return compare(name, lambda: run(separate), lambda: run(shared), repeats=repeats)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(f"torch {torch.__version__}, {args.threads} thread(s), median of {args.repeats} rounds")
    print(f"{'CPU seconds':<52}{'plain':>9}{'ours':>9}{'ratio':>8}")
    rows = (
        bench_projector(8, 64, 128, repeats=args.repeats),
        bench_projector(2, 256, 256, repeats=args.repeats),
        bench_generation(4, 8, 8, repeats=args.repeats),
        bench_generation(4, 8, 32, repeats=args.repeats),
    )
    for row in rows:
        print(f"{row.name:<52}{row.plain_s:>9.3f}{row.ours_s:>9.3f}{row.ratio:>7.1f}x")


if __name__ == "__main__":
    main()

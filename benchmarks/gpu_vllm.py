"""vLLM on the same prompts, for `gpu`: its own weights are random too (load_format "dummy")."""

from __future__ import annotations

import tempfile
from typing import Any

from benchmarks import model as toy
from benchmarks.gpu_common import Bench, Row


def generate(bench: Bench, num_tokens: int, num_draws: int) -> Row:
    """With its prefix caching on, as it comes. LLaVA alone: other families need their processor."""
    from vllm import LLM, SamplingParams

    folder = tempfile.mkdtemp()
    bench.family.config.save_pretrained(folder)
    toy.make_processor().save_pretrained(folder)
    engine: Any = LLM(folder, load_format="dummy", dtype="bfloat16", max_model_len=2048)
    limits = SamplingParams(
        n=num_draws, temperature=1.0, min_tokens=num_tokens, max_tokens=num_tokens, seed=0
    )
    rounds = iter(range(10**6))

    def run() -> None:
        number = next(rounds)  # new pictures each time: what is cached across rounds is no saving
        prompts = [
            {
                "prompt_token_ids": short_prompt(pair.prompt),
                "multi_modal_data": {"image": toy.open_image(f"{number}/{pair.image}")},
            }
            for pair in bench.pairs
        ]
        engine.generate(prompts, limits)

    seconds = bench.seconds(run)
    units = len(bench.pairs) * num_draws * num_tokens
    return Row("generation, vLLM", units / seconds, "answer tokens/s", None, None)


def short_prompt(ids: list[int]) -> list[int]:
    """One placeholder for the image: vLLM puts in as many as it takes."""
    first = ids.index(toy.IMAGE_ID)
    return ids[: first + 1] + [token for token in ids[first:] if token != toy.IMAGE_ID]

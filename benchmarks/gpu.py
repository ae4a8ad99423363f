"""The same comparisons on a GPU: real sizes, random weights, bf16; the tree and trl in one run.

    python -m benchmarks gpu --shape llava-7b
    python -m benchmarks gpu --shape qwen-4b --tiny     # toy size, also without a GPU

Twenty pairs a step, five questions on each of four images. Printed: pairs, tokens and answer
tokens a second, the share of the card's own matrix rate (measured first), the peak of memory, and
whether a step fits into 24 GB. Tokens of training are counted before anything is shared. Floating-
point operations are counted with ordinary attention on both sides.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from benchmarks import gpu_trl
from benchmarks.families import SHAPES, adapter
from benchmarks.gpu_common import Bench, Row, measured, new_model, release
from benchmarks.pairs import Pair, draw_pairs
from benchmarks.table import show
from benchmarks.timing import count_flops, cpu_seconds, wall_seconds
from stllava.generation.decode import SharedStreams
from stllava.policy.scorer import TokenScorer
from stllava.training.dpo import dpo_loss
from stllava.tree import TreeBatch, pack, rules_of, sequence_sums, use_tree_attention
from stllava.tree.batch import stack_images
from stllava.tree.positions import rope_positions
from stllava.tree.score import token_types

BYTES = 24e9  # of the card that most have


def run(shape: str, *, rounds: int = 3, tiny: bool = False) -> list[Row]:
    """Everything for one shape; returns the table's rows."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if device.type == "cpu" and not tiny:
        raise SystemExit("gpu: no GPU here; --tiny runs the same program at toy size")
    dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
    family = SHAPES[shape](tiny=tiny)
    pairs = draw_pairs(family.num_image_tokens, family.vocabulary, short=10 if tiny else 1)
    generator = torch.Generator().manual_seed(0)
    images = {name: family.image(generator) for name in dict.fromkeys(p.image for p in pairs)}
    rate = matrix_rate(device, dtype, 256 if tiny else 8192)
    ranks = (4, 2) if tiny else (128, 32)
    bench = Bench(family, device, dtype, ranks, rounds, rate, pairs, images)
    length = 4 if tiny else 64
    rows = []
    for part in (
        lambda: train_tree(bench),
        lambda: gpu_trl.train(bench),
        lambda: generate(bench, length),
        lambda: generate_vllm(bench, length),
    ):
        rows += part()
        release()
    name = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
    show(
        f"{shape}{', toy size' * tiny} on {name}: {rate / 1e12:.3g} TFLOP/s of matrix products",
        ["", "", "", "of the matrix rate", "peak memory"],
        [
            [r.name, r.per_second, r.unit,
             "" if r.utilisation is None else f"{r.utilisation:.1%}",
             "" if r.peak is None else f"{r.peak / 1e9:.1f} GB"]
            for r in rows
        ],
    )  # fmt: skip
    if device.type == "cuda":
        _show_fits(bench)
    return rows


def matrix_rate(device: torch.device, dtype: torch.dtype, size: int) -> float:
    """FLOP a second of square matrix products: what the card gives, not what its maker says."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))

    def products() -> None:
        for _ in range(10):
            a @ b

    products()
    clock = wall_seconds if device.type == "cuda" else cpu_seconds
    return 10 * 2 * size**3 / min(clock(products) for _ in range(3))


class Tree:
    """This project's step: the model with adapters, batches of trees, AdamW."""

    def __init__(self, bench: Bench, *, share: bool = True, images_at_once: int = 4) -> None:
        from peft import get_peft_model

        self.bench = bench
        core = new_model(bench)
        use_tree_attention(core)
        self.model = get_peft_model(core, adapter(core, *bench.ranks)).train()
        self.core = core
        self.scorer = TokenScorer(core, rules_of(core.config))
        trained = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(trained, lr=5e-6)
        names = list(bench.images)
        parts = [set(names[i : i + images_at_once]) for i in range(0, len(names), images_at_once)]
        self.parts = [[p for p in bench.pairs if p.image in part] for part in parts]
        self.dpo = [self._batch([t for p in part for t in p.texts], part) for part in self.parts]
        self.sft = [self._batch([p.texts[0] for p in part], part) for part in self.parts]

    def _batch(self, texts: Sequence[Any], part: Sequence[Pair]) -> TreeBatch:
        images = [pair.image for pair in part for _ in range(len(texts) // len(part))]
        return forest(self.bench, self.core, texts, images)

    def dpo_step(self, reference: Sequence[Tensor] | None = None) -> None:
        """Reference log-probabilities are computed beside, or handed in."""
        num = len(self.bench.pairs)
        for index, batch in enumerate(self.dpo):
            with self.bench.autocast():
                ref = reference[index] if reference else self.reference(batch)
                sums = sequence_sums(batch, self.scorer(batch), len(batch.last))
            terms = dpo_loss(sums[0::2], sums[1::2], ref[0::2], ref[1::2], beta=0.1)
            (terms.loss.sum() / num).backward()
        self._update()

    def sft_step(self) -> None:
        total = sum(len(batch.targets) for batch in self.sft)
        for batch in self.sft:
            with self.bench.autocast():
                loss = -self.scorer(batch).sum() / total
            loss.backward()
        self._update()

    def _update(self) -> None:
        torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    @torch.no_grad()
    def reference(self, batch: TreeBatch) -> Tensor:
        with self.bench.autocast(), self.model.disable_adapter():
            return sequence_sums(batch, self.scorer(batch), len(batch.last))

    def references(self) -> list[Tensor]:
        return [self.reference(batch) for batch in self.dpo]

    @contextmanager
    def dense(self) -> Iterator[None]:
        """Attention that the counter of operations knows."""
        self.scorer.backend = "dense"
        yield
        self.scorer.backend = "auto"


def forest(bench: Bench, core: Any, texts: Sequence[Any], images: Sequence[str]) -> TreeBatch:
    """Texts about the named images as one batch of trees, on the device."""
    positions_of = None
    if rules_of(core.config).positions == "mrope":
        grids = {name: found["image_grid_thw"][0] for name, found in bench.images.items()}
        positions_of = rope_positions(core, grids)
    multiple_of = 128 if bench.device.type == "cuda" else 1
    batch = pack(texts, images, positions_of=positions_of, multiple_of=multiple_of)
    batch.vision = stack_images([bench.images[str(name)] for name in batch.images])
    pixels = batch.vision["pixel_values"]
    batch.vision["pixel_values"] = pixels.to(bench.dtype)
    return batch.to(bench.device)


def train_tree(bench: Bench) -> list[Row]:
    tree = Tree(bench)
    cached = tree.references()
    given = sum(batch.num_given for batch in tree.sft)
    steps: list[tuple[str, Callable[[], None], float, str]] = [
        ("DPO, tree, reference online", tree.dpo_step, len(bench.pairs), "pairs/s"),
        ("DPO, tree, reference cached", lambda: tree.dpo_step(cached), len(bench.pairs), "pairs/s"),
        ("SFT, tree", tree.sft_step, given, "tokens/s"),
    ]
    chosen = torch.cat([sums[0::2] for sums in cached]).mean().item()
    rows = [Row("chosen answers' log-probability, tree", chosen, "nats", None, None)]
    for name, step, units, unit in steps:
        with tree.dense():
            flops = count_flops(step)
        rows.append(measured(bench, name, step, units, unit, flops))
    return rows


def generate(bench: Bench, num_tokens: int, num_draws: int = 2) -> list[Row]:
    """Greedy answers of a fixed length, `num_draws` a question."""
    prompts = [pair.prompt for pair in bench.pairs]
    images = [pair.image for pair in bench.pairs]
    units = len(prompts) * num_draws * num_tokens
    core = new_model(bench).eval()

    @torch.inference_mode()
    def plain() -> None:
        ids = torch.tensor(gpu_trl.padded_left(prompts), device=bench.device)
        mask = (ids != 0).long()
        arguments = gpu_trl.vision_of(bench, images)
        types = token_types(core, ids)
        core.generate(
            input_ids=ids, attention_mask=mask, **arguments, **types, do_sample=False,
            num_return_sequences=1, min_new_tokens=num_tokens, max_new_tokens=num_tokens,
        )  # fmt: skip

    rows = [measured(bench, "generation, transformers, one draw", plain, units / num_draws,
                     "answer tokens/s", 0)]  # fmt: skip
    use_tree_attention(core)
    policy: Any = SimpleNamespace(core=core, rules=rules_of(core.config), backend="auto")

    @torch.inference_mode()
    def ours() -> None:
        batch = forest(bench, core, [SimpleNamespace(ids=p, learned=[0] * len(p)) for p in prompts],
                       images)  # fmt: skip
        streams = SharedStreams(policy, batch, [num_draws] * len(prompts), num_tokens)
        for _ in range(num_tokens - 1):
            streams.step(streams.logits.argmax(-1))

    rows.append(measured(bench, "generation, tree", ours, units, "answer tokens/s", 0))
    return [row._replace(utilisation=None) for row in rows]


def generate_vllm(bench: Bench, num_tokens: int, num_draws: int = 2) -> list[Row]:
    """The same answers by vLLM, where it is installed and the model is LLaVA."""
    llava = bench.family.config.model_type == "llava"
    if not (llava and find_spec("vllm") and bench.device.type == "cuda"):
        return []
    from benchmarks import gpu_vllm

    return [gpu_vllm.generate(bench, num_tokens, num_draws)]


def _show_fits(bench: Bench) -> None:
    """A step of five pairs of one image, with no more memory than a 24 GB card has."""
    share = BYTES / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.memory.set_per_process_memory_fraction(min(1.0, share))
    few = bench._replace(pairs=bench.pairs[:5])
    few = few._replace(images={p.image: bench.images[p.image] for p in few.pairs})
    rows = []
    steps: dict[str, Callable[[], Callable[[], None]]] = {
        "tree": lambda: Tree(few, images_at_once=1).dpo_step,
        "trl, best settings": lambda: gpu_trl.Trl(few, "best", micro=1).dpo_step,
        "trl, defaults": lambda: gpu_trl.Trl(few, "default", micro=1).dpo_step,
    }
    for name, make in steps.items():
        torch.cuda.reset_peak_memory_stats()
        try:
            make()()
            answer = f"fits: {torch.cuda.max_memory_allocated() / 1e9:.1f} GB"
        except torch.OutOfMemoryError:
            answer = "does not fit"
        release()
        rows.append([name, answer])
    torch.cuda.memory.set_per_process_memory_fraction(1.0)
    show("five pairs of one image in 24 GB", ["", ""], rows)

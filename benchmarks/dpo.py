"""Preference training: the token tree against trl's DPOTrainer, same pairs, same weights.

Two sets of pairs: one question on each of two images, and five questions on one image. A
step is collation, forward, backward, clipping and AdamW.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch

from benchmarks import model
from benchmarks.peer import Peer, write_base, write_pairs
from benchmarks.table import megabytes, show, times
from benchmarks.timing import Measured, count_flops, cpu_seconds, interleave, measure, ratio
from stllava.policy.adapters import parameter_groups
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer
from stllava.records import Preference
from stllava.training.dpo import DpoObjective
from stllava.training.objective import MicroBatch
from stllava.training.plan import plan_micro_batches
from stllava.training.reference import computed, reference_keys
from stllava.tree.rules import Rules

ONLINE, CACHED = "tree, reference online", "tree, reference cached"
DEFAULT, BEST = "trl, defaults", "trl, best settings"
SETS = (  # title, images, questions on each
    ("single pairs: one question on each of two images", 2, 1),
    ("a group: five questions on one image", 1, 5),
)


class Ours(NamedTuple):
    """A training stage's parts, ready to step."""

    objective: DpoObjective
    scorer: TokenScorer
    optimizer: torch.optim.Optimizer
    budget: int

    def micro_batches(self, ids: Sequence[str]) -> list[MicroBatch]:
        examples = [self.objective.example(i, 0) for i in ids]
        device = self.objective.policy.device
        made = []
        for members in plan_micro_batches(examples, budget=self.budget):
            micro = self.objective.micro_batch(members)
            micro.batch = micro.batch.to(device)
            made.append(micro)
        return made

    def step(self, ids: Sequence[str]) -> None:
        """As `trainer.PlannedTrainer` steps."""
        self.backward(self.micro_batches(ids), len(ids))
        trained = [p for p in self.scorer.parameters() if p.requires_grad]
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad()

    def backward(self, micros: Sequence[MicroBatch], num: int) -> None:
        for micro in micros:
            loss = self.objective.loss(self.scorer, micro).total / num
            loss.backward()

    def facts(self, ids: Sequence[str]) -> dict[str, float]:
        """By the names trl logs."""
        totals = dict.fromkeys(("loss", "logps/chosen", "logps/rejected", "rewards/margins"), 0.0)
        with torch.no_grad():
            for micro in self.micro_batches(ids):
                sums = self.objective.loss(self.scorer, micro).sums
                chosen, rejected = self.objective.log_probs(self.scorer, micro)
                totals["loss"] += sums["loss/dpo"][0] / len(ids)
                totals["rewards/margins"] += sums["rewards/margins"][0] / len(ids)
                totals["logps/chosen"] += chosen.sum().item() / len(ids)
                totals["logps/rejected"] += rejected.sum().item() / len(ids)
        trained = sum(p.numel() for p in self.scorer.parameters() if p.requires_grad)
        return {"trained parameters": trained, **totals}


def make(
    policy: Policy,
    pairs: Sequence[Preference],
    *,
    cached: bool,
    shape: model.Shape = model.MID,
    budget: int = 8192,
) -> Ours:
    """An adapted policy's objective; with `cached` the reference's log-probabilities are there."""
    settings = model.dpo_settings(shape)
    objective = DpoObjective(policy, pairs, model.open_image, settings)
    scorer = TokenScorer.of(policy).train()
    if cached:
        keys = reference_keys(objective, "drawn", {p.image: p.image for p in pairs}, "fp32")
        rows = computed(objective, scorer, (), keys, budget)
        objective.reference = {row.id: row for row in rows}
    groups = [
        {k: v for k, v in group.items() if k != "names"}
        for group in parameter_groups(scorer.core, settings)
    ]
    return Ours(objective, scorer, torch.optim.AdamW(groups, fused=False), budget)


def plain(policy: Policy, pairs: Sequence[Preference], shape: model.Shape) -> Ours:
    """Two plain rows a pair, each with its own image; logits at labels only; reference online.

    The work of trl's best settings, in this project's code: for counts that must be exact.
    """
    separate = Policy(
        policy.model,
        policy.tokenizer,
        policy.image_processor,
        policy.format,
        rules=Rules(share=False),
    )
    return make(separate, pairs, cached=False, shape=shape, budget=1)


def flops_per_pair(pairs: Sequence[Preference], shape: model.Shape) -> dict[str, float]:
    """Forward and backward, of plain rows and of the tree with both kinds of reference."""
    policy = model.make_policy(shape)
    model.adapt(policy, model.dpo_settings(shape))
    sides = {
        "plain": plain(policy, pairs, shape),
        ONLINE: make(policy, pairs, cached=False, shape=shape),
        CACHED: make(policy, pairs, cached=True, shape=shape),
    }
    ids = [pair.id for pair in pairs]
    counts = {}
    for name, side in sides.items():
        micros = side.micro_batches(ids)
        counts[name] = count_flops(lambda s=side, m=micros: s.backward(m, len(ids))) / len(ids)
        side.optimizer.zero_grad()
    return counts


def run(
    *,
    rounds: int = 5,
    python: str = sys.executable,
    shape: model.Shape = model.MID,
    short: int = 1,
    threads: int = 1,
    sets: Sequence[tuple[str, int, int]] = SETS,
) -> dict[str, dict[str, float]]:
    """Every set of pairs; returns the ratios to trl's best settings by set and variant."""
    ratios = {}
    for title, images, questions in sets:
        pairs = model.preferences(images, questions, seed=images, short=short)
        with tempfile.TemporaryDirectory() as folder:
            ratios[title] = _compare(title, pairs, Path(folder), python, shape, rounds, threads)
    return ratios


def _compare(
    title: str,
    pairs: Sequence[Preference],
    folder: Path,
    python: str,
    shape: model.Shape,
    rounds: int,
    threads: int,
) -> dict[str, float]:
    policy = model.make_policy(shape)
    write_base(policy, folder)
    model.adapt(policy, model.dpo_settings(shape))
    write_pairs(policy, pairs, folder)
    ours = {
        ONLINE: make(policy, pairs, cached=False, shape=shape),
        CACHED: make(policy, pairs, cached=True, shape=shape),
    }
    ids = [pair.id for pair in pairs]
    with Peer(python, folder, threads=threads) as peer:
        asked = {DEFAULT: "default", BEST: "best"}
        _show_facts(title, {
            BEST: peer.ask("facts", "best", ids),
            **{n: o.facts(ids) for n, o in ours.items()},
        })  # fmt: skip
        measures = {
            **{n: Measured(**peer.ask("measure", s, ids)) for n, s in asked.items()},
            **{n: measure(lambda o=o: o.step(ids), o.scorer.parameters()) for n, o in ours.items()},
        }
        runs: dict[str, Callable[[], float]] = {
            **{n: lambda s=s: peer.ask("step", s, ids)["seconds"] for n, s in asked.items()},
            **{n: lambda o=o: cpu_seconds(lambda: o.step(ids)) for n, o in ours.items()},
        }
        seconds = interleave(runs, rounds, warm_up=False)  # measuring was one
    return _show_results(title, seconds, measures, len(ids))


def _show_facts(title: str, facts: dict[str, dict[str, float]]) -> None:
    names = list(next(iter(facts.values())))
    rows = [
        [side, *(v if isinstance(v, int) else f"{v:.4f}" for v in values.values())]
        for side, values in facts.items()
    ]
    show(f"the same work: {title}, before the first step", ["", *names], rows)


def _show_results(
    title: str,
    seconds: dict[str, list[float]],
    measures: dict[str, Measured],
    num: int,
) -> dict[str, float]:
    rows = []
    for name, taken in seconds.items():
        found, best = measures[name], measures[BEST]
        rows.append(
            [
                name,
                sorted(taken)[len(taken) // 2] / num,
                times(ratio(seconds[DEFAULT], taken)),
                times(ratio(seconds[BEST], taken)),
                found.flops / num / 1e9,
                times(best.flops / found.flops),
                megabytes(found.saved / num),
                times(best.saved / found.saved),
                megabytes(found.peak),
            ]
        )
    show(
        title,
        ["", "CPU s a pair", "faster than defaults", "faster than best", "GFLOP a pair",
         "fewer than best", "kept for backward, a pair", "less than best", "peak of a step"],
        rows,
    )  # fmt: skip
    return {name: ratio(seconds[BEST], taken) for name, taken in seconds.items()}

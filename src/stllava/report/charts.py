"""Which figures a run gets, from its records."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from stllava.report.compare import Estimate
from stllava.report.figures import SIZE, Draw, Picture, curve, dots, model_color, save
from stllava.report.judge_figures import Figure
from stllava.report.load import Evaluation, Reader
from stllava.report.measures import METRICS

Models = Sequence[tuple[Evaluation, Mapping[str, Estimate]]]


class Charts:
    """Draws into RUN/figures; a figure without data is not drawn, and an old one removed."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self.folder = reader.path / "figures"

    def _save(self, name: str, caption: str, draw: Draw | None, **size: Any) -> list[Picture]:
        if draw is not None:
            return [save(self.folder, name, caption, draw, **size)]
        (self.folder / f"{name}.png").unlink(missing_ok=True)
        return []

    def training(self) -> list[Picture]:
        """Losses and rewards over the steps of both stages."""
        sft = self.reader.objects("sft/metrics.jsonl")
        dpo = self.reader.objects("dpo/metrics.jsonl")
        of_sft, of_dpo = f"{len(sft):,} steps of stage 1", f"{len(dpo):,} steps of stage 2"
        parts = {"loss": "all", "loss/answer": "answers", "loss/question": "questions"}
        both = {"loss": "all", "loss/dpo": "DPO (eq. 1)", "loss/nll": "NLL of chosen"}
        margins = {"rewards/margins": "chosen − rejected (β log-ratio)"}
        share = {"rewards/accuracies": "chosen above rejected"}
        return [
            *self._save(
                "sft-loss",
                f"Nats per learned token, {of_sft}; what the asker and the assistant learn.",
                curve("Stage 1: loss", sft, parts),
            ),
            *self._save(
                "dpo-loss",
                f"Nats, {of_dpo}; the DPO term starts at ln 2 = 0.693.",
                curve("Stage 2: loss", dpo, both),
            ),
            *self._save(
                "dpo-margins",
                f"Mean reward margin of a batch, {of_dpo}; 0 at the start.",
                curve("Stage 2: rewards/margins", dpo, margins),
            ),
            *self._save(
                "dpo-accuracies",
                f"Share of pairs with a positive margin, {of_dpo}; on training pairs.",
                curve("Stage 2: rewards/accuracies", dpo, share),
            ),
        ]

    def results(self, models: Models) -> list[Picture]:
        """A dot and its interval per model, one figure a metric; then answer lengths."""
        found = []
        height = 0.8 + 0.24 * len(models)
        for metric in METRICS:
            n = sorted({e[metric.key].num_items for _, e in models if metric.key in e})
            caption = f"n = {' / '.join(map(str, n))} questions; bars: 95 % intervals."
            name = f"metric-{metric.key.replace('_', '-')}"
            draw = dots(metric.key, models)
            found += self._save(name, caption, draw, size=(SIZE[0], height))
        lengths = {
            evaluation.key: (evaluation.label, [i.answer_words for i in evaluation.items])
            for evaluation, _ in models
            if evaluation.key in ("sft", "dpo")
        }
        n = [len(words) for _, words in lengths.values()]
        caption = f"n = {' / '.join(map(str, n))} answers to the test questions."
        return [*found, *self._save("answer-length", caption, _lengths(lengths))]

    def judged(self, figures: Iterable[Figure]) -> list[Picture]:
        """Verdict states, the scores given, margins, habits."""
        return [
            picture
            for name, caption, draw, height in figures
            for picture in self._save(name, caption, draw, size=(SIZE[0], height))
        ]


def _lengths(lengths: Mapping[str, tuple[str, Sequence[int]]]) -> Draw | None:
    """Answer lengths before and after stage 2, as shares, so that unequal n compare."""
    if not any(words for _, words in lengths.values()):
        return None
    every = [n for _, words in lengths.values() for n in words]
    top = max(4, int(np.percentile(every, 99.5)))
    width = -(-(top + 1) // 30)  # whole words, at most 30 bars
    edges = np.arange(-0.5, top + width + 0.5, width)

    def draw(axes: Any) -> None:
        for key, (label, words) in lengths.items():
            clipped = np.minimum(words, top)
            weights = np.full(len(words), 100 / max(1, len(words)))
            color = model_color(key)
            style = {"weights": weights, "color": color}
            axes.hist(clipped, edges, histtype="stepfilled", alpha=0.18, **style)
            mean = f"{label}, mean {np.mean(words):.1f}"
            axes.hist(clipped, edges, histtype="step", linewidth=1.5, label=mean, **style)
        axes.set_title("Answer length before and after stage 2")
        axes.set_xlabel(f"words ({top} or more in the last bar)")
        axes.set_ylabel("% of answers")
        axes.grid(axis="y")
        axes.set_ylim(top=1.35 * axes.get_ylim()[1])  # room for the legend
        axes.legend(loc="upper left")

    return draw

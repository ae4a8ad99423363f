"""The four ways to score an answer: ours, and three that reproduce published numbers.

`measure` scores one answer; everything that sums up (means, intervals, tables) is the same for
all modes.
"""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from stllava.metrics import llavamed
from stllava.metrics.closed import gold_options, is_correct, verdict
from stllava.metrics.text import overlap_of, words
from stllava.records import VQASample

Mode = Literal["corrected", "llavamed", "llavamed-batch", "llavamed-prefix"]

MODES: dict[Mode, str] = {
    "corrected": "clipped word overlap, true exact match, verdicts instead of substrings",
    "llavamed": "LLaVA-Med's run_eval.py: unclipped overlap; closed: yes/no and gold as substrings",
    "llavamed-batch": "LLaVA-Med's run_eval_batch.py: closed: gold as substring; published scores",
    "llavamed-prefix": "WRONG: the older run_eval.py drops wrong yes/no answers from the mean",
}
OPEN_METRICS = ("recall", "f1", "precision", "exact")
FIRST_WORDS = (5, 10, 20)  # recall of so many words: a longer answer gains nothing
LEFT_OUT = "left_out"  # verdict of a closed answer that llavamed-prefix counts nowhere

_LABEL = re.compile(r"\s*(?:#+\s*)?(?:human|user|assistant|gpt|bot)\s*:\s*", re.IGNORECASE)
_TURN = re.compile(r"\s*(?:#+\s*)?(?:human|user)\s*:.*?(?:assistant|gpt)\s*:", re.I | re.S)
_THOUGHT = re.compile(r"\s*<think>.*?</think>", re.DOTALL)


class Measured(NamedTuple):
    """Metrics in percent, by name; `verdict` of a closed question where the mode has one."""

    metrics: dict[str, float]
    verdict: str | None = None


def recall_name(num_words: int) -> str:
    """Name of the metric: recall of an answer's first `num_words` words."""
    return f"recall_at_{num_words}"


def spoken(text: str) -> str:
    """The answer without what surrounds it: a thought, a quoted question, a speaker's label.

    LLaVA-Med's answer files say "Human:" or "Assistant:" before many answers; the reproducing
    modes count those as words, as the original does.
    """
    thought = _THOUGHT.match(text)
    text = text[thought.end() :] if thought else text
    prefix = _TURN.match(text) or _LABEL.match(text)
    return text[prefix.end() :] if prefix else text


def measure(sample: VQASample, text: str, mode: Mode = "corrected") -> Measured:
    """Score one answer. An open question gets overlaps, a closed one "accuracy" (0 or 100)."""
    text = spoken(text) if mode == "corrected" else text
    if sample.kind == "closed":
        return _closed(sample, text, mode)
    found = _corrected(sample, text) if mode == "corrected" else _lineage(sample, text)
    if mode == "llavamed-batch":  # that script's accuracy of open questions
        found["contains"] = 100.0 * llavamed.contains(text, sample.answer)
    return Measured(found)


def _closed(sample: VQASample, text: str, mode: Mode) -> Measured:
    if mode == "corrected":
        options = gold_options(sample.answer, sample.options)
        said = verdict(text, options)
        right = is_correct(said, sample.answer, options)
        return Measured({"accuracy": 100.0 * right}, said.kind)
    hit = llavamed.closed_hit(text, sample.answer, mode)
    return Measured({}, LEFT_OUT) if hit is None else Measured({"accuracy": 100.0 * hit})


def _corrected(sample: VQASample, text: str) -> dict[str, float]:
    said, wanted = words(text), words(sample.answer)
    shares = overlap_of(said, wanted)
    cut = {recall_name(k): overlap_of(said[:k], wanted).recall for k in FIRST_WORDS}
    return {name: getattr(shares, name) for name in OPEN_METRICS} | cut


def _lineage(sample: VQASample, text: str) -> dict[str, float]:
    said, wanted = llavamed.words(text), llavamed.words(sample.answer)
    shares = llavamed.overlap_of(said, wanted)
    cut = {recall_name(k): 100 * llavamed.overlap_of(said[:k], wanted).recall for k in FIRST_WORDS}
    return {name: 100 * getattr(shares, name) for name in OPEN_METRICS} | cut

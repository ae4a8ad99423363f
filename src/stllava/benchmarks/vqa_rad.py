"""VQA-RAD's official test set: 451 questions, 179 open and 272 closed, on 203 images.

Its images are not held out: 202 of the 203 also appear, with other questions, in training.
"""

from __future__ import annotations

from pathlib import Path

from stllava.benchmarks import Benchmark, as_benchmark
from stllava.sources.vqa_rad import read_questions

NAME = "vqa-rad"


def read(root: Path) -> Benchmark:
    """Read the test questions; a count that deviates from the published one is a warning."""
    return as_benchmark(NAME, read_questions(root, "test"))

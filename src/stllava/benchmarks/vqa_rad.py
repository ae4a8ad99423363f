"""VQA-RAD's official test set: 451 questions, 179 open and 272 closed, on 203 images.

Its images are not held out: 202 of the 203 also appear, with other questions, in training.
"""

from __future__ import annotations

from pathlib import Path

from stllava.benchmarks import Benchmark
from stllava.sources.vqa_rad import read_table

NAME = "vqa-rad"
NUM_OPEN, NUM_CLOSED = 179, 272


def read(root: Path) -> Benchmark:
    """Read the test questions; a count that deviates from the published one is a warning."""
    table = read_table(root)
    samples = table.split("test")
    num_open = sum(sample.kind == "open" for sample in samples)
    num_closed = len(samples) - num_open
    warnings = []
    if (num_open, num_closed) != (NUM_OPEN, NUM_CLOSED):
        warnings.append(
            f"VQA-RAD test: {num_open} open and {num_closed} closed questions, not {NUM_OPEN} and "
            f"{NUM_CLOSED}; scores are not comparable with published ones"
        )
    images = tuple(table.images[image] for image in dict.fromkeys(s.image for s in samples))
    trained_on = {sample.image for sample in table.split("train")}
    num_shared = sum(image.id in trained_on for image in images)
    if num_shared:
        warnings.append(f"VQA-RAD test: {num_shared} of {len(images)} images are also in training")
    return Benchmark(NAME, samples, images, table.repairs, tuple(warnings))

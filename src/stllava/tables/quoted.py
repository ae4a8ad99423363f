"""The paper's rows, quoted and not measured, and which of their values no count of answers gives.

Recall, F1 and closed accuracy in percent, on VQA-RAD, SLAKE and PathVQA in this order.
"""

from __future__ import annotations

import math
from typing import NamedTuple

BENCHMARKS = ("vqa-rad", "slake", "path-vqa")
NUM_CLOSED = {"vqa-rad": 272, "slake": 416, "path-vqa": 3391}  # closed test questions, annotated


class Quoted(NamedTuple):
    """One row of a table of the paper."""

    name: str
    values: tuple[float, ...]


# Zero-shot on the three benchmarks; all with 7B language models but GPT-4o.
TABLE_2 = (
    Quoted("GPT-4o", (51.60, 9.23, 63.97, 59.06, 8.90, 71.63, 24.14, 3.29, 75.97)),
    Quoted("LLaVA-v1.5", (23.63, 9.53, 50.74, 35.23, 8.84, 52.16, 11.85, 2.73, 52.76)),
    Quoted("SQ-LLaVA", (23.91, 6.29, 52.57, 40.04, 9.65, 57.45, 11.24, 2.63, 53.73)),
    Quoted("Med-Flamingo", (10.32, 10.37, 52.21, 8.46, 7.67, 37.02, 1.23, 1.24, 45.59)),
    Quoted("PMC-VQA", (6.26, 5.68, 41.54, 7.29, 6.92, 33.89, 1.02, 1.01, 40.10)),
    Quoted("LLaVA-Med", (32.68, 8.65, 59.56, 40.84, 8.21, 46.88, 12.03, 2.47, 55.23)),
    Quoted("STLLaVA-Med w/o DPO", (33.81, 10.37, 59.16, 40.13, 10.97, 55.53, 10.38, 2.68, 52.05)),
    Quoted("STLLaVA-Med", (37.12, 10.83, 60.35, 46.69, 11.46, 57.69, 11.92, 2.72, 52.90)),
)
# Fine-tuned on Med-IM and the training parts of the three.
TABLE_4 = (
    Quoted("LLaVA-v1.5", (43.44, 36.41, 70.59, 52.76, 46.98, 64.18, 35.91, 35.47, 91.15)),
    Quoted("STLLaVA-Med w/o DPO", (52.07, 45.38, 75.74, 56.10, 50.77, 67.31, 38.05, 37.76, 92.13)),
    Quoted("STLLaVA-Med", (52.60, 45.92, 76.10, 57.37, 50.84, 67.31, 38.30, 38.00, 92.13)),
)
TABLES = {2: TABLE_2, 4: TABLE_4}


def is_possible(percent: float, n: int, decimals: int = 2) -> bool:
    """Whether some k of n, in percent, rounds (or is cut) to this value: the GRIM test.

    Brown and Heathers 2017, doi:10.1177/1948550616673876.
    """
    scale = 10**decimals
    wanted = round(percent * scale)
    nearest = percent * n / 100
    for k in (math.floor(nearest), math.ceil(nearest)):
        share = 100 * scale * k / n
        if wanted in (math.floor(share + 0.5), math.floor(share + 1e-9)):
            return True
    return False

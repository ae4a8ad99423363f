"""How much memory a training stage will need, and how much it took.

`estimate` runs the stage's own step on tensors without values and counts bytes; nothing of the
model is allocated, so it says the same of 7B on a laptop. docs/memory.md explains its parts.
"""

from stllava.training.memory.load import largest_micro_batch, picture_of, typical_micro_batch
from stllava.training.memory.measured import Meter, said
from stllava.training.memory.plan import MemoryPlan, estimate, gib
from stllava.training.memory.sketch import Speaker

__all__ = [
    "MemoryPlan",
    "Meter",
    "Speaker",
    "estimate",
    "gib",
    "largest_micro_batch",
    "picture_of",
    "said",
    "typical_micro_batch",
]

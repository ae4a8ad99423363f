"""One rank of trainings on toys, run by test_ranks with the environment that accelerate gives.

usage: two_ranks.py FOLDER
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import stages
import toy
from safetensors.torch import save_file

RECORDS = 9  # of a last step with a single record, so that one rank has none
FAST = {"lr_llm": 1e-2, "lr_vit": 1e-2, "lr_projector": 1e-2}
CASES = {
    "sft": {**FAST, "max_tokens": 50},
    "dpo": {**FAST, "reference": "online"},
}


def train(folder: Path) -> None:
    """Train every case; write the weights and counts that this rank ends with."""
    rank = os.environ.get("RANK", "0")
    for kind, fields in CASES.items():
        make_settings, make_objective = stages.OBJECTIVES[kind]
        settings = make_settings(**fields)
        policy = toy.adapted(settings)
        objective = make_objective(policy, settings, RECORDS)
        output = folder / kind / "trainer"
        counts = stages.run_training(policy, objective, settings, output)
        save_file(stages.trained_tensors(policy), str(folder / kind / f"{rank}.safetensors"))
        (folder / kind / f"{rank}.json").write_text(json.dumps(counts))


if __name__ == "__main__":
    train(Path(sys.argv[1]))

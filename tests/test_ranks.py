"""Two processes, gradients averaged by DDP over gloo, train what one process trains."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import stages
import toy
import two_ranks
from safetensors.torch import load_file

from stllava.training.plan import plan_micro_batches, plan_steps

KINDS = list(two_ranks.CASES)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def launch(rank, port, folder):
    env = {
        **os.environ,
        "ACCELERATE_USE_CPU": "true",
        "WORLD_SIZE": "2",
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    command = [sys.executable, two_ranks.__file__, str(folder)]
    return subprocess.Popen(command, env=env, stderr=subprocess.PIPE, text=True)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process made, and what two made together."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    port = free_port()
    ranks = [launch(rank, port, two) for rank in range(2)]
    two_ranks.train(one)
    for rank in ranks:
        _, said = rank.communicate(timeout=300)
        assert rank.returncode == 0, said[-3000:]
    return one, two


@pytest.mark.parametrize("kind", KINDS)
def test_two_ranks_train_the_weights_of_one(kind, folders):
    one, two = (folder / kind for folder in folders)
    alone = load_file(one / "0.safetensors")
    start = stages.trained_tensors(toy.adapted(stages.OBJECTIVES[kind][0]()))
    for rank in range(2):
        together = load_file(two / f"{rank}.safetensors")
        assert together.keys() == alone.keys()
        for name, expected in alone.items():
            assert (together[name] - expected).abs().max() < 1e-5, name
            assert (start[name] - expected).abs().max() > 1e-3, name


@pytest.mark.parametrize("kind", KINDS)
def test_figures_and_counts_are_those_of_all_ranks(kind, folders):
    one, two = (folder / kind for folder in folders)
    lines = [
        [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        for folder in (one, two)
    ]
    assert [line["step"] for line in lines[1]] == [1, 2, 3]
    for alone, together in zip(*lines, strict=True):
        assert together == pytest.approx(alone, rel=1e-4, abs=1e-5)
    counts = [json.loads((two / f"{rank}.json").read_text()) for rank in range(2)]
    assert counts == [json.loads((one / "0.json").read_text())] * 2
    assert counts[0]["cut"] > 0 or kind == "dpo"


@pytest.mark.parametrize("kind", KINDS)
def test_in_the_last_step_one_of_the_two_had_nothing_to_do(kind):
    settings = stages.OBJECTIVES[kind][0](**two_ranks.CASES[kind])
    objective = stages.OBJECTIVES[kind][1](toy.adapted(settings), settings, two_ranks.RECORDS)
    plan = plan_steps(objective.ids, batch_size=4, epochs=1, seed=5, image_of=objective.image_of)
    examples = [objective.example(*record) for record in plan[-1].records]
    shares = [plan_micro_batches(examples, budget=100, rank=r, world=2) for r in range(2)]
    assert sorted(map(len, shares)) == [0, 1]


def test_a_checkpoint_keeps_the_random_state_of_every_rank(folders):
    names = {path.name for path in Path(folders[1]).glob("*/trainer/checkpoint-3/*")}
    assert {"trainable.safetensors", "rng_state_0.pth", "rng_state_1.pth"} <= names

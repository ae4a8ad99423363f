"""A conversation with the peer process: write what it needs into a folder, ask, read seconds."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import model
from stllava.policy.policy import Policy
from stllava.records import Preference

ROOT = Path(__file__).parent.parent


class Peer:
    """trl in a process of its own, under `python`. Use as a context manager."""

    def __init__(self, python: str, folder: Path, *, micro: int = 1, threads: int = 1) -> None:
        options = {"folder": str(folder), "micro": micro, "threads": threads}
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_VERBOSITY": "error"}
        self.process = subprocess.Popen(
            [python, "-m", "benchmarks.peer_trl", json.dumps(options)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Peer:
        return self

    def __exit__(self, *_: object) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.close()
        self.process.wait()
        self.process.stdout.close()

    def ask(self, do: str, setting: str, ids: Sequence[str]) -> dict[str, Any]:
        """One question, one answer; the peer works while this process waits."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        line = json.dumps({"do": do, "setting": setting, "pairs": list(ids)})
        print(line, file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit("the peer process ended; its message is above")
        reply: dict[str, Any] = json.loads(answer)
        return reply


def write_base(policy: Policy, folder: Path) -> None:
    """Before adapters: weights, tokenizer, image processor."""
    policy.save(folder)


def write_pairs(policy: Policy, pairs: Sequence[Preference], folder: Path) -> None:
    """The adapter, and the pairs as the texts that trl tokenises; images as lossless files."""
    policy.model.save_pretrained(folder / "adapter")
    images = folder / "images"
    images.mkdir(exist_ok=True)
    for name in {pair.image for pair in pairs}:
        model.open_image(name).save(images / f"{name}.png")
    form = policy.format
    rows = {
        pair.id: {
            "file": f"{pair.image}.png",
            "prompt": f"{form.system}<image>\n{form.user} {pair.question}{form.assistant}",
            "chosen": f" {pair.chosen.text} {form.end}",
            "rejected": f" {pair.rejected.text} {form.end}",
        }
        for pair in pairs
    }
    (folder / "pairs.json").write_text(json.dumps(rows))

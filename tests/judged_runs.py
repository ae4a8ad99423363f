"""Run directories with answers to judge, and a process that judges them and can be killed."""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path

from PIL import Image as PILImage

from stllava.config import Recipe
from stllava.generation.endpoint import caller
from stllava.pipeline import Job
from stllava.pipeline.judging.stage import judge
from stllava.recipe import load_recipe
from stllava.records import Answers, Draw, Image, Verdict
from stllava.run import Run

SENTINEL = "sk-sentinel-9d22e1"


def answered(path: Path, num_pairs: int) -> None:
    """A run with one picture and so many questions, each with two answers."""
    (path / "pictures").mkdir(parents=True)
    PILImage.new("RGB", (24, 16), (9, 9, 9)).save(path / "pictures" / "a.png")
    with Run(path) as run:
        stage = run.stage("prepare")
        stage.begin(inputs=[], settings={"image_roots": {"data": "pictures"}})
        record = {"id": "a", "path": "a.png", "sha256": "0", "width": 24, "height": 16}
        stage.append("images.jsonl", Image(**record, group="a", source="folder"))
        stage.finish()
        stage = run.stage("answer")
        stage.begin(inputs=[], settings={})
        for n in range(num_pairs):
            stage.append("answers.jsonl", two_answers(f"a/q{n}"))
        stage.finish()


def two_answers(name: str) -> Answers:
    draws = [Draw(request_id=name, index=i, text=f"{word} of {name}") for i, word in WORDS]
    return Answers(id=name, image="a", question=f"Where is {name}?", draws=tuple(draws))


WORDS = ((0, "Left"), (1, "Right"))


def recipe(url: str, *overrides: str) -> Recipe:
    plain = ("judge.rubric=paper", "judge.repair=false", "judge.model=m", "model.path=x")
    return load_recipe("improved", [f"judge.base_url={url}", *plain, *overrides])


def judge_run(path: Path, url: str, *overrides: str) -> None:
    """The stage with short waits; also the whole life of a process."""
    os.environ |= {"OPENAI_API_KEY": SENTINEL, "NO_PROXY": "127.0.0.1"}
    caller.wait_s = lambda attempt, asked_s, chance: (asked_s or 0.0) + 0.01 * chance.random()
    with Run(path) as run:
        judge(Job(run, recipe(url, *overrides)))


def calls_of(path: Path) -> list[tuple[object, ...]]:
    """The ledger's calls without times, by key."""
    columns = "key, ask, status, request_id, request, reply, usage, nano_usd, model_returned"
    with sqlite3.connect(path / "judge" / "ledger.sqlite") as db:
        return db.execute(f"SELECT {columns} FROM calls ORDER BY key, ask").fetchall()


def verdicts_of(path: Path) -> list[Verdict]:
    """In the order of the file, without times."""
    found = Run(path).stage("judge").read("verdicts.jsonl", Verdict)
    return [verdict.model_copy(update={"time": ""}) for verdict in found]

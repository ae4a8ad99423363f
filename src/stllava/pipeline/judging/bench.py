"""Competence before spending: the recipe's judge on pairs whose better answer is known.

Each judge and set of pairs has a folder of its own, judge/bench/HASH: settings that change nothing
for a judge find what was measured, several judges can be compared, and a stopped one goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from stllava.errors import JudgeError, RecipeError
from stllava.files import disk_errors, read_json, utc_now, write_json
from stllava.judging.bench.pairs import PAIR, BenchPair, bench_pairs
from stllava.judging.bench.read import known_answers, read_pair_file
from stllava.judging.bench.score import bench_score, shortfall
from stllava.judging.bench.words import has_tables
from stllava.judging.bench.wrong import Known
from stllava.judging.pairing import Pair
from stllava.judging.states import UNSAID
from stllava.pipeline.job import Job
from stllava.pipeline.judging import calls, judges
from stllava.pipeline.judging.asking import opened_judge, settings_of
from stllava.records import Answers, Conversation, Image, JSONObject, Verdict
from stllava.stage import Stage

RESULT = "bench.json"


@dataclass(frozen=True)
class BenchJob(Job):
    """A job whose images are those of a file of pairs; they are opened as they are."""

    files: Mapping[str, Path] = field(default_factory=dict)

    @cached_property
    def images(self) -> dict[str, Image]:
        return {
            name: Image(
                id=name, path=file.name, sha256="", width=0, height=0, group=name, source="bench"
            )
            for name, file in self.files.items()
        }  # fmt: skip

    def image_path(self, image_id: str) -> Path:
        return self.files[image_id]


def require_competence(job: Job) -> None:
    """Measure the judge and stop if its accuracy is not shown to reach judge.min_accuracy.

    The lower end of the interval has to, and to be above what is right without the image: that few
    pairs went well is no competence. Raises JudgeError; what was measured stays in judge/bench.
    """
    wanted = job.recipe.judge.min_accuracy
    if wanted is None or job.recipe.judge.kind == "expert":
        return
    found = bench(job)
    short, percent = shortfall(found, wanted), found["accuracy"]["percent"]
    if short is None:
        job.reporter.note(f"{_said(found)}: above judge.min_accuracy")
        return
    floor = max(100 * wanted, found["text_only"]["percent"] or 0.0)
    close = percent is not None and percent >= floor
    remedy = "raise judge.bench_pairs for a narrower interval, or " if close else ""
    raise JudgeError(
        f"{_said(found)}; {short}, so nothing was judged: {remedy}take a better judge, "
        "--set judge.kind=reference, or label pairs yourself (`stllava review`)"
    )


def _said(found: JSONObject) -> str:
    accuracy = found["accuracy"]
    if accuracy["percent"] is None:
        states = ", ".join(f"{n} {state}" for state, n in found["states"].items())
        return f"judge {found['judge']}: judged none of {found['pairs']} known pairs ({states})"
    low, high = accuracy["clustered"]
    return (
        f"judge {found['judge']}: right on {accuracy['percent']:.1f} % of {found['judged']} known "
        f"pairs (95 % interval {low:.1f} to {high:.1f})"
    )


def bench(job: Job) -> JSONObject:
    """Measure the recipe's judge; what was measured before is read. See `bench_score` for fields.

    Raises JudgeError if there is nothing to measure it on, or if calls failed or were not paid.
    """
    pairs, known, job = _pairs(job)
    stage = _stage(job, pairs)
    found: JSONObject
    if (stage.path / RESULT).is_file():
        found = read_json(stage.path / RESULT)
        if "text_only" in found:
            return found
        told = stage.read("verdicts.jsonl", Verdict)  # an older version counted less from these
        return bench_score(pairs, told, known=known) | found
    stage.begin(inputs=[], settings=settings_of(job), by_id=True)
    with disk_errors(stage.path):
        text = "".join(pair.model_dump_json() + "\n" for pair in pairs)
        (stage.path / "pairs.jsonl").write_text(text, encoding="utf-8")
    verdicts = _verdicts(job, stage, pairs)
    found = {
        "judge": "jury" if job.recipe.judge.jury else judges.judge_name(job),
        "rubric": job.recipe.judge.rubric,
        "orders": job.recipe.judge.orders,
        "time": utc_now(),
        **bench_score(pairs, verdicts, known=known),
    }
    missing = sum(found["states"].get(state, 0) for state in UNSAID)
    if missing > job.recipe.judge.max_failed * len(pairs) or "budget_stopped" in found["states"]:
        raise JudgeError(
            f"{stage.path}: {missing} of {len(pairs)} pairs got no reply; repeat the command"
        )
    write_json(stage.path / RESULT, found)
    stage.finish(pairs=len(pairs), judged=found["judged"], accuracy=found["accuracy"]["percent"])
    return read_json(stage.path / RESULT)


def _pairs(job: Job) -> tuple[list[BenchPair], list[Known], Job]:
    """The pairs, what else is known (nothing with a file of pairs), and the job with their images.

    Blank views are no part of a bench, nor are batches: its result is waited for.
    """
    section = job.recipe.judge
    jury = {name: one.model_copy(update={"batch": None}) for name, one in section.jury.items()}
    alone = {"batch": None, "jury": jury}
    recipe = job.recipe.model_copy(
        update={"judge": section.model_copy(update={**alone, "blank_share": 0.0})}
    )
    job = replace(job, recipe=recipe)
    if section.bench_file is not None:
        root = Path(section.bench_images) if section.bench_images else None
        found = read_pair_file(Path(section.bench_file), root)
        fields = {name: getattr(job, name) for name in Job.__dataclass_fields__}
        return found.pairs[: section.bench_pairs], [], BenchJob(**fields, files=found.images)
    file = job.file("prepare", "conversations.jsonl")
    talks = job.stage("prepare").read(file.name, Conversation) if file.is_file() else []
    groups = {name: image.group for name, image in job.images.items()}
    known = known_answers(talks, groups)
    pairs = bench_pairs(known, section.bench_pairs, seed=job.recipe.seed)
    if not has_tables(item.question for item in known):
        job.reporter.note(
            "known answers are neither in English nor in Chinese: no pairs of yes and no, sides, "
            "modalities and sizes, only of numbers and other patients' answers"
        )
    if not pairs:
        raise RecipeError(
            f"{file}: no two known answers to measure a judge on; name pairs with "
            "judge.bench_file, or do without judge.min_accuracy"
        )
    return pairs, known, job


def _stage(job: Job, pairs: list[BenchPair]) -> Stage:
    asked = [settings_of(job), [pair.model_dump() for pair in pairs]]
    name = hashlib.sha256(json.dumps(asked).encode()).hexdigest()[:12]
    return job.stage(f"judge/bench/{name}")


def _verdicts(job: Job, stage: Stage, pairs: list[BenchPair]) -> list[Verdict]:
    """All verdicts; those on disk are not asked for again."""

    def items() -> Iterator[tuple[Answers, Pair]]:
        for pair in pairs:
            yield pair.answers, PAIR

    stage.create("verdicts.jsonl")
    done = calls.drop_passing(stage.path / "verdicts.jsonl")
    job.reporter.stage("judge bench", len(pairs))
    with opened_judge(job, items, stage=stage, done=done) as views:
        try:
            for verdict in views.image.judge(items(), done=done):
                stage.append("verdicts.jsonl", verdict)
        finally:
            stage.flush()
            stage.close()
    job.reporter.advance(len(pairs), len(pairs))
    return stage.read("verdicts.jsonl", Verdict)

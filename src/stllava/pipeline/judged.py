"""judge and prefer: pairs of answers get verdicts, clear verdicts become training pairs."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from urllib.parse import urlsplit

from stllava.errors import JudgeError, RunError
from stllava.files import write_json
from stllava.generation.protocol import Generator, Sampling
from stllava.judging.pairing import pairs
from stllava.judging.prefer import prefer as make_preferences
from stllava.judging.protocol import Judge, ModelJudge
from stllava.phantom.oracle import OracleGenerator
from stllava.phantom.truth import read_truth
from stllava.pipeline.job import Job
from stllava.records import Answers, Verdict

FLUSH_S = 2.0  # paid replies are on disk at the latest after so many seconds


def judge(job: Job) -> None:
    """Write verdicts.jsonl, record by record; what is there is not asked for again."""
    stage = job.stage("judge")
    settings = job.recipe.judge.model_dump(
        mode="json", exclude={"concurrency", "timeout_s", "max_tries", "key_file", "api_key_env"}
    )
    if job.recipe.judge.kind == "phantom":
        settings["accuracy"] = job.recipe.phantom.judge_accuracy
    settings["seed"] = job.recipe.seed
    inputs = [job.file("answer", "answers.jsonl")]
    if not stage.begin(inputs=inputs, settings=settings, by_id=True):
        return
    every = job.stage("answer").read("answers.jsonl", Answers)
    items = [(a, pair) for a in every for pair in pairs(a, job.recipe.judge.pairing)]
    orders = 2 if job.recipe.judge.orders == "both" else 1
    file = stage.path / "verdicts.jsonl"
    said = stage.read("verdicts.jsonl", Verdict) if file.is_file() else []
    done = {v.id for v in said if v.state != "transport_failed"}  # a failed call is no verdict
    job.reporter.stage("judge", len(items) * orders)
    flushed = time.monotonic()
    for number, verdict in enumerate(_judge(job).judge(items, done=done), start=len(done) + 1):
        stage.append("verdicts.jsonl", verdict)
        if time.monotonic() - flushed > FLUSH_S:
            stage.flush()
            flushed = time.monotonic()
        job.reporter.advance(number, len(items) * orders)
    stage.flush()
    states = Counter(v.state for v in stage.read("verdicts.jsonl", Verdict)) if items else {}
    stage.finish(pairs=len(items), verdicts=sum(states.values()), states=dict(states))


def _judge(job: Job) -> Judge:
    section = job.recipe.judge
    sampling = Sampling(temperature=section.temperature, seed=job.recipe.seed)
    return ModelJudge(
        _generator(job),
        name="phantom" if section.kind == "phantom" else section.model,
        orders=section.orders,
        sampling=sampling,
        max_tokens=section.max_tokens,
    )


def _generator(job: Job) -> Generator:
    section = job.recipe.judge
    if section.kind == "phantom":
        if job.recipe.data.source != "phantom":
            raise JudgeError("judge.kind: phantom knows drawn images only; set judge.kind=openai")
        truth = read_truth(job.file("prepare", "truth.jsonl"))
        return OracleGenerator(truth, accuracy=job.recipe.phantom.judge_accuracy)
    if not (_is_local(section.base_url) or section.images_are_deidentified):
        raise JudgeError(
            f"judge {section.model}: images would leave this machine; if they are de-identified, "
            "say so with --set judge.images_are_deidentified=true"
        )
    from stllava.generation.endpoint import EndpointGenerator  # its client loads slowly

    return EndpointGenerator(
        section.base_url,
        section.model,
        api_key_env=section.api_key_env,
        key_file=Path(section.key_file) if section.key_file else None,
        image_path=job.image_path,
        timeout_s=section.timeout_s,
        max_tries=section.max_tries,
        concurrency=section.concurrency,
    )


def _is_local(base_url: str | None) -> bool:
    host = urlsplit(base_url or "").hostname or ""
    return host in ("localhost", "::1") or host.startswith("127.")


def prefer(job: Job) -> None:
    """Write preferences.jsonl: a pure function of answers, verdicts and the recipe's section."""
    stage = job.stage("prefer")
    inputs = [job.file("answer", "answers.jsonl"), job.file("judge", "verdicts.jsonl")]
    settings = {**job.recipe.prefer.model_dump(mode="json"), "seed": job.recipe.seed}
    if not stage.begin(inputs=inputs, settings=settings):
        return
    job.reporter.stage("prefer", 1)
    result = make_preferences(
        job.stage("answer").read("answers.jsonl", Answers),
        job.stage("judge").read("verdicts.jsonl", Verdict),
        job.recipe.prefer,
        seed=job.recipe.seed,
    )
    for dropped in result.dropped:
        stage.drop(dropped)
    for preference in result.preferences:
        stage.append("preferences.jsonl", preference)
    stage.finish_unit(0)
    write_json(stage.path / "counts.json", result.counts)
    if not result.preferences:
        reasons = Counter(d.reason for d in result.dropped).most_common(1)
        why = f"; most often: {reasons[0][0]}" if reasons else ""
        raise RunError(f"{stage.path}: no preference is left to train on{why}")
    job.reporter.advance(1, 1)
    stage.finish(preferences=len(result.preferences), rules=result.counts)

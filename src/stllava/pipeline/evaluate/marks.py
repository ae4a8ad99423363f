"""The optional column of a model that reads: does an open answer mean what its reference says?

It stands beside recall and F1 and never in their place. No image is sent: the question, the
reference and the answer are. Replies are kept as they came, in eval/MODEL/BENCHMARK/judged/.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence

from stllava.config import PaidSection
from stllava.generation.protocol import CallBook
from stllava.judging.calls.budget import Plan
from stllava.metrics.interval import clustered_intervals
from stllava.pipeline import paid
from stllava.pipeline.evaluate.models import model_names
from stllava.pipeline.evaluate.payment import JUDGE, TEXTS_ONLY, paid_generator
from stllava.pipeline.evaluate.questions import Exam
from stllava.pipeline.job import Job
from stllava.pipeline.speak import GREEDY
from stllava.prompts import MARK_VERSION, mark_prompt
from stllava.records import JSONObject, Prediction, Request, Turn, VQASample
from stllava.stage import Stage

PERCENT = {"0": 0.0, "1": 50.0, "2": 100.0}  # wrong, partly right, right
MAX_TOKENS = 16
TOKEN_BYTES = 6  # more than a token of an answer that is still to come has, on average


def judged(
    job: Job,
    stage: Stage,
    samples: Sequence[VQASample],
    answers: Mapping[str, str],
    groups: Mapping[str, str],
) -> JSONObject | None:
    """Mean mark of the open answers in percent; None without a judge or an open answer.

    `answers`: question id to text; a question without one is left out. Replies that give no mark,
    and calls that failed, are counted and left out too.
    """
    section = job.recipe.eval.judge
    asked = _open(samples, answers)
    if section is None or not asked:
        return None
    _ask(job, stage, section, asked, answers)
    replies = {r.id: r for r in stage.read("replies.jsonl", Prediction)}
    marks = {s.id: mark_of(replies[s.id]) for s in asked}
    given = [(s, mark) for s in asked if (mark := marks[s.id]) is not None]
    found: JSONObject = {
        "judge": section.model,
        "n": len(given),
        "without_mark": len(asked) - len(given),
        "mean": sum(mark for _, mark in given) / len(given) if given else None,
        "ci95": None,
    }
    if given:
        intervals = clustered_intervals(
            [[mark] for _, mark in given],
            [groups.get(s.image, s.image) for s, _ in given],
            seed=job.recipe.seed,
        )
        found["ci95"] = list(intervals[0]) if intervals else None
    return found


def _ask(
    job: Job,
    stage: Stage,
    section: PaidSection,
    asked: Sequence[VQASample],
    answers: Mapping[str, str],
) -> None:
    units = job.units(asked, lambda sample: sample.image)
    settings = {"model": section.model, "base_url": section.base_url, "prompt": MARK_VERSION}
    inputs = [stage.path.parent / "image" / "predictions.jsonl"]
    if not stage.begin(inputs=inputs, settings=settings, num_units=len(units)):
        return
    job.reporter.stage(f"eval {stage.path.parent.parent.name} (judged)", len(asked))
    done = sum(map(len, units[: stage.next_unit]))
    with paid_generator(job, section, JUDGE, TEXTS_ONLY) as generator:
        for number in range(stage.next_unit, len(units)):
            for draw in generator.generate(_requests(units[number], answers), GREEDY):
                reply = Prediction(id=draw.request_id, text=draw.text, finish=draw.finish)
                stage.append("replies.jsonl", reply)
            stage.finish_unit(number)
            done += len(units[number])
            job.reporter.advance(done, len(asked))
    stage.finish(questions=len(asked))


def _open(samples: Sequence[VQASample], answers: Container[str]) -> list[VQASample]:
    return [sample for sample in samples if sample.kind == "open" and sample.id in answers]


def _requests(samples: Sequence[VQASample], answers: Mapping[str, str]) -> list[Request]:
    return [
        Request(
            id=sample.id,
            image="",
            turns=(Turn(question=mark_prompt(sample.question, sample.answer, answers[sample.id])),),
            max_tokens=MAX_TOKENS,
        )
        for sample in samples
    ]


def plan(job: Job, exams: Sequence[Exam], book: CallBook | None) -> Plan:
    """What the judge would still be sent. Answers that are not there yet count as the longest."""
    section = job.recipe.eval.judge
    assert section is not None
    counting = paid.counting(section, TEXTS_ONLY, book, where=JUDGE)
    for model in model_names(job):
        for exam in exams:
            place = f"eval/{model}/{exam.name}"
            if job.stage(f"{place}/judged").complete:
                continue
            answers = _said(job.stage(f"{place}/image"), model, exam, job.recipe.eval.max_tokens)
            for _ in counting.generate(_requests(_open(exam.samples, answers), answers), GREEDY):
                pass
    return counting.plan


def _said(stage: Stage, model: str, exam: Exam, max_tokens: int) -> dict[str, str]:
    """Question id to answer; to words of their number where nobody has answered yet."""
    if stage.complete:
        predictions = stage.read("predictions.jsonl", Prediction)
        return {p.id: p.text for p in predictions if p.finish != "error"}
    size = TOKEN_BYTES * max_tokens
    return {s.id: f"{model}/{s.id}".ljust(size, "x")[-size:] for s in exam.samples}


def mark_of(reply: Prediction) -> float | None:
    """The mark in percent; None for a refusal, a failed call, or a reply that names no one mark."""
    if reply.finish not in ("stop", "length"):
        return None
    numbers = set(re.findall(r"(?<![\d.])\d+(?![\d.]*\d)", reply.text))
    return PERCENT.get(numbers.pop()) if len(numbers) == 1 else None

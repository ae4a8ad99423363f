"""The whole method, stage by stage: read this first.

Every stage is a function from records in the run directory to records or a checkpoint in it; a
stage that is complete is skipped, one that was killed goes on where it was.
"""

from __future__ import annotations

from stllava.pipeline.answer import answer
from stllava.pipeline.ask import ask
from stllava.pipeline.evaluate import evaluate
from stllava.pipeline.job import Job, Reporter
from stllava.pipeline.judging.stage import judge
from stllava.pipeline.preferred import prefer
from stllava.pipeline.prepare import prepare
from stllava.pipeline.train import dpo, sft

__all__ = [
    "STAGES", "Job", "Reporter", "answer", "ask", "dpo", "evaluate", "judge", "prefer", "prepare",
    "run_controls", "self_train", "sft",
]  # fmt: skip


def self_train(job: Job) -> None:
    """Section 2 of the paper, start to end: learn to answer and ask, prefer, align, evaluate."""
    _ = job.base_path, list(job.controls())  # a mistake is said before anything is computed
    prepare(job)  # images, conversations, splits, benchmark questions
    sft(job)  # stage 1: a policy that asks and answers
    if not job.has_pairs:  # unless others made them
        ask(job)  # stage 2: it asks about images,
        answer(job)  # answers each question several times,
        judge(job)  # a judge compares the answers,
    prefer(job)  # clear verdicts become pairs,
    dpo(job)  # and the policy is aligned to them
    evaluate(job)


def run_controls(job: Job) -> None:
    """Stage 2 again with the recipe's controls: what else could explain its gain?"""
    for control in job.controls():
        judge(control)
        prefer(control)
        dpo(control)
        evaluate(control)


STAGES = {
    "prepare": prepare,
    "sft": sft,
    "ask": ask,
    "answer": answer,
    "judge": judge,
    "prefer": prefer,
    "dpo": dpo,
    "eval": evaluate,
}

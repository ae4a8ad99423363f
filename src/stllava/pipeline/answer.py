"""answer: the policy answers each of its questions several times."""

from __future__ import annotations

from stllava.pipeline.job import Job
from stllava.pipeline.speak import by_request, policy_generator, sampling_of
from stllava.records import Answers, Question, Request, Turn


def answer(job: Job) -> None:
    """Write answers.jsonl: n draws for every question, with token ids and raw log-probabilities."""
    settings, stage = job.recipe.answer, job.stage("answer")
    questions = job.stage("ask").read("questions.jsonl", Question)
    units = job.units(questions, lambda question: question.image)
    inputs = [job.file("ask", "questions.jsonl"), job.checkpoint("sft")]
    plan = {**settings.model_dump(), "seed": job.recipe.seed}
    plan.update(job.batching)
    if not stage.begin(inputs=inputs, settings=plan, num_units=len(units)):
        return
    job.reporter.stage("answer", len(questions))
    generator = policy_generator(job, "sft")
    sampling = sampling_of(settings, job.recipe.seed)
    done = sum(map(len, units[: stage.next_unit]))
    for number in range(stage.next_unit, len(units)):
        requests = [
            Request(
                id=q.id,
                image=q.image,
                turns=(Turn(question=q.question),),
                num_draws=settings.draws,
                max_tokens=settings.max_tokens,
            )
            for q in units[number]
        ]
        grouped = by_request(generator.generate(requests, sampling))
        for question, (_, draws) in zip(units[number], grouped, strict=True):
            record = Answers(
                id=question.id,
                image=question.image,
                question=question.question,
                draws=tuple(draws),
            )
            stage.append("answers.jsonl", record)
        stage.finish_unit(number)
        done += len(units[number])
        job.reporter.advance(done, len(questions))
    drawn = [d for a in stage.read("answers.jsonl", Answers) for d in a.draws]
    stage.finish(
        questions=len(questions), draws=len(drawn), cut_off=sum(d.finish != "stop" for d in drawn)
    )

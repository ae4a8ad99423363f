"""ask and answer: the policy asks about images, then answers each question several times."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import groupby, pairwise

from stllava.config import SamplingSection
from stllava.errors import RunError
from stllava.generation.protocol import Generator, Sampling
from stllava.judging.pairing import normalise
from stllava.phantom.claims import answerable, read_question
from stllava.phantom.truth import read_truth
from stllava.phantom.vocab import MEDICAL
from stllava.pipeline.job import Job
from stllava.prompts import DESCRIBE
from stllava.records import (
    Answers,
    Conversation,
    Draw,
    Dropped,
    Image,
    Question,
    Request,
    Split,
    Turn,
)
from stllava.seeds import rng_for
from stllava.stage import Stage

GREEDY = Sampling()


def ask(job: Job) -> None:
    """Write questions.jsonl: what the stage-1 policy asks about images, as the asker."""
    settings, stage = job.recipe.ask, job.stage("ask")
    images = _images_to_ask_about(job)
    units = job.units(images, lambda image: image.id)
    inputs = [job.file("prepare", "images.jsonl"), job.file("sft", "checkpoint")]
    plan = {**settings.model_dump(), "seed": job.recipe.seed, "images": len(images)}
    plan.update(job.batching)
    if not stage.begin(inputs=inputs, settings=plan, num_units=len(units)):
        return
    job.reporter.stage("ask", len(images))
    generator = policy_generator(job, "sft")
    for number in range(stage.next_unit, len(units)):
        _ask_unit(job, stage, generator, units[number])
        stage.finish_unit(number)
        job.reporter.advance(min((number + 1) * job.recipe.unit_images, len(images)), len(images))
    if not (stage.path / "questions.jsonl").is_file():
        raise RunError(
            f"{stage.path}: no question is left, {stage.num_dropped} were dropped (dropped.jsonl "
            "says why); train sft for longer or change the recipe's ask section"
        )
    questions = stage.read("questions.jsonl", Question)
    stage.finish(images=len(images), questions=len(questions), **question_figures(job, questions))


def policy_generator(job: Job, model: str) -> Generator:
    """A policy of this run as a Generator."""
    policy = job.load(model)
    from stllava.generation.hf import PolicyGenerator  # needs torch

    return PolicyGenerator(policy, job.open_image, name=model, **job.batching)


def _images_to_ask_about(job: Job) -> list[Image]:
    """A seeded sample of the training images, in id order."""
    prepared = job.stage("prepare")
    training = {s.image for s in prepared.read("splits.jsonl", Split) if s.split == "train"}
    if job.recipe.data.ask_about == "unlabelled" and prepared.summary["conversations"]:
        conversations = prepared.read("conversations.jsonl", Conversation)
        training -= {conversation.image for conversation in conversations}
    names = sorted(training)
    wanted = job.recipe.data.preference_images
    if wanted < len(names):
        order = rng_for("preference images", job.recipe.seed).permutation(len(names))
        names = sorted(names[i] for i in order[:wanted])
    return [job.images[name] for name in names]


def _ask_unit(job: Job, stage: Stage, generator: Generator, images: Sequence[Image]) -> None:
    settings = job.recipe.ask
    primed: dict[str, tuple[Turn, ...]] = {image.id: () for image in images}
    if settings.describe_first:  # as the released script primes the asker
        prompt = settings.describe_prompt or DESCRIBE
        requests = [
            Request(
                id=f"{image.id}/description",
                image=image.id,
                turns=(Turn(question=prompt),),
                max_tokens=settings.max_tokens,
            )
            for image in images
        ]
        for request, said in zip(requests, generator.generate(requests, GREEDY), strict=True):
            turn = Turn(question=prompt, answer=said.text, answer_ids=said.token_ids)
            primed[request.image] = (turn,)
    requests = [
        Request(
            id=f"{image.id}/q",
            image=image.id,
            turns=primed[image.id],
            speaker="asker",
            num_draws=settings.questions_per_image,
            max_tokens=settings.max_tokens,
        )
        for image in images
    ]
    draws = generator.generate(requests, sampling_of(settings, job.recipe.seed))
    for request, (_, group) in zip(requests, _by_request(draws), strict=True):
        _keep_questions(job, stage, request.image, list(group))


def sampling_of(settings: SamplingSection, seed: int) -> Sampling:
    """The recipe's sampling with the run's seed."""
    return Sampling(
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, seed=seed
    )


def _by_request(draws: Iterator[Draw]) -> Iterator[tuple[str, Iterator[Draw]]]:
    return groupby(draws, key=lambda draw: draw.request_id)


def _keep_questions(job: Job, stage: Stage, image: str, draws: Sequence[Draw]) -> None:
    seen: set[str] = set()
    for draw in draws:
        question_id = f"{image}/q{draw.index}"
        text = normalise(draw.text)
        reason = None
        if draw.finish != "stop":
            reason = "cut off by max_tokens"
        elif not text:
            reason = "empty question"
        elif text in seen and job.recipe.ask.unique:
            reason = "the same question was asked about this image already"
        if reason is not None:
            stage.drop(Dropped(id=question_id, stage="ask", reason=reason))
            continue
        seen.add(text)
        question = Question(id=question_id, image=image, question=draw.text, asked_by="sft")
        stage.append("questions.jsonl", question)


def question_figures(job: Job, questions: Sequence[Question]) -> dict[str, float | int]:
    """Variety of the questions, in percent; on phantoms also how many make sense."""
    if not questions:
        return {}
    texts = [question.question for question in questions]
    words = [text.lower().split() for text in texts]
    pairs = Counter(pair for w in words for pair in pairwise(w))
    figures: dict[str, float | int] = {
        "distinct": len(set(map(normalise, texts))),
        "distinct_2": round(100 * len(pairs) / max(1, sum(pairs.values())), 1),
    }
    if job.recipe.data.source == "phantom":
        truth = read_truth(job.file("prepare", "truth.jsonl"))
        formed = [read_question(text, MEDICAL) is not None for text in texts]
        sensible = [answerable(q.question, truth[q.image], MEDICAL) for q in questions]
        figures["well_formed"] = round(100 * sum(formed) / len(formed), 1)
        figures["answerable"] = round(100 * sum(sensible) / len(sensible), 1)
    return figures


def answer(job: Job) -> None:
    """Write answers.jsonl: n draws for every question, with token ids and raw log-probabilities."""
    settings, stage = job.recipe.answer, job.stage("answer")
    questions = job.stage("ask").read("questions.jsonl", Question)
    units = job.units(questions, lambda question: question.image)
    inputs = [job.file("ask", "questions.jsonl"), job.file("sft", "checkpoint")]
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
        grouped = _by_request(generator.generate(requests, sampling))
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

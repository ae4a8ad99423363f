"""ask: the policy asks about images, as the asker or, where it never learned to, told to ask."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from stllava.errors import RunError
from stllava.files import read_json, write_json
from stllava.generation.protocol import Generator
from stllava.judging.pairing import normalise
from stllava.phantom.claims import answerable, read_question
from stllava.phantom.truth import read_truth
from stllava.phantom.vocab import MEDICAL
from stllava.pipeline.job import Job
from stllava.pipeline.speak import GREEDY, by_request, policy_generator, sampling_of
from stllava.prompts import ASK, DESCRIBE
from stllava.records import Conversation, Draw, Dropped, Image, Question, Request, Split, Turn
from stllava.sources.sample import sample_images
from stllava.stage import Stage

Speaker = Literal["assistant", "asker"]


def ask(job: Job) -> None:
    """Write questions.jsonl: what the stage-1 policy asks about images."""
    settings, stage = job.recipe.ask, job.stage("ask")
    images = _images_to_ask_about(job)
    units = job.units(images, lambda image: image.id)
    inputs = [job.file("prepare", "images.jsonl"), job.checkpoint("sft")]
    plan = {**settings.model_dump(), "seed": job.recipe.seed, "images": len(images)}
    plan.update(job.batching)
    if not stage.begin(inputs=inputs, settings=plan, num_units=len(units)):
        return
    write_json(stage.path / "images.json", [image.id for image in images])  # which were sampled
    job.reporter.stage("ask", len(images))
    generator = policy_generator(job, "sft")
    speaker = _speaker(job)
    job.reporter.note(f"asked by the {speaker}" + (", told to" if speaker == "assistant" else ""))
    for number in range(stage.next_unit, len(units)):
        _ask_unit(job, stage, generator, units[number], speaker)
        stage.finish_unit(number)
        job.reporter.advance(min((number + 1) * job.recipe.unit_images, len(images)), len(images))
    if not (stage.path / "questions.jsonl").is_file():
        raise RunError(
            f"{stage.path}: no question is left, {stage.num_dropped} were dropped (dropped.jsonl "
            "says why); train sft for longer or change the recipe's ask section"
        )
    questions = stage.read("questions.jsonl", Question)
    stage.finish(images=len(images), questions=len(questions), **question_figures(job, questions))


def _images_to_ask_about(job: Job) -> list[Image]:
    """A seeded sample of the training images, stratified by source, in id order."""
    prepared = job.stage("prepare")
    training = {s.image for s in prepared.read("splits.jsonl", Split) if s.split == "train"}
    if job.recipe.data.ask_about == "unlabelled" and prepared.summary["conversations"]:
        conversations = prepared.read("conversations.jsonl", Conversation)
        training -= {conversation.image for conversation in conversations}
    sources = {name: job.images[name].source for name in training}
    wanted = job.recipe.data.preference_images
    return [job.images[n] for n in sample_images(sources, wanted, job.recipe.seed, sources)]


def _speaker(job: Job) -> Speaker:
    """Who asks: the asker's role where the policy learned it, else the assistant, told to ask."""
    wanted = job.recipe.ask.speaker
    if wanted != "auto":
        return wanted
    if not job.skips_sft:
        return "asker"
    card = job.base_path / "stllava.json"
    said = read_json(card) if card.is_file() else {}
    learned = "chat_format" in said and not said.get("asker_untrained")
    return "asker" if learned else "assistant"


def _ask_unit(
    job: Job, stage: Stage, generator: Generator, images: Sequence[Image], speaker: Speaker
) -> None:
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
            turns=primed[image.id] + (() if speaker == "asker" else (Turn(question=ASK),)),
            speaker=speaker,
            num_draws=settings.questions_per_image,
            max_tokens=settings.max_tokens,
        )
        for image in images
    ]
    draws = generator.generate(requests, sampling_of(settings, job.recipe.seed))
    for request, (_, group) in zip(requests, by_request(draws), strict=True):
        _keep_questions(job, stage, request.image, list(group))


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

"""eval: checkpoints answer the held-out questions, greedily, and are scored from ground truth."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from stllava.config import Recipe
from stllava.errors import DataError
from stllava.files import write_json
from stllava.metrics.blind import blind_baselines
from stllava.metrics.scores import score_all, summarise
from stllava.phantom.measure import measure_items
from stllava.phantom.truth import read_truth
from stllava.pipeline.job import Job
from stllava.pipeline.speak import GREEDY, policy_generator
from stllava.records import Conversation, Item, Prediction, Request, Turn, VQASample


def evaluate(job: Job) -> None:
    """Write predictions, items and scores of every model under eval/MODEL/BENCHMARK/image/."""
    if job.recipe.eval.benchmark == "none":
        return
    samples = _samples(job)
    models = ("dpo",) if job.control else job.recipe.eval.models
    for model in models:
        _evaluate(job, model, samples)
    if not job.control:
        train = job.stage("prepare").path / "conversations.jsonl"
        conversations = _read_conversations(job) if train.is_file() else []
        known = [(t.question, t.answer or "") for c in conversations for t in c.turns]
        path = job.stage("eval").path
        write_json(path / "blind.json", blind_baselines(samples, known))


def _read_conversations(job: Job) -> list[Conversation]:
    return job.stage("prepare").read("conversations.jsonl", Conversation)


def eval_stage(recipe: Recipe, model: str) -> str:
    """Path of one evaluation inside a run."""
    benchmark: str = recipe.eval.benchmark
    if benchmark == "phantom":
        benchmark = f"phantom-{recipe.phantom.split}"
    return f"eval/{model}/{benchmark}/image"


def _samples(job: Job) -> list[VQASample]:
    every = job.stage("prepare").read("samples.jsonl", VQASample)
    split = job.recipe.phantom.split if job.recipe.eval.benchmark == "phantom" else "test"
    samples = [sample for sample in every if sample.split == split][: job.recipe.eval.limit]
    if not samples:
        raise DataError(f"eval: no {split} question; see prepare/samples.jsonl")
    return samples


def _evaluate(job: Job, model: str, samples: Sequence[VQASample]) -> None:
    stage = job.stage(eval_stage(job.recipe, model))
    units = job.units(samples, lambda sample: sample.image)
    settings = {
        **job.recipe.eval.model_dump(mode="json", exclude={"models"}),
        **job.batching,
    }
    inputs = [job.file("prepare", "samples.jsonl"), job.checkpoint(model)]
    if not stage.begin(inputs=inputs, settings=settings, num_units=len(units)):
        return
    job.reporter.stage(f"eval {model}", len(samples))
    generator = policy_generator(job, model)
    done = sum(map(len, units[: stage.next_unit]))
    for number in range(stage.next_unit, len(units)):
        requests = [
            Request(
                id=sample.id,
                image=sample.image,
                turns=(Turn(question=sample.question),),
                max_tokens=job.recipe.eval.max_tokens,
            )
            for sample in units[number]
        ]
        for draw in generator.generate(requests, GREEDY):
            prediction = Prediction(
                id=draw.request_id,
                text=draw.text,
                finish=draw.finish,
                num_tokens=len(draw.token_ids or ()),
            )
            stage.append("predictions.jsonl", prediction)
        stage.finish_unit(number)
        done += len(units[number])
        job.reporter.advance(done, len(samples))
    predictions = stage.read("predictions.jsonl", Prediction)
    items = list(_items(job, samples, predictions))
    for item in items:
        stage.append("items.jsonl", item)
    stage.flush()
    scores = summarise(items, seed=job.recipe.seed)
    write_json(stage.path / "scores.json", {"benchmark": job.recipe.eval.benchmark, **scores})
    stage.finish(questions=len(items), missing=scores["missing"])


def _items(
    job: Job, samples: Sequence[VQASample], predictions: Sequence[Prediction]
) -> Iterator[Item]:
    groups = {image.id: image.group for image in job.images.values()}
    items = score_all(samples, predictions, groups)
    if job.recipe.eval.benchmark != "phantom":
        return iter(items)
    truth = read_truth(job.file("prepare", "truth.jsonl"))
    return measure_items(items, samples, predictions, truth)

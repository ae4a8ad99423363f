"""eval: models answer the held-out questions greedily, and are scored from ground truth.

Models times benchmarks times views, each a stage of its own under eval/MODEL/BENCHMARK/VIEW.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from stllava.benchmarks.pope import pope_figures
from stllava.files import read_json, write_json
from stllava.metrics.blind import blind_baselines
from stllava.metrics.modes import Mode
from stllava.metrics.scores import score_sheet
from stllava.phantom.measure import measure_items
from stllava.phantom.truth import read_truth
from stllava.pipeline.evaluate import marks, payment, questions
from stllava.pipeline.evaluate.grounding import Answered, deltas
from stllava.pipeline.evaluate.models import Candidate, candidates, check_endpoints
from stllava.pipeline.evaluate.questions import Exam, exams
from stllava.pipeline.evaluate.views import View, requests, views
from stllava.pipeline.job import Job
from stllava.pipeline.speak import GREEDY
from stllava.records import Conversation, Draw, Item, JSONObject, Prediction, VQASample
from stllava.stage import Stage
from stllava.tables import PAPER_BENCHMARKS, write_tables

__all__ = ["estimate", "evaluate"]

PUBLISHED: Mode = "llavamed-batch"


def evaluate(job: Job) -> None:
    """Write predictions, items and scores of every model, benchmark and view; then the table."""
    if not _is_asked_for(job):
        return
    evaluation = _Evaluation(job)
    payment.agree(job, evaluation.exams, partial(marks.plan, job, evaluation.exams))
    for candidate in candidates(job):
        for exam in evaluation.exams:
            evaluation.examine(candidate, exam)
    if not job.control:
        first = evaluation.exams[0]
        write_json(job.stage("eval").path / "blind.json", evaluation.blind(first.samples))
    write_tables(job.run.path)


def estimate(job: Job) -> list[str]:
    """What endpoints would be sent and what it would cost, in words; sends and writes nothing."""
    if not _is_asked_for(job):
        return []
    asked = exams(job)
    return payment.lines(job, asked, partial(marks.plan, job, asked))


def _is_asked_for(job: Job) -> bool:
    """Whether there is a benchmark. Raises RecipeError for what could not be carried out."""
    questions.check(job.recipe)
    check_endpoints(job.recipe)
    return job.recipe.eval.benchmark != "none" or bool(job.recipe.eval.also)


class _Evaluation:
    """What all models of a job have in common, read once."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.exams = exams(job)

    @cached_property
    def groups(self) -> dict[str, str]:
        return {image.id: image.group for image in self.job.images.values()}

    @cached_property
    def leaked(self) -> set[str]:
        """Ids of questions that training has seen in some form."""
        file = self.job.stage("prepare").path / "leaks.json"
        return set(read_json(file)) if file.is_file() else set()

    @cached_property
    def training_pairs(self) -> list[tuple[str, str]]:
        prepared = self.job.stage("prepare")
        if not (prepared.path / "conversations.jsonl").is_file():
            return []
        conversations = prepared.read("conversations.jsonl", Conversation)
        return [(t.question, t.answer or "") for c in conversations for t in c.turns]

    def blind(self, samples: Sequence[VQASample]) -> JSONObject:
        return blind_baselines(samples, self.training_pairs)

    def examine(self, candidate: Candidate, exam: Exam) -> None:
        """All views of one model on one benchmark; the deltas go beside the score."""
        answered: dict[str, Answered] = {}
        for view in views(self.job, exam):
            stage = self.job.stage(f"eval/{candidate.name}/{exam.name}/{view.name}")
            self._answer(stage, candidate, exam, view)
            answered[view.name] = Answered(
                stage.read("items.jsonl", Item), stage.read("predictions.jsonl", Prediction)
            )
        place = f"eval/{candidate.name}/{exam.name}"
        file = self.job.stage(f"{place}/image").path / "scores.json"
        said = {p.id: p.text for p in answered["image"].predictions if p.finish != "error"}
        stage = self.job.stage(f"{place}/judged")
        scores = {
            **read_json(file),
            **deltas(answered, seed=self.job.recipe.seed),
            "judged": marks.judged(self.job, stage, exam.samples, said, self.groups),
        }
        write_json(file, scores)
        self.job.reporter.note(_line(scores))

    def _answer(self, stage: Stage, candidate: Candidate, exam: Exam, view: View) -> None:
        """One stage: the answers of one model to one view of a benchmark, scored."""
        job = self.job
        units = job.units(view.samples, lambda sample: sample.image)
        settings = {**_settings(job, exam, view), **candidate.settings}
        inputs = [job.file("prepare", "samples.jsonl"), *candidate.inputs]
        if not stage.begin(inputs=inputs, settings=settings, num_units=len(units)):
            return
        what = candidate.name if view.name == "image" else f"{candidate.name} ({view.name})"
        job.reporter.stage(f"eval {what} on {exam.name}", len(view.samples))
        done = sum(map(len, units[: stage.next_unit]))
        with candidate.opened(view) as generator:
            for number in range(stage.next_unit, len(units)):
                asked = requests(exam, units[number], job.recipe.eval.max_tokens)
                for draw in generator.generate(asked, GREEDY):
                    stage.append("predictions.jsonl", _prediction(draw))
                stage.finish_unit(number)
                done += len(units[number])
                job.reporter.advance(done, len(view.samples))
        self._score(stage, candidate, exam, view)

    def _score(self, stage: Stage, candidate: Candidate, exam: Exam, view: View) -> None:
        """Items and scores; the reference answers are those of the questions as they are given."""
        wanted = {sample.id for sample in view.samples}
        samples = [sample for sample in exam.samples if sample.id in wanted]
        predictions = stage.read("predictions.jsonl", Prediction)
        seed = self.job.recipe.seed
        sheet = score_sheet(samples, predictions, self.groups, leaked=self.leaked, seed=seed)
        items = sheet.items
        if exam.benchmark == "phantom":
            truth = read_truth(self.job.file("prepare", "truth.jsonl"))
            items = list(measure_items(items, samples, predictions, truth))
        for item in items:
            stage.append("items.jsonl", item)
        stage.flush()
        said = {"model": candidate.name, **_settings(self.job, exam, view), **sheet.scores}
        if view.name == "image":
            said["blind_baselines"] = self.blind(samples)
            if exam.benchmark in PAPER_BENCHMARKS:
                said["as_published"] = self._as_published(samples, predictions)
            if exam.benchmark == "pope":
                said["pope"] = pope_figures(samples, items)
        write_json(stage.path / "scores.json", said)
        stage.finish(questions=len(items), missing=said["missing"])

    def _as_published(
        self, samples: Sequence[VQASample], predictions: Sequence[Prediction]
    ) -> JSONObject:
        """The rule behind the published scores, so that quoted rows have something beside them."""
        seed = self.job.recipe.seed
        scores = score_sheet(samples, predictions, self.groups, mode=PUBLISHED, seed=seed).scores
        return {
            **{key: scores[key] for key in ("mode", "open", "closed")},
            "blind_baselines": blind_baselines(samples, self.training_pairs, mode=PUBLISHED),
        }


def _line(scores: JSONObject) -> str:
    """The score with its wording, and what the image is worth, in one line."""
    figures = [
        f"{label} {scores[part][metric]:.1f}"
        for label, part, metric in (
            ("recall", "open", "recall"),
            ("F1", "open", "f1"),
            ("closed", "closed", "accuracy"),
        )
        if scores[part][metric] is not None
    ]
    for view, found in scores["grounding"].items():
        for label, metric in (("recall", "recall"), ("closed", "accuracy")):
            if metric in found["metrics"]:
                figures.append(f"{label} image − {view} {found['metrics'][metric]['delta']:+.1f}")
    where = f"{scores['model']} on {scores['benchmark']} (prompt {scores['prompt']})"
    return f"{where}: {', '.join(figures) or 'nothing answered'}"


def _settings(job: Job, exam: Exam, view: View) -> dict[str, Any]:
    """What decides the answers besides model and questions; printed beside every score."""
    section = job.recipe.eval
    return {
        "benchmark": exam.name,
        "view": view.name,
        "prompt": exam.prompt,
        "decoding": "greedy",
        "max_tokens": section.max_tokens,
        "limit": section.limit,
        "num_questions": len(view.samples),
        "seed": job.recipe.seed,
    }


def _prediction(draw: Draw) -> Prediction:
    num_tokens = None if draw.token_ids is None else len(draw.token_ids)
    if num_tokens is None and draw.usage is not None:
        num_tokens = draw.usage.completion_tokens
    return Prediction(id=draw.request_id, text=draw.text, finish=draw.finish, num_tokens=num_tokens)

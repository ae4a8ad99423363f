"""Scoring a file of answers against a benchmark, from the files to the score sheets."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from stllava.benchmarks import Benchmark
from stllava.benchmarks.open import read_benchmark
from stllava.checks.report import QUESTION_LEAKS
from stllava.config import BenchmarkSection
from stllava.errors import DataError
from stllava.metrics.blind import blind_baselines
from stllava.metrics.interval import NUM_RESAMPLES
from stllava.metrics.modes import Mode
from stllava.metrics.predictions.forms import Answer, read_answers, single_object
from stllava.metrics.predictions.join import By, is_chinese, join, own_id
from stllava.metrics.scores import Sheet, score_sheet
from stllava.reading import Entry, json
from stllava.records import JSONObject, Prediction, VQASample

WITH_TRAINING = ("vqa-rad", "slake", "path-vqa")  # data sets that bring a training split


class Answered(NamedTuple):
    """A benchmark and one model's answers to it, joined."""

    benchmark: Benchmark
    predictions: list[Prediction]
    joined_by: str
    train_pairs: list[tuple[str, str]]  # questions and answers of the training split, if at hand
    leaked: frozenset[str]  # ids of questions or images
    warnings: tuple[str, ...]


def read_answered(
    section: BenchmarkSection,
    path: Path,
    *,
    field: str | None = None,
    by: By = "id",
    only_language: bool = False,
    leaks: Path | None = None,
) -> Answered:
    """Read both files and join them; `only_language` drops answers in other languages.

    Raises DataError in one line for whatever does not fit (see predictions.join).
    """
    benchmark = read_benchmark(section, images=False)
    if not benchmark.samples:
        raise DataError(f"{section.file or section.root}: no {section.split} question in it")
    answers = read_answers(path, field=field)
    warnings = list(benchmark.warnings)
    if only_language:
        kept = _same_language(benchmark.samples, answers)
        if len(kept) < len(answers):
            warnings.append(f"{len(answers) - len(kept)} predictions in another language left out")
        answers = kept
    joined = join(benchmark.samples, answers, form=section.benchmark, by=by)
    leaked = read_leaks(leaks, benchmark.samples, section.benchmark) if leaks else frozenset()
    return Answered(
        benchmark,
        joined.predictions,
        joined.by,
        _train_pairs(section),
        leaked,
        (*warnings, *joined.warnings),
    )


def score_answered(
    answered: Answered, mode: Mode, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES
) -> Sheet:
    """Score by one mode. `scores` holds what scores.json does, with the blind baselines."""
    samples = answered.benchmark.samples
    sheet = score_sheet(
        samples,
        answered.predictions,
        answered.benchmark.groups,
        mode=mode,
        leaked=answered.leaked,
        seed=seed,
        num_resamples=num_resamples,
    )
    scores: JSONObject = {
        "benchmark": answered.benchmark.name,
        **sheet.scores,
        "blind_baselines": blind_baselines(samples, answered.train_pairs, mode=mode),
        "joined_by": answered.joined_by,
        "warnings": list(answered.warnings),
    }
    return Sheet(sheet.items, scores)


def read_leaks(path: Path, samples: Iterable[VQASample], form: str = "") -> frozenset[str]:
    """Ids of leaked questions or images: the report of `data check`, or a list of ids.

    A list is JSON (ids, or objects with an id) or has one id a line. Of the report, questions
    whose answer leaked count; a picture that is also trained on does not. Raises DataError if none
    is in the benchmark.
    """
    if not path.is_file():
        raise DataError(f"{path}: no such file; name a file of leaked questions' or images' ids")
    names = _leaked_names(path)
    found = {
        known
        for sample in samples
        for known, name in (
            (sample.id, sample.id),
            (sample.id, own_id(sample.id, form)),
            (sample.image, sample.image),
        )
        if name in names
    }
    if not found:
        raise DataError(f"{path}: none of its {len(names)} ids is in the benchmark")
    return frozenset(found)


def _leaked_names(path: Path) -> set[str]:
    if path.suffix.lower() not in (".json", ".jsonl"):
        return {line.strip() for line in path.read_text(encoding="utf-8").splitlines()}
    report = single_object(path)
    if report is None:
        return {_leak_id(entry) for entry in json.read_entries(path)}
    leaks = report.get("leaks")
    if not isinstance(leaks, dict):
        raise DataError(
            f"{path}: no leaks in it; name the report of `data check`, or a list of ids"
        )
    return {name for name, kind in leaks.items() if kind in QUESTION_LEAKS}


def _leak_id(entry: Entry) -> str:
    value = entry.value
    if isinstance(value, dict):
        value = next((value[k] for k in ("id", "question_id", "qid", "image") if k in value), None)
    if entry.problem or not isinstance(value, str | int):
        raise DataError(f"{entry.place}: {entry.problem or 'no id in it'}")
    return str(value)


def _same_language(samples: Sequence[VQASample], answers: Iterable[Answer]) -> list[Answer]:
    wanted = all(is_chinese(sample.question) for sample in samples)
    return [a for a in answers if not a.question or is_chinese(a.question) == wanted]


def _train_pairs(section: BenchmarkSection) -> list[tuple[str, str]]:
    """The data set's own training questions; none where its training file is not there."""
    if section.benchmark not in WITH_TRAINING:
        return []
    try:
        train = read_benchmark(section.model_copy(update={"split": "train"}), images=False)
    except DataError:
        return []
    return [(sample.question, sample.answer) for sample in train.samples]

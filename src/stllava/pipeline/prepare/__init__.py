"""prepare: data in any form become images, conversations, splits and benchmark questions."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stllava.checks import QUESTION_LEAKS, Sign, write_report
from stllava.checks.run import check_run
from stllava.config import BenchmarkSection, Recipe
from stllava.errors import RecipeError
from stllava.files import write_json
from stllava.pipeline.job import Job
from stllava.pipeline.prepare.drawn import draw_world
from stllava.pipeline.prepare.gather import Gathered, gather
from stllava.pipeline.prepare.places import benchmark_sections, image_roots, places
from stllava.pipeline.prepare.write import write_records
from stllava.sources.sample import sample_images
from stllava.stage import Stage

LATER = {"group", "preference_images", "ask_about"}  # fields of `data` that later stages read
TABLES = frozenset({".json", ".jsonl", ".csv", ".tsv", ".parquet", ".pkl", ".yaml"})


def prepare(job: Job) -> None:
    """Write images.jsonl, conversations.jsonl, samples.jsonl, splits.jsonl and dropped.jsonl.

    And preferences.jsonl, where the recipe names pairs that others made.
    """
    recipe, stage = job.recipe, job.stage("prepare")
    is_drawn = recipe.data.source == "phantom"
    if is_drawn and recipe.data.also:
        raise RecipeError("data.also: the drawn world is not mixed with other data; leave it out")
    settings: dict[str, Any] = {
        "data": recipe.data.model_dump(mode="json", exclude=LATER),
        "benchmarks": [
            section.model_dump(mode="json", include=set(BenchmarkSection.model_fields))
            for section in benchmark_sections(recipe)
        ],
        "images": recipe.images.model_dump(mode="json", exclude={"salt_file", "salt_env"}),
        "image_roots": image_roots(recipe),
    }
    if is_drawn:
        drawn = recipe.phantom.model_dump(mode="json", exclude={"split", "judge_accuracy"})
        settings["phantom"] = drawn
    if not stage.begin(inputs=_inputs(recipe), settings=settings):
        return
    found = draw_world(job, stage) if is_drawn else gather(recipe, job.run.path)
    counts, signs = write_records(job, stage, _sampled(job, found))
    said = {
        "repairs": {name: said for name, said in found.repairs.items() if said},
        "warnings": list(found.warnings),
        "licences": {name: said for name, said in found.licences.items() if said},
    }
    stage.flush()
    findings = _check(job, stage, found, signs, said)
    stage.finish_unit(0)
    stage.finish(**counts, findings=findings, **said)


def _sampled(job: Job, found: Gathered) -> Gathered:
    """`data.sample` of the images that are not the benchmark's, and what is said about them.

    Stratified by source and, where its questions say so, by modality.
    """
    number = job.recipe.data.sample
    modality = {s.image: s.categories.get("modality", "") for s in found.training_samples}
    strata = {
        image.id: f"{image.source}/{modality.get(image.id, '')}"
        for image in found.images
        if image.part == "train"
    }
    if number is None or number >= len(strata):
        return found
    kept = set(sample_images(strata, number, job.recipe.seed, strata))
    kept |= {image.id for image in found.images if image.part != "train"}
    return found._replace(
        images=tuple(image for image in found.images if image.id in kept),
        conversations=tuple(talk for talk in found.conversations if talk.image in kept),
        preferences=tuple(pair for pair in found.preferences if pair.image in kept),
        training_samples=tuple(s for s in found.training_samples if s.image in kept),
    )


def _check(
    job: Job, stage: Stage, found: Gathered, signs: Sequence[Sign], said: dict[str, Any]
) -> dict[str, int]:
    """What `stllava data check` says of the records: report.json, leaks.json, a line each."""
    pairs = stage.path / "preferences.jsonl" if found.preferences else None
    report = check_run(
        stage.path,
        preferences=pairs,
        annotated=found.training_samples,
        signs=signs,
        files_looked_at=len(found.images),
        **said,
    )
    write_report(report, stage.path)
    leaked = {name: kind for name, kind in report.leaks.items() if kind in QUESTION_LEAKS}
    write_json(stage.path / "leaks.json", leaked)
    for finding in report.findings:
        if finding.severity != "note":
            job.reporter.note(f"{finding.code}: {finding.what}")
    return dict(Counter(finding.severity for finding in report.findings))


def _inputs(recipe: Recipe) -> list[Path]:
    """The files whose content decides the records: named ones, and tables beside the images."""
    files: dict[Path, None] = {}
    for place in places(recipe):
        named = [place.section.file, place.section.mapping]
        listed = [] if _is_folder(place.section) else sorted(place.root.iterdir())
        for path in [*(Path(name) for name in named if name), *listed]:
            if path.is_file() and path.suffix.lower() in TABLES:
                files.setdefault(path.resolve())
    return list(files)


def _is_folder(section: Any) -> bool:
    return getattr(section, "source", None) == "folder"

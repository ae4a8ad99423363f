"""prepare: data in any form become images, conversations, splits and benchmark questions."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image as PILImage

from stllava import benchmarks
from stllava.benchmarks import vqa_rad as vqa_rad_benchmark
from stllava.config import PhantomSection
from stllava.errors import DataError, RecipeError
from stllava.images import inspect_image
from stllava.phantom import draw, talk, truth
from stllava.phantom.vocab import MEDICAL
from stllava.phantom.world import Phantom, sample_phantoms, stable_seed
from stllava.pipeline.job import Job
from stllava.records import Conversation, Dropped, Image, Split, Turn, VQASample
from stllava.sources import SourceData, SourceImage, folder, llava_json, vqa_rad
from stllava.stage import Stage


class Prepared(NamedTuple):
    """What a source gives, before any image was opened."""

    root: Path
    data: SourceData
    samples: Sequence[VQASample]  # benchmark questions
    test_images: Sequence[SourceImage]  # images that only the benchmark uses
    dev_images: frozenset[str] = frozenset()
    warnings: Sequence[str] = ()


def prepare(job: Job) -> None:
    """Write images.jsonl, conversations.jsonl, samples.jsonl, splits.jsonl and dropped.jsonl."""
    recipe, stage = job.recipe, job.stage("prepare")
    settings: dict[str, Any] = {
        "data": recipe.data.model_dump(mode="json", exclude={"preference_images", "ask_about"}),
        "benchmark": recipe.eval.benchmark,
    }
    if recipe.data.source == "phantom":
        drawn = recipe.phantom.model_dump(mode="json", exclude={"split", "judge_accuracy"})
        settings["phantom"] = drawn
    drawn_here = recipe.data.source == "phantom"  # then the run can be moved as a whole
    root = Path(recipe.data.root or "").resolve()
    settings["image_root"] = "prepare/images" if drawn_here else str(root)
    if not stage.begin(inputs=_inputs(job), settings=settings):
        return
    found = _phantoms(job, stage) if recipe.data.source == "phantom" else _files(job)
    counts = _write(job, stage, found)
    stage.finish_unit(0)
    stage.finish(**counts, repairs=found.data.repairs, warnings=list(found.warnings))


def _inputs(job: Job) -> list[Path]:
    data = job.recipe.data
    named = [Path(data.file)] if data.file else []
    if data.source == "vqa-rad" and data.root:
        named.append(Path(data.root) / vqa_rad.QUESTIONS)
    return [path for path in named if path.is_file()]


def _files(job: Job) -> Prepared:
    data = job.recipe.data
    if data.root is None:
        raise RecipeError("data.root: not set; give the folder with --set data.root=FOLDER")
    root = Path(data.root)
    if not root.is_dir():
        raise DataError(f"{data.root}: no such folder; set data.root to where the images are")
    if data.source == "llava":
        if data.file is None:
            raise RecipeError("data.file: not set; give the JSON of conversations")
        source = llava_json.read(Path(data.file), root)
    else:
        source = vqa_rad.read(root) if data.source == "vqa-rad" else folder.read(root)
    if job.recipe.eval.benchmark != "vqa-rad":
        return Prepared(root, source, (), ())
    test: benchmarks.Benchmark = vqa_rad_benchmark.read(root)
    known = {image.id for image in source.images}
    only = [image for image in test.images if image.id not in known]
    return Prepared(root, source, test.samples, only, warnings=test.warnings)


def _phantoms(job: Job, stage: Stage) -> Prepared:
    """Draw the phantom world and write its truth beside it (truth.jsonl: one phantom a line)."""
    world = job.recipe.phantom
    sets = {
        "train-": world.train_images,
        "pool-": world.unlabelled_images,
        "dev-": world.dev_images,
        "test-": world.test_images,
    }
    phantoms = {
        prefix: sample_phantoms(number, seed=world.world_seed, prefix=prefix)
        for prefix, number in sets.items()
    }
    every = [phantom for part in phantoms.values() for phantom in part]
    folder_path = stage.path / "images"
    folder_path.mkdir(exist_ok=True)
    job.reporter.stage("draw", len(every))
    for number, phantom in enumerate(every):
        PILImage.fromarray(draw.draw_phantom(phantom)).save(folder_path / f"{phantom.id}.png")
        job.reporter.advance(number + 1, len(every))
        stage.append("truth.jsonl", truth.to_record(phantom))
    trained = [*phantoms["train-"], *phantoms["pool-"]]
    held_out = [*phantoms["dev-"], *phantoms["test-"]]
    data = SourceData(
        images=tuple(_source_image(p) for p in trained),
        conversations=tuple(_conversation(p, world) for p in phantoms["train-"]),
        samples=(),
        repairs={},
        dropped=(),
    )
    return Prepared(
        root=folder_path,
        data=data,
        samples=[s for p in held_out for s in talk.benchmark(p, _rng(p, "test"), MEDICAL)],
        test_images=[_source_image(p) for p in held_out],
        dev_images=frozenset(p.id for p in phantoms["dev-"]),
    )


def _source_image(phantom: Phantom) -> SourceImage:
    return SourceImage(phantom.id, f"{phantom.id}.png", phantom.patient)


def _conversation(phantom: Phantom, world: PhantomSection) -> Conversation:
    turns = talk.conversation(phantom, _rng(phantom, "train"), terse=world.terse, world=MEDICAL)
    said = tuple(Turn(question=question, answer=answer) for question, answer in turns)
    return Conversation(id=f"{phantom.id}/c0", image=phantom.id, turns=said)


def _rng(phantom: Phantom, purpose: str) -> random.Random:
    return random.Random(stable_seed(purpose, phantom.id, phantom.seed))


def _write(job: Job, stage: Stage, found: Prepared) -> dict[str, int]:
    """Open every image once; what cannot be opened is dropped with all that hangs off it."""
    for name in ("images.jsonl", "conversations.jsonl", "samples.jsonl", "splits.jsonl"):
        stage.create(name)
    for dropped in found.data.dropped:
        stage.drop(dropped)
    every = [*found.data.images, *found.test_images]
    good = {image.id: image for image in _inspect(job, stage, found.root, every)}
    _refuse_too_bad(job, stage.num_dropped, len(every) + len(found.data.dropped))
    for image in good.values():
        stage.append("images.jsonl", image)
    test_only = {image.id for image in found.test_images}
    for image in good.values():
        split = "dev" if image.id in found.dev_images else "test"
        part = split if image.id in test_only else "train"
        record = {"image": image.id, "group": image.group, "split": part}
        stage.append("splits.jsonl", Split.model_validate(record))
    conversations = [c for c in found.data.conversations if c.image in good]
    for conversation in conversations:
        stage.append("conversations.jsonl", conversation)
    samples = [s for s in found.samples if s.image in good]
    for sample in samples:
        split = "dev" if sample.image in found.dev_images else "test"
        stage.append("samples.jsonl", sample.model_copy(update={"split": split}))
    uses: list[tuple[str, str]] = [(c.id, c.image) for c in found.data.conversations]
    for record_id, image_id in [*uses, *((s.id, s.image) for s in found.samples)]:
        if image_id not in good:
            stage.drop(Dropped(id=record_id, stage="prepare", reason="its image was dropped"))
    return {
        "images": len(good),
        "conversations": len(conversations),
        "turns": sum(len(c.turns) for c in conversations),
        "samples": len(samples),
    }


def _inspect(job: Job, stage: Stage, root: Path, images: Iterable[SourceImage]) -> Iterable[Image]:
    listed = list(images)
    job.reporter.stage("prepare", len(listed))
    for number, (image_id, path, group) in enumerate(listed):
        job.reporter.advance(number + 1, len(listed))
        try:
            yield inspect_image(
                path, id=image_id, root=root, group=group, source=job.recipe.data.source
            )
        except DataError as error:
            stage.drop(Dropped(id=image_id, stage="prepare", reason=str(error)))


def _refuse_too_bad(job: Job, num_bad: int, num_all: int) -> None:
    limit = job.recipe.data.max_bad
    if num_all == 0 or num_bad > limit * num_all:
        raise DataError(
            f"prepare: {num_bad} of {num_all} images and records are unusable, more than "
            f"data.max_bad={limit:g} allows; see {job.stage('prepare').path / 'dropped.jsonl'}"
        )

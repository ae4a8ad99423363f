"""The drawn world of the demo as a source and a benchmark, with its truth written beside it."""

from __future__ import annotations

import random

from PIL import Image as PILImage

from stllava.config import PhantomSection
from stllava.phantom import draw, talk, truth
from stllava.phantom.vocab import MEDICAL
from stllava.phantom.world import Phantom, sample_phantoms, stable_seed
from stllava.pipeline.job import Job
from stllava.pipeline.prepare.gather import Gathered, PlacedImage
from stllava.pipeline.prepare.places import RUN
from stllava.records import Conversation, Turn
from stllava.stage import Stage

SOURCE = "phantom"


def draw_world(job: Job, stage: Stage) -> Gathered:
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
    parts = {"train-": "train", "pool-": "train", "dev-": "dev", "test-": "test"}
    held_out = [*phantoms["dev-"], *phantoms["test-"]]
    return Gathered(
        images=tuple(_placed(p, part) for prefix, part in parts.items() for p in phantoms[prefix]),
        conversations=tuple(_conversation(p, world) for p in phantoms["train-"]),
        samples=tuple(
            sample.model_copy(update={"benchmark": SOURCE})
            for phantom in held_out
            for sample in talk.benchmark(phantom, _rng(phantom, "test"), MEDICAL)
        ),
        preferences=(),
        training_samples=(),
        dropped=(),
        repairs={},
        warnings=(),
        licences={SOURCE: "drawn here; Apache-2.0"},
    )


def _placed(phantom: Phantom, part: str) -> PlacedImage:
    path = f"prepare/images/{phantom.id}.png"
    return PlacedImage(phantom.id, path, phantom.patient, RUN, SOURCE, part)


def _conversation(phantom: Phantom, world: PhantomSection) -> Conversation:
    turns = talk.conversation(phantom, _rng(phantom, "train"), terse=world.terse, world=MEDICAL)
    said = tuple(Turn(question=question, answer=answer) for question, answer in turns)
    return Conversation(id=f"{phantom.id}/c0", image=phantom.id, turns=said)


def _rng(phantom: Phantom, purpose: str) -> random.Random:
    return random.Random(stable_seed(purpose, phantom.id, phantom.seed))

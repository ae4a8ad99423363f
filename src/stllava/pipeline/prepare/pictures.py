"""Every image of a run is opened once: its record, its 8-bit view, and signs of who is on it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from stllava.checks import Sign
from stllava.checks.look import look
from stllava.errors import DataError
from stllava.images import read_salt, resolve, store_view
from stllava.pipeline.job import Job
from stllava.pipeline.prepare.gather import PlacedImage
from stllava.pipeline.prepare.places import RUN, places
from stllava.records import Dropped, Image


class Stored(NamedTuple):
    """What became of one image."""

    placed: PlacedImage
    image: Image | Dropped
    signs: Sequence[Sign] = ()  # in the original file's header


def store_images(job: Job, images: Sequence[PlacedImage]) -> Iterator[Stored]:
    """In the order given; decoding leaves the interpreter's lock, so threads help."""
    options = job.recipe.images
    roots = {RUN: job.run.path} | {place.key: place.root for place in places(job.recipe)}
    salt = read_salt(options)
    is_drawn = job.recipe.data.source == "phantom"

    def store(placed: PlacedImage) -> Stored:
        root = roots[placed.root]
        try:
            image = store_view(
                placed.path,
                id=placed.id,
                root=root,
                group=placed.group,
                source=placed.source,
                run_root=job.run.path,
                root_key=placed.root,
                salt=salt,
                options=options,
            )
            if is_drawn:  # all drawn alike: looking nearly the same means nothing
                return Stored(placed, image.model_copy(update={"perceptual_hash": ""}))
            return Stored(placed, image, look(resolve(root, placed.path), placed.id, pixels=False))
        except DataError as error:
            reason = str(error)
            return Stored(placed, Dropped(id=placed.id, stage="prepare", reason=reason))

    job.reporter.stage("prepare", len(images))
    with ThreadPoolExecutor() as pool:
        unsalted = options.salt_file is None and options.salt_env not in os.environ
        for number, stored in enumerate(pool.map(store, images)):
            job.reporter.advance(number + 1, len(images))
            if unsalted and _is_dicom(stored):
                unsalted = False  # said once
                job.reporter.note(
                    "hashes of patients hold for this run only; to compare runs set "
                    f"images.salt_file or {options.salt_env}"
                )
            yield stored


def _is_dicom(stored: Stored) -> bool:
    return isinstance(stored.image, Image) and stored.image.mapping.startswith("dicom")

"""The same questions under other conditions: no image, another's image, other words.

What a model answers without the image it did not read from the image. `blank` fills an image of the
same size with one colour; `other` shows one of another group (patient or case) of the same
benchmark, the same one to all questions about an image, so that sharing works there too. A question
whose answer happens to be true of the other image as well makes that delta smaller, never larger.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import NamedTuple

from PIL import Image as PILImage

from stllava.pipeline.evaluate.questions import Exam
from stllava.pipeline.job import Job
from stllava.prompts import benchmark_question
from stllava.records import Image, Request, Turn, VQASample
from stllava.seeds import rng_for

# CLIP's mean colour, with which LLaVA pads: after normalisation less than 0.02 from zero.
BLANK_COLOR = (122, 116, 104)

OpenImage = Callable[[str], PILImage.Image]


class View(NamedTuple):
    """Questions, and what is shown with them."""

    name: str  # image, blank, other, shuffle, rephrase
    samples: tuple[VQASample, ...]  # as they are put: options reordered, question reworded
    shown: Mapping[str, str] = MappingProxyType(
        {}
    )  # other: image id -> id of the image in its place


def views(job: Job, exam: Exam) -> Iterator[View]:
    """The view `image` of all questions, then the others that the recipe and the questions allow.

    A control of the run is asked with its images only: it explains the run's gain, not its eyes.
    """
    yield View("image", exam.samples)
    if job.control is not None:
        return
    seed = job.recipe.seed
    kept = sampled_images(exam.samples, job.recipe.eval.grounding_images, seed)
    samples = tuple(sample for sample in exam.samples if sample.image in kept)
    if samples:
        yield View("blank", samples)
        shown = partners([job.images[image] for image in sorted(kept)], seed)
        if shown:
            yield View("other", tuple(s for s in samples if s.image in shown), shown)
        else:
            job.reporter.note(f"{exam.name}: no image of another group to show instead")
    for name in job.recipe.eval.stress:
        reworded = _shuffled(exam, seed) if name == "shuffle" else _rephrased(exam)
        if reworded:
            yield View(name, reworded)
        else:
            job.reporter.note(f"{exam.name}: no question allows {name}")


def sampled_images(samples: Sequence[VQASample], number: int | None, seed: int) -> set[str]:
    """`number` of the images by seed, or all of them."""
    names = sorted({sample.image for sample in samples})
    if number is None or number >= len(names):
        return set(names)
    order = rng_for("grounding images", seed).permutation(len(names))
    return {names[i] for i in order[:number]}


def partners(images: Sequence[Image], seed: int) -> dict[str, str]:
    """For every image one of another group and with other pixels; groups in a seeded ring.

    An image without such a partner is left out: with fewer than two groups, all of them.
    """
    members: dict[str, list[Image]] = {}
    for image in images:
        members.setdefault(image.group, []).append(image)
    names = sorted(members)
    ring = [names[i] for i in rng_for("other images", seed).permutation(len(names))]
    found: dict[str, str] = {}
    for place, group in enumerate(ring):
        for number, image in enumerate(members[group]):
            following = (members[ring[(place + step) % len(ring)]] for step in range(1, len(ring)))
            candidates = (others[number % len(others)] for others in following)
            partner = next((c for c in candidates if not _same_picture(c, image)), None)
            if partner is not None:
                found[image.id] = partner.id
    return found


def _same_picture(one: Image, other: Image) -> bool:
    if one.pixels_sha256 and other.pixels_sha256:
        return one.pixels_sha256 == other.pixels_sha256
    return one.sha256 == other.sha256


def _shuffled(exam: Exam, seed: int) -> tuple[VQASample, ...]:
    """Questions whose options are shown, with every option in another place."""
    if exam.prompt != "options":
        return ()
    return tuple(
        sample.model_copy(update={"options": _rotated(sample, seed)})
        for sample in exam.samples
        if sample.kind == "closed" and len(sample.options) > 1
    )


def _rotated(sample: VQASample, seed: int) -> tuple[str, ...]:
    by = int(rng_for("shuffle", seed, sample.id).integers(1, len(sample.options)))
    return sample.options[by:] + sample.options[:by]


def _rephrased(exam: Exam) -> tuple[VQASample, ...]:
    """Questions in the other wording that their source gives them."""
    return tuple(
        sample.model_copy(update={"question": sample.aliases[0]})
        for sample in exam.samples
        if sample.aliases
    )


def opener(job: Job, view: View) -> OpenImage:
    """What a model is shown for an image id in this view."""
    if view.name == "blank":
        return lambda name: PILImage.new(
            "RGB", (job.images[name].width, job.images[name].height), BLANK_COLOR
        )
    return lambda name: job.open_image(view.shown.get(name, name))


def requests(exam: Exam, samples: Sequence[VQASample], max_tokens: int) -> list[Request]:
    """The questions as they are put to a model."""
    return [
        Request(
            id=sample.id,
            image=sample.image,
            turns=(
                Turn(question=benchmark_question(exam.prompt, sample.question, sample.options)),
            ),
            max_tokens=max_tokens,
        )
        for sample in samples
    ]

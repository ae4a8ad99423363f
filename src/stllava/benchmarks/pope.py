"""Does a model say yes to what is not there? POPE's probes, built from SLAKE's boxes.

Li et al. 2023 (arXiv:2305.10355): yes/no questions about objects in the image and, as many, about
objects that are not; the absent ones are chosen in three ways, each a setting of its own:

- random: any absent object;
- popular: the absent ones that most images of the data set show;
- adversarial: the absent ones that most often occur together with what the image does show.

Objects here are organs and the modality. What is present and what is absent is said by
`stllava.labels.slake`, which calls an organ absent only where anatomy excludes it: a missing box
proves nothing. So adversarial probes are milder than POPE's on everyday pictures.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from stllava.benchmarks import Benchmark
from stllava.labels.slake import LICENCE, ORGANS, SIDED, slake_boxes
from stllava.records import Item, JSONObject, VQASample
from stllava.seeds import rng_for
from stllava.sources.questions import Questions
from stllava.sources.slake import image_id

NAME = "pope"
SETTINGS = ("random", "popular", "adversarial")
NUM_ORGANS = 3  # present ones asked about per image and setting, as in the paper


class Labelled(NamedTuple):
    """What is known of one image."""

    image: str
    present: frozenset[str]  # organs
    absent: frozenset[str]
    modality: str  # "" where unknown


def read(root: Path, questions: Questions) -> Benchmark:
    """Probes about the images of these SLAKE questions; popularity counts over all of `root`.

    Raises DataError if `root` holds no boxes.
    """
    known = {one.image: one for one in _labelled(root)}
    asked = [known[image] for image in questions.images if image in known]
    samples = probes(asked, list(known.values()))
    used = {sample.image for sample in samples}
    without = len(questions.images) - len(used)
    return Benchmark(
        NAME,
        samples,
        tuple(image for image in questions.images.values() if image.id in used),
        {"image without a label to probe": without} if without else {},
        (),
        root=questions.root,
        licence=LICENCE,
    )


def _labelled(root: Path) -> list[Labelled]:
    columns = {organ: organ.replace(" ", "_") for organ in ORGANS}
    return [
        Labelled(
            image_id(row["image"]),
            frozenset(o for o, c in columns.items() if row[c] not in ("", "no")),
            frozenset(o for o, c in columns.items() if row[c] == "no"),
            row["modality"],
        )
        for row in slake_boxes(root).rows
    ]


def probes(
    asked: Sequence[Labelled], known: Sequence[Labelled], *, seed: int = 0
) -> tuple[VQASample, ...]:
    """As many yes as no questions per image and setting, in the order of `asked`."""
    organs = Counter(organ for one in known for organ in one.present)
    modalities = Counter(one.modality for one in known if one.modality)
    found: list[VQASample] = []
    for one in asked:
        rng = rng_for(NAME, seed, one.image)
        size = min(NUM_ORGANS, len(one.present), len(one.absent))
        there = _pick(sorted(one.present), {}, size, rng)
        others = sorted(modalities.keys() - {one.modality}) if one.modality else []
        for setting in SETTINGS:
            shown = {"random": {}, "popular": organs, "adversarial": _together(one, known)}[setting]
            missing = _pick(sorted(one.absent), shown, size, rng)
            found += [_organ(one, organ, "yes", setting) for organ in there]
            found += [_organ(one, organ, "no", setting) for organ in missing]
            if others:
                often = {"random": {}, "popular": modalities, "adversarial": _alike(one, known)}
                [wrong] = _pick(others, often[setting], 1, rng)
                found.append(_modality(one, one.modality, "yes", setting))
                found.append(_modality(one, wrong, "no", setting))
    return tuple(found)


def _together(one: Labelled, known: Sequence[Labelled]) -> Counter[str]:
    """How many images show each organ together with any organ of this one."""
    return Counter(organ for x in known if x.present & one.present for organ in x.present)


def _alike(one: Labelled, known: Sequence[Labelled]) -> Counter[str]:
    """Modalities of the images that lack the same organs: those of the same part of the body."""
    return Counter(x.modality for x in known if x.absent == one.absent)


def _pick(names: Sequence[str], counts: Mapping[str, int], size: int, rng: Any) -> list[str]:
    """`size` names with the highest counts, ties (all, without counts) in a seeded order."""
    order = [names[i] for i in rng.permutation(len(names))]
    return sorted(order, key=lambda name: -counts.get(name, 0))[:size]


def _organ(one: Labelled, organ: str, answer: str, setting: str) -> VQASample:
    article = "a" if organ in SIDED or organ == "tooth" else "the"
    article = "an" if article == "a" and organ[0] in "aeiou" else article  # an eye, a lung
    question = f"Is {article} {organ} visible in this image?"
    return _sample(one, question, organ, answer, setting, "organ")


def _modality(one: Labelled, modality: str, answer: str, setting: str) -> VQASample:
    article = "a" if modality.startswith("C") else "an"  # a CT, an MRI, an X-Ray
    question = f"Is this {article} {modality} image?"
    return _sample(one, question, modality, answer, setting, "modality")


def _sample(
    one: Labelled, question: str, thing: str, answer: str, setting: str, about: str
) -> VQASample:
    return VQASample(
        id=f"{one.image}/pope-{setting}-{thing.lower().replace(' ', '-')}",
        image=one.image,
        question=question,
        answer=answer,
        kind="closed",
        options=("yes", "no"),
        answer_type="CLOSED",
        categories={"setting": setting, "about": about},
    )


def pope_figures(samples: Sequence[VQASample], items: Sequence[Item]) -> JSONObject:
    """Accuracy, precision, recall and F1 of "yes", and the yes-rate, per setting and over all.

    Percent; a missing answer is left out, one that is neither yes nor no is wrong and no "yes".
    """
    truth = {sample.id: sample for sample in samples}
    scored = [item for item in items if not item.missing]
    result: JSONObject = {}
    for setting in ("all", *SETTINGS):
        chosen = [
            item for item in scored if setting in ("all", truth[item.id].categories.get("setting"))
        ]
        said = np.array([item.verdict == "yes" for item in chosen], dtype=bool)
        true = np.array([truth[item.id].answer == "yes" for item in chosen], dtype=bool)
        right = [item.metrics.get("accuracy", 0.0) for item in chosen]
        if chosen:
            hits = int((said & true).sum())
            result[setting] = {
                "n": len(chosen),
                "accuracy": sum(right) / len(right),
                "precision": 100 * hits / max(1, int(said.sum())),
                "recall": 100 * hits / max(1, int(true.sum())),
                "f1": 200 * hits / max(1, int(said.sum()) + int(true.sum())),
                "yes_rate": 100 * float(said.mean()),
            }
    return result

"""What training holds of the test: its questions, its pictures, its patients.

A question leaks if training asks it about the same picture in the same words, in words the
benchmark lists as its aliases (VQA-RAD's `question_frame` and `question_rephrase`), or in similar
words with the same answer. The last is a lower bound: of the 286 test questions that VQA-RAD's
3,064-question training set restates, it finds 146; and it flags 7 of the official split's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stllava.checks.material import Asked, Material, Pictures, asked, preferred, tested
from stllava.checks.pictures import Lookalikes
from stllava.checks.report import LEAK_ORDER, Finding, LeakKind, Severity, finding
from stllava.checks.text import SIMILAR, jaccard, normal
from stllava.records import VQASample

# Share of test questions up to which a leak only warns: less than one point of a score, and a
# published split may have one (VQA-RAD's has two questions in 451). Each is flagged all the same.
MAX_LEAKED = 0.01


class Side(NamedTuple):
    """One set that is trained on."""

    name: str
    prefix: str  # of the findings' codes
    rows: Sequence[Asked]
    images: frozenset[str]  # ids: with rows, or merely in the training part


class Test(NamedTuple):
    """One benchmark."""

    name: str
    samples: Sequence[VQASample]
    rows: Sequence[Asked]  # one for each sample
    pictures: Pictures


def benchmarks(material: Material, pictures: Pictures) -> list[Test]:
    """The held-out questions, benchmark by benchmark."""
    parts: dict[str, list[VQASample]] = {}
    for sample in material.samples:
        parts.setdefault(sample.benchmark, []).append(sample)
    return [
        Test(name or "the benchmark", samples, tested(samples, pictures), pictures)
        for name, samples in parts.items()
    ]


Leaks = Mapping[LeakKind, list[str]]  # kind -> sample ids, a sample under every kind that it has


def sides(material: Material, pictures: Pictures) -> list[Side]:
    """Instruction data with all images of the training part, and preferences if there are any."""
    instructed = frozenset(conversation.image for conversation in material.conversations)
    if material.splits:
        part = {split.image for split in material.splits if split.split == "train"}
    else:
        part = set(pictures.by_id) - {sample.image for sample in material.samples}
    rows = asked(material.conversations, pictures)
    found = [Side("the training data", "", rows, instructed | part)]
    if material.preferences:
        rows = preferred(material.preferences, pictures)
        images = frozenset(preference.image for preference in material.preferences)
        found.append(Side("the preference data", "preference-", rows, images))
    return found


def leaks_between(side: Side, test: Test, near: Lookalikes) -> Leaks:
    """Which test samples leak into one training set, and how."""
    by_picture: dict[str, list[Asked]] = {}
    for row in side.rows:
        by_picture.setdefault(row.picture, []).append(row)
    trained = {test.pictures.of(image) for image in side.images}
    alike = near.between({row.picture for row in test.rows}, trained)
    groups: dict[str, set[str]] = {}
    for image in side.images:
        group = test.pictures.group(image)
        if group is not None:
            groups.setdefault(group, set()).add(test.pictures.of(image))
    found: dict[LeakKind, list[str]] = {kind: [] for kind in LEAK_ORDER}
    for sample, row in zip(test.samples, test.rows, strict=True):
        kinds = _by_text(sample, row, by_picture, alike.get(row.picture, ()))
        if row.picture in trained:
            kinds.add("image")
        if row.picture in alike:
            kinds.add("near_image")
        if groups.get(test.pictures.group(sample.image) or "", set()) - {row.picture}:
            kinds.add("group")
        for kind in kinds:
            found[kind].append(sample.id)
    return found


def _by_text(
    sample: VQASample, row: Asked, trained: Mapping[str, list[Asked]], alike: Iterable[str]
) -> set[LeakKind]:
    here = trained.get(row.picture, ())
    texts = {other.text for other in here}
    aliases = {normal(alias) for alias in sample.aliases}
    kinds: set[LeakKind] = set()
    if row.text in texts:
        kinds.add("question")
    if not aliases.isdisjoint(texts):
        kinds.add("restated")
    if any(o.answer == row.answer and jaccard(o.text, row.text) >= SIMILAR for o in here):
        kinds.add("similar")
    near = {(other.text, other.answer) for picture in alike for other in trained.get(picture, ())}
    if any((text, row.answer) in near for text in aliases | {row.text}):
        kinds.add("near_question")
    return kinds


def strongest(found: Iterable[Leaks]) -> dict[str, LeakKind]:
    """Each leaked sample's strongest kind over all training sets."""
    listed = list(found)
    leaks: dict[str, LeakKind] = {}
    for kind in LEAK_ORDER:
        for one in listed:
            for sample in one[kind]:
                leaks.setdefault(sample, kind)
    return leaks


def leak_findings(side: Side, test: Test, leaks: Leaks) -> list[Finding]:
    """The findings about one training set."""
    total = len(test.samples)
    exact = [s.id for s in test.samples if s.id in {*leaks["question"], *leaks["restated"]}]
    severity: Severity = "block" if len(exact) > MAX_LEAKED * total else "warn"
    ask = f"of {total} questions of {test.name} are asked in {side.name}"
    out = "leave them out of training, or report scores without the leaked questions, too"
    same, similar, near = (len(leaks[k]) for k in ("question", "similar", "near_question"))
    found = [
        finding(
            f"{side.prefix}leak-question", severity, exact,
            f"{len(exact)} {ask} about the same picture: {same} in the same words, "
            f"{len(leaks['restated'])} in words that the benchmark lists as theirs", out,
        ),
        finding(
            f"{side.prefix}leak-similar", "warn", leaks["similar"],
            f"{similar} {ask} about the same picture in similar words with the same answer (a "
            "lower bound: about half of the restated questions share too few words)", out,
        ),
        finding(
            f"{side.prefix}leak-near-question", "warn", leaks["near_question"],
            f"{near} {ask}, with the same answer, about a picture that looks nearly the same",
            "look at some: are these copies, or pictures of one patient?",
        ),
        *_image_findings(side, test, leaks),
    ]  # fmt: skip
    return [one for one in found if one.count]


def _image_findings(side: Side, test: Test, leaks: Leaks) -> list[Finding]:
    """As above, by image instead of question."""
    image_of = {sample.id: sample.image for sample in test.samples}
    total = len(set(image_of.values()))

    def one(kind: LeakKind, what: str, remedy: str) -> Finding:
        ids = list(dict.fromkeys(image_of[sample] for sample in leaks[kind]))
        code = f"{side.prefix}leak-{kind.replace('_', '-')}"
        return finding(
            code, "warn", ids, f"{len(ids)} of {total} images of {test.name} {what}", remedy
        )

    split = "split by patient, or say so beside every score"
    return [
        one("image", f"are also in {side.name}", split),
        one("near_image", f"look nearly like another picture in {side.name}", split),
        one("group", f"are of a patient or case of whom {side.name} has another picture", split),
    ]


def dev_findings(test: Test) -> list[Finding]:
    """Pictures and groups that choices are made on and that the test then asks about."""
    parts: dict[bool, set[str]] = {True: set(), False: set()}
    for sample in test.samples:
        parts[sample.split == "dev"].add(sample.image)
    dev = {test.pictures.of(image) for image in parts[True]}
    dev_groups = {test.pictures.group(image) for image in parts[True]} - {None}
    shared = [
        image
        for image in sorted(parts[False])
        if test.pictures.of(image) in dev or test.pictures.group(image) in dev_groups
    ]
    what = f"{len(shared)} test images of {test.name}, or others of their patient, are in the "
    what += "development set, too"
    found = finding("leak-dev", "warn", shared, what, "choose settings on other patients")
    return [found] if shared else []

"""What each image is asked: presence in balance, sides, grades, texts, and what is seen.

For every finding as many images that have it are asked about it as images that lack it. So a
yes/no question is answered by "yes" in half of the cases whatever it asks about, and words alone
say nothing about its answer.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

from stllava.labels.mapping import Columns
from stllava.labels.table import Labelled

Topic = Literal["presence", "side", "grade", "text", "seen", "modality", "view"]


class Ask(NamedTuple):
    """A question about an image; `finding` is "" where it is about all of it."""

    topic: Topic
    finding: str = ""


def asks(rows: Sequence[Labelled], columns: Columns) -> dict[str, list[Ask]]:
    """Asks of each image, in a fixed order; images of which nothing is known have none."""
    found: dict[str, list[Ask]] = {row.image.id: [] for row in rows}
    for name, finding in columns.findings.items():
        if finding.kind != "text":
            for image in _balanced(rows, name, columns.seed):
                found[image].append(Ask("presence", name))
        for row in rows:
            if name in row.values:
                found[row.image.id] += _details(row, name)
    for row in rows:
        if any(_can_be_said(row, name, columns) for name in row.values):
            found[row.image.id].append(Ask("seen"))
        found[row.image.id] += [Ask("modality")] if row.modality else []
        found[row.image.id] += [Ask("view")] if row.view else []
    return found


def _balanced(rows: Sequence[Labelled], name: str, seed: int) -> list[str]:
    """As many images with the finding as without, chosen by hash: more data change few of them."""
    by_presence: dict[bool, list[str]] = {True: [], False: []}
    for row in rows:
        if name in row.values:
            by_presence[row.values[name].present].append(row.image.id)
    number = min(map(len, by_presence.values()))
    kept = {
        image
        for images in by_presence.values()
        for image in sorted(images, key=lambda image: _luck(seed, name, image))[:number]
    }
    return [row.image.id for row in rows if row.image.id in kept]


def _luck(*key: object) -> bytes:
    return hashlib.sha256(repr(key).encode()).digest()


def _details(row: Labelled, name: str) -> list[Ask]:
    value = row.values[name]
    topics: tuple[tuple[Topic, str], ...] = (
        ("side", value.side),
        ("grade", value.grade),
        ("text", value.text),
    )
    return [Ask(topic, name) for topic, known in topics if known]


def _can_be_said(row: Labelled, name: str, columns: Columns) -> bool:
    """Whether an answer to "what is seen" may name the finding."""
    value, finding = row.values[name], columns.findings[name]
    return finding.kind != "text" and (value.present or finding.of == "finding")

"""Where images and instruction data come from: one module per form, each with a `read` function.

A source repairs what is plainly damaged and counts it, drops what it cannot use and says why, and
never opens an image: `prepare` does that for every `SourceImage`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from stllava.records import Conversation, Dropped, VQASample

STAGE = "prepare"  # of every Dropped record made here


class SourceImage(NamedTuple):
    """An image that a source refers to, before anyone opened it."""

    id: str
    path: str  # relative to the image root
    group: str  # patient or case; the image's own id where the source does not say


class SourceData(NamedTuple):
    """All that a source holds, in a stable order."""

    images: tuple[SourceImage, ...]
    conversations: tuple[Conversation, ...]
    samples: tuple[VQASample, ...]  # training questions with their annotations, where there are any
    repairs: dict[str, int]  # what was repaired, and how often
    dropped: tuple[Dropped, ...]
    root: Path | None = None  # where the image paths start; None: where `read` was told
    warnings: tuple[str, ...] = ()  # print these
    licence: str = ""  # one line: licence and its source; "" where it is not known


def image_ids(paths: Iterable[str]) -> dict[str, str]:
    """Map each path to an id: the path without its suffix, or with it where two would be equal."""
    paths = list(dict.fromkeys(paths))
    bare = {path: PurePosixPath(path).with_suffix("").as_posix() for path in paths}
    uses = Counter(bare.values()) + Counter(path for path in paths if path != bare[path])
    return {path: bare[path] if uses[bare[path]] == 1 else path for path in paths}

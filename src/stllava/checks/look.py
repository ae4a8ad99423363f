"""Opening the files of a data set: hashes, and signs in headers and pixels of who is on them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar

from stllava.checks.identity import CORNER_TEXT
from stllava.checks.material import Material, Sign
from stllava.errors import DataError
from stllava.images import dicom_identity, inspect_image, is_dicom, open_image, resolve
from stllava.images.burned_in import corner_text_evidence
from stllava.images.phi import metadata_findings
from stllava.records import Dropped, Image

STAGE = "check"
T = TypeVar("T")
R = TypeVar("R")
Progress = Callable[[int, int], None]  # images done, of how many


class Placed(Protocol):
    """An image that a source refers to, before anyone opened it."""

    @property
    def id(self) -> str: ...
    @property
    def path(self) -> str: ...  # relative to the folder that `root` names
    @property
    def group(self) -> str | None: ...
    @property
    def root(self) -> str: ...
    @property
    def source(self) -> str: ...


class Opened(NamedTuple):
    """What opening all images gave."""

    images: tuple[Image, ...]
    signs: tuple[Sign, ...]
    dropped: tuple[Dropped, ...]


def look(path: Path, image_id: str, *, pixels: bool = True) -> list[Sign]:
    """Signs in one file's header and, if `pixels`, in its picture. Raises DataError."""
    signs = [Sign(image_id, found.code, found.detail) for found in metadata_findings(path)]
    if pixels and corner_text_evidence(open_image(path)).found:
        signs.append(Sign(image_id, CORNER_TEXT, ""))
    return signs


def open_placed(
    images: Sequence[Placed], roots: Mapping[str, Path], *, pixels: bool, progress: Progress
) -> Opened:
    """Open every image once for its record and its signs; nothing is stored.

    `pixels`: also search each picture for text, which decodes it again.
    """
    salt = os.urandom(16)  # groups hold for this check only

    def opened(placed: Placed) -> tuple[Image, list[Sign]] | Dropped:
        root = roots[placed.root]
        try:
            path = resolve(root, placed.path)
            group = placed.group or _group_in_header(path, salt) or placed.id
            image = inspect_image(
                placed.path, id=placed.id, root=root, group=group, source=placed.source
            )
            return image, look(path, placed.id, pixels=pixels)
        except DataError as error:
            return Dropped(id=placed.id, stage=STAGE, reason=str(error))

    good: list[Image] = []
    signs: list[Sign] = []
    dropped: list[Dropped] = []
    for found in _each(opened, images, progress):
        if isinstance(found, Dropped):
            dropped.append(found)
        else:
            good.append(found[0])
            signs += found[1]
    return Opened(tuple(good), tuple(signs), tuple(dropped))


def unopened(images: Sequence[Placed]) -> Opened:
    """Records without hashes and sizes, for what is counted without opening a file."""
    blank = (
        Image(
            id=i.id, path=i.path, sha256="", width=0, height=0, group=i.group or i.id,
            source=i.source, root=i.root,
        )
        for i in images
    )  # fmt: skip
    return Opened(tuple(blank), (), ())


def look_at(
    material: Material, roots: Mapping[str, Path], *, pixels: bool, progress: Progress
) -> Material:
    """Add the signs of a run's images, as they lie there now; files that are gone are left out."""

    def looked(image: Image) -> list[Sign] | None:
        root = roots.get(image.root)
        try:
            return look(resolve(root, image.path), image.id, pixels=pixels) if root else None
        except DataError:
            return None

    found = [signs for signs in _each(looked, material.images, progress) if signs is not None]
    every = tuple(sign for signs in found for sign in signs)
    return material._replace(signs=every, files_looked_at=len(found))


def _group_in_header(path: Path, salt: bytes) -> str | None:
    if not path.is_file() or not is_dicom(path):
        return None
    identity = dicom_identity(path, salt)
    return identity.group or identity.study


def _each(work: Callable[[T], R], items: Sequence[T], progress: Progress) -> Iterable[R]:
    """In order, by threads: decoding leaves the interpreter's lock."""
    with ThreadPoolExecutor() as pool:
        for number, found in enumerate(pool.map(work, items), start=1):
            progress(number, len(items))
            yield found

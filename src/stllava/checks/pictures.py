"""Findings about images: the same file, the same picture, pictures that look nearly the same."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from stllava.checks.near import MAX_DISTANCE, Pairs, from_hex, near_pairs
from stllava.checks.report import Finding, finding
from stllava.records import Image


class Lookalikes(NamedTuple):
    """Near-duplicates among the distinct pictures of a data set."""

    by_hash: tuple[tuple[Image, ...], ...]  # one image for each picture with this hash
    pairs: Pairs  # of positions in `by_hash`

    def between(self, left: set[str], right: set[str]) -> dict[str, set[str]]:
        """For each picture of `left`, the different pictures of `right` that look like it."""
        names = [{_picture(image) for image in images} for images in self.by_hash]
        is_left = np.array([not left.isdisjoint(there) for there in names], dtype=bool)
        is_right = np.array([not right.isdisjoint(there) for there in names], dtype=bool)
        itself = np.arange(len(names))
        ones = np.concatenate([itself, self.pairs.left, self.pairs.right])
        others = np.concatenate([itself, self.pairs.right, self.pairs.left])
        both = np.flatnonzero(is_left[ones] & is_right[others])
        found: dict[str, set[str]] = {}
        for one, other in zip(ones[both].tolist(), others[both].tolist(), strict=True):
            for name in names[one] & left:
                alike = (names[other] & right) - {name}
                if alike:
                    found.setdefault(name, set()).update(alike)
        return found


def lookalikes(images: Iterable[Image]) -> Lookalikes:
    """Compare all pictures by perceptual hash; images without one are left out."""
    pictures = {_picture(image): image for image in images if image.perceptual_hash}
    members: dict[str, list[Image]] = {}
    for image in pictures.values():
        members.setdefault(image.perceptual_hash, []).append(image)
    hashes = sorted(members)  # hex of equal length: the order of the numbers
    return Lookalikes(tuple(tuple(members[h]) for h in hashes), near_pairs(from_hex(hashes)))


def image_findings(images: Sequence[Image], near: Lookalikes) -> list[Finding]:
    """Copies of a file, equal pixels in different files, near-duplicates; and missing groups."""
    files, pixels = _copies(images)
    alike, across = _alike(near)
    found = [
        finding(
            "duplicate-files", "warn", files,
            f"{len(files)} images are byte for byte a copy of another one",
            "keep one of each; their questions can share it",
        ),
        finding(
            "duplicate-pixels", "warn", pixels,
            f"{len(pixels)} images show exactly the pixels of another file",
            "keep one of each; their questions can share it",
        ),
        finding(
            "near-duplicates", "note", alike,
            f"{len(alike)} pictures look nearly like another one (perceptual hash, at most "
            f"{MAX_DISTANCE} of 64 bits differ), {across} of them like one of another group: "
            "rescaled or re-encoded copies, neighbouring slices, or just similar views",
            "look at some; pictures of one patient belong to one group",
        ),
    ]  # fmt: skip
    if len(images) > 1 and all(image.group == image.id for image in images):
        what = "no source says which images belong to one patient: every image is its own group"
        remedy = "a label file with a patient column makes splits and intervals go by patient"
        found.append(finding("groups-not-known", "note", (), what, remedy, count=len(images)))
    return [one for one in found if one.count]


def _copies(images: Sequence[Image]) -> tuple[list[str], list[str]]:
    """Ids of images whose file, or else whose pixels, an earlier image has."""
    files: set[str] = set()
    pictures: set[str] = set()
    same_file: list[str] = []
    same_pixels: list[str] = []
    for image in images:
        if image.sha256 and image.sha256 in files:
            same_file.append(image.id)
        elif image.pixels_sha256 and image.pixels_sha256 in pictures:
            same_pixels.append(image.id)
        files.add(image.sha256)
        pictures.add(image.pixels_sha256)
    return same_file, same_pixels


def _alike(near: Lookalikes) -> tuple[list[str], int]:
    """Ids of pictures that have a lookalike, and how many have one of another group."""
    codes: dict[str, int] = {}
    several = -1
    group = np.array(
        [
            codes.setdefault(images[0].group, len(codes))
            if len({image.group for image in images}) == 1
            else several
            for images in near.by_hash
        ],
        dtype=np.int64,
    )
    size = np.array([len(images) for images in near.by_hash], dtype=np.int64)
    left, right = near.pairs
    is_alike, is_across = size > 1, group == several
    is_alike[np.concatenate([left, right])] = True
    differ = np.flatnonzero((group[left] != group[right]) | (group[left] == several))
    is_across[np.concatenate([left[differ], right[differ]])] = True
    ids = [
        image.id
        for images, is_one in zip(near.by_hash, is_alike, strict=True)
        if is_one
        for image in images
    ]
    return sorted(ids), int(size[is_across].sum())


def _picture(image: Image) -> str:
    return image.pixels_sha256 or image.sha256 or image.id

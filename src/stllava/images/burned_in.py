"""Evidence of text in the pixels near the border, where devices write names, dates and numbers.

A heuristic, no reader of text: it looks for rows of small, thin, bright (or, on a bright ground,
dark) shapes of one height. What it finds and misses on real images stands in docs/images.md.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage
from scipy import ndimage

MAX_SIDE = 1024  # pixels; larger pictures are scaled down first
BORDER = 0.2  # share of each side that counts as border
STROKE = 8  # pixels, a power of two; shapes as wide as that are anatomy
CONTRAST = 90  # gray levels that a stroke stands out by
GLYPH_HEIGHT = (6, 40)  # pixels
MIN_GLYPHS = 4  # in a row; side markers and arrows are fewer


class TextEvidence(NamedTuple):
    """Rows of shapes that look like letters."""

    num_lines: int
    num_glyphs: int  # in those lines

    @property
    def found(self) -> bool:
        return self.num_lines > 0


class Glyph(NamedTuple):
    """Bounding box of a shape, in pixels."""

    top: int
    left: int
    height: int
    width: int


def corner_text_evidence(image: PILImage.Image) -> TextEvidence:
    """Look for lines of text in the border of an 8-bit picture."""
    small = image.convert("RGB")
    small.thumbnail((MAX_SIDE, MAX_SIDE))
    if min(small.size) < 2 * STROKE:
        return TextEvidence(0, 0)
    red_HW, green_HW, blue_HW = (np.asarray(band) for band in small.split())
    bright_HW = np.maximum(np.maximum(red_HW, green_HW), blue_HW)  # yellow text is bright, too
    lines: list[list[Glyph]] = []
    for gray_HW in (bright_HW, 255 - bright_HW):
        lines += [line for line in _lines(_glyphs(gray_HW)) if len(line) >= MIN_GLYPHS]
    return TextEvidence(len(lines), sum(map(len, lines)))


def _glyphs(gray_HW: NDArray[np.uint8]) -> list[Glyph]:
    """Thin bright shapes of a letter's size in the border."""
    strokes_HW = (gray_HW - _ground(gray_HW)) >= CONTRAST
    labels_HW, _ = ndimage.label(strokes_HW, structure=np.ones((3, 3)))
    found = []
    for number, (rows, columns) in enumerate(ndimage.find_objects(labels_HW), start=1):
        height, width = rows.stop - rows.start, columns.stop - columns.start
        box = Glyph(rows.start, columns.start, height, width)
        is_small = GLYPH_HEIGHT[0] <= height <= GLYPH_HEIGHT[1] and width <= 1.5 * height
        if is_small and _in_border(box, gray_HW.shape):
            fill = float((labels_HW[rows, columns] == number).mean())
            if 0.15 <= fill <= 0.9 or width <= STROKE // 2:  # an I, an l or a 1 fills its box
                found.append(box)
    return found


def _ground(gray_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture without what is narrower than `STROKE` (a gray opening), never above it."""
    eroded_HW = _sweep(np.minimum, gray_HW)
    return _sweep(np.maximum, np.pad(eroded_HW, STROKE - 1))


def _sweep(extreme: np.ufunc, gray_HW: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Least or greatest value of every square of `STROKE` pixels, by doubling its side."""
    shift = 1
    while shift < STROKE:
        gray_HW = extreme(gray_HW[shift:], gray_HW[:-shift])
        gray_HW = extreme(gray_HW[:, shift:], gray_HW[:, :-shift])
        shift *= 2
    return gray_HW


def _in_border(box: Glyph, shape: tuple[int, ...]) -> bool:
    middle = (box.top + box.height / 2) / shape[0], (box.left + box.width / 2) / shape[1]
    return any(not BORDER <= place <= 1 - BORDER for place in middle)


def _lines(glyphs: list[Glyph]) -> list[list[Glyph]]:
    """Neighbours of one height on one level, from left to right."""
    lines: list[list[Glyph]] = []
    for glyph in sorted(glyphs, key=lambda g: g.left):
        line = next((line for line in lines if _follows(line[-1], glyph)), None)
        if line is None:
            lines.append([glyph])
        else:
            line.append(glyph)
    return lines


def _follows(last: Glyph, glyph: Glyph) -> bool:
    tall = max(last.height, glyph.height)
    same_height = min(last.height, glyph.height) >= 0.6 * tall
    same_level = abs((last.top + last.height) - (glyph.top + glyph.height)) <= 0.3 * tall
    gap = glyph.left - (last.left + last.width)
    return same_height and same_level and -0.3 * tall <= gap <= 1.5 * tall

"""Stored gray values to shown ones: modality, then VOI, then the sense of MONOCHROME1.

Source: DICOM PS3.3, C.11.1 (modality), C.11.2 (VOI), C.11.6 (presentation LUT shape),
C.7.6.3.1.2 (MONOCHROME1).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stllava.config import ImagesSection
from stllava.images.dicom.domain import Pixels
from stllava.images.dicom.header import Header
from stllava.images.dicom.modality import Rescaled, rescale
from stllava.images.dicom.voi import Shown, is_hounsfield, voi
from stllava.images.view import Full, sixteen_bit


class Gray(NamedTuple):
    """A gray picture and what made it so."""

    shown: NDArray[np.uint8]  # (H, W)
    steps: tuple[str, ...]
    full: Full


def gray(stored_HW: NDArray[Any], header: Header, options: ImagesSection) -> Gray:
    """8-bit values of a frame; what a damaged header makes of numbers is left to `reading`."""
    pixels = Pixels.of(stored_HW)
    rescaled = rescale(pixels.domain, header)
    shown = voi(rescaled, pixels, header, options)
    inversion = _inversion(header)
    values_N = 1 - shown.values if inversion else shown.values
    steps = (rescaled.step, shown.step, inversion)
    return Gray(
        pixels.picture(np.rint(values_N * 255).astype(np.uint8)),
        tuple(step for step in steps if step),
        _full(pixels, rescaled, shown, header),
    )


def _inversion(header: Header) -> str:
    """What turns the values around; an INVERSE shape is what MONOCHROME1 means: once, not twice."""
    if header.photometric == "MONOCHROME1":
        return "MONOCHROME1 inverted"
    shape = str(header.first("PresentationLUTShape") or "").strip().upper()
    return "presentation LUT INVERSE" if shape == "INVERSE" else ""


def _full(pixels: Pixels, rescaled: Rescaled, shown: Shown, header: Header) -> Full:
    """Stored values with slope and intercept; where a table stands for these, its values."""
    values_HW = pixels.stored
    if rescaled.is_table:
        values_HW = pixels.picture(rescaled.values.astype(np.uint16))
    whole_HW, slope, low = sixteen_bit(values_HW)
    return Full(
        values=whole_HW,
        slope=slope * rescaled.slope,
        intercept=low * rescaled.slope + rescaled.intercept,
        unit="HU" if is_hounsfield(rescaled, header) else "",
        window=shown.window,
        is_inverted=bool(_inversion(header)),
    )

"""The modality step: stored values become the values that the scanner means.

Source: DICOM PS3.3, C.11.1. Shape: N values, of pixels or of all that can occur in them.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from stllava.images.dicom.header import Header
from stllava.images.windows import Values


class Rescaled(NamedTuple):
    """Values after the modality step, e.g. Hounsfield units."""

    values: Values  # (N,)
    slope: float
    intercept: float
    storable: float  # how far the values could spread, by the bits stored
    step: str  # "" if nothing was done
    is_table: bool = False


def rescale(stored_N: NDArray[Any], header: Header) -> Rescaled:
    """By the modality LUT, else by slope and intercept, else the values as they are."""
    tables = header.first("ModalityLUTSequence")
    if tables:
        values_N, bits = look_up(stored_N, tables[0], header)
        return Rescaled(values_N, 1.0, 0.0, 2.0**bits - 1, "modality LUT", True)
    slope, intercept = header.first("RescaleSlope"), header.first("RescaleIntercept")
    slope = 1.0 if slope is None else float(slope)
    intercept = 0.0 if intercept is None else float(intercept)
    values_N, storable = stored_N.astype(np.float64), 2.0**header.bits_stored - 1
    if slope == 0 or not np.isfinite(slope) or not np.isfinite(intercept):
        return Rescaled(values_N, 1.0, 0.0, storable, "absurd rescale ignored")
    step = "" if (slope, intercept) == (1, 0) else f"rescale {slope:g},{intercept:g}"
    return Rescaled(values_N * slope + intercept, slope, intercept, storable * abs(slope), step)


def look_up(values_N: NDArray[Any], item: Any, header: Header) -> tuple[Values, int]:
    """Values through the item of a LUT sequence, and the bits of its entries.

    Values before the table take its first entry, values after it the last (C.11.1.1.1).
    """
    num_entries, first, bits = (int(n) for n in item.LUTDescriptor)
    num_entries = num_entries or 2**16
    if first >= 2**15 and values_N.min() < 0:  # signed, read as unsigned
        first -= 2**16
    data = item.LUTData
    if isinstance(data, bytes):
        wide = ">u2" if header.dataset.original_encoding[1] is False else "<u2"
        data = np.frombuffer(data, np.uint8 if len(data) < 2 * num_entries else wide)
    table = np.atleast_1d(np.asarray(data, dtype=np.float64))
    if len(table) < num_entries or not 1 <= bits <= 16:
        raise ValueError("a LUT shorter than its descriptor says")
    index_N = np.clip(np.rint(values_N).astype(np.int64) - first, 0, num_entries - 1)
    return np.clip(table[index_N], 0, 2**bits - 1), bits

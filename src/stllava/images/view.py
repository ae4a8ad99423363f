"""What opening a file yields, and the limits that hold before anything is decoded."""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from stllava.config import ImagesSection
from stllava.errors import DataError

DEFAULTS = ImagesSection()
MAX_PIXELS = 64_000_000  # of a frame; below Pillow's own limit (89 M), which only warns
MAX_BYTES = 512_000_000  # of a file, and of a DICOM object's pixels over all frames

# What readers raise on damaged files.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RuntimeError, AssertionError, struct.error, zlib.error),
)


class View(NamedTuple):
    """An image as a model sees it, and how it came to be so."""

    image: PILImage.Image  # mode RGB, no metadata
    mapping: str  # "none", or steps joined by "; "


class Full(NamedTuple):
    """Gray values of more than 8 bits, for review: real value = value * slope + intercept."""

    values: NDArray[np.uint16]  # (H, W)
    slope: float
    intercept: float
    unit: str  # "HU" or ""
    window: tuple[float, float] | None  # real values shown as black and white; None: by a table
    is_inverted: bool  # small values are shown bright


class Decoded(NamedTuple):
    """A view, and what the file held beyond it."""

    view: View
    is_plain: bool  # an 8-bit picture of a common kind: anybody can open the file itself
    full: Full | None = None  # gray values of more than 8 bits, or of a DICOM object


def sixteen_bit(values_HW: NDArray[np.generic]) -> tuple[NDArray[np.uint16], float, float]:
    """Values as uint16, with slope and intercept; exact where integers span less than 65,536.

    One value must be finite.
    """
    if values_HW.dtype in (np.uint8, np.uint16):
        return values_HW.astype(np.uint16), 1.0, 0.0
    real_HW = values_HW.astype(np.int64 if values_HW.dtype.kind in "iu" else np.float64)
    finite = real_HW[np.isfinite(real_HW)] if values_HW.dtype.kind == "f" else real_HW
    low, high = float(finite.min()), float(finite.max())
    if values_HW.dtype.kind in "iu" and high - low <= 65_535:
        return (real_HW - int(low)).astype(np.uint16), 1.0, low
    slope = (high - low) / 65_535 or 1.0
    scaled_HW = (np.nan_to_num(real_HW, nan=low, posinf=high, neginf=low) - low) / slope
    return np.rint(scaled_HW).astype(np.uint16), slope, low


def read_bytes(path: Path) -> bytes:
    """The whole file, up to `MAX_BYTES`. Raises DataError."""
    try:
        with path.open("rb") as file:
            num_bytes = os.fstat(file.fileno()).st_size
            data = b"" if num_bytes > MAX_BYTES else file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the image root and the path") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a valid name"
        raise DataError(f"{path}: cannot be read ({why}); export or copy it again") from None
    except MemoryError:
        raise too_large(path) from None
    if max(num_bytes, len(data)) > MAX_BYTES:
        raise DataError(f"{path}: more than {MAX_BYTES / 1e6:g} MB; split it or scale it down")
    return data


def too_large(path: Path) -> DataError:
    return DataError(f"{path}: too large for the memory of this machine; scale it down")


@contextmanager
def one_line(path: Path) -> Iterator[None]:
    """Turn what readers raise on damaged files into a DataError that quotes nothing of them."""
    try:
        yield
    except DataError:
        raise
    except MemoryError:
        raise too_large(path) from None
    except UNREADABLE as error:
        # A reader's message may quote the header, and a header may hold a name.
        kind = "struct.error" if isinstance(error, struct.error) else type(error).__name__
        raise DataError(f"{path}: cannot be read ({kind}); export or copy it again") from None

"""One function opens any image, by its content and never by its name."""

from __future__ import annotations

from pathlib import Path

from PIL import Image as PILImage

from stllava.config import ImagesSection
from stllava.images import raster
from stllava.images.view import DEFAULTS, MAX_PIXELS, Decoded, View, read_bytes

FORMATS = (*raster.KINDS, "DICOM")
SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif", ".dcm", ".dicom"}
)
PREAMBLE = 128  # bytes before the letters DICM; they may hold anything, a TIFF header even


def open_image(
    path: Path, *, max_pixels: int = MAX_PIXELS, options: ImagesSection = DEFAULTS
) -> PILImage.Image:
    """Return the file as 8-bit RGB without metadata; anything wrong with it is a DataError."""
    return open_view(path, max_pixels=max_pixels, options=options).image


def open_view(
    path: Path, *, max_pixels: int = MAX_PIXELS, options: ImagesSection = DEFAULTS
) -> View:
    """`open_image`, with a note of every step between the stored and the shown values.

    `options` say which window and frame of a DICOM object is shown. Raises DataError, and
    MissingExtra where pydicom is needed and not there.
    """
    return decode(read_bytes(path), path, max_pixels=max_pixels, options=options).view


def decode(
    data: bytes, path: Path, *, max_pixels: int = MAX_PIXELS, options: ImagesSection = DEFAULTS
) -> Decoded:
    """`open_view` of bytes that were read already; `path` is for messages."""
    if has_dicom_prefix(data):
        from stllava.images.dicom.view import decode_dicom

        return decode_dicom(data, path, max_pixels=max_pixels, options=options)
    return raster.decode(data, path, max_pixels=max_pixels)


def has_dicom_prefix(data: bytes) -> bool:
    """A DICOM file says so after its preamble (PS3.10, 7.1)."""
    return data[PREAMBLE : PREAMBLE + 4] == b"DICM"


def is_dicom(path: Path) -> bool:
    """Whether the file's content is DICOM; False where it cannot be read."""
    try:
        with path.open("rb") as file:
            return has_dicom_prefix(file.read(PREAMBLE + 4))
    except (OSError, ValueError):
        return False


def looks_like_image(path: Path) -> bool:
    """An image by its suffix, or DICOM by content: such files often have none, or a number."""
    return path.suffix.lower() in SUFFIXES or is_dicom(path)

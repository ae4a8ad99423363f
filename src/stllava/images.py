"""The only module that opens images: every model, judge and page sees the same 8-bit RGB view.

What becomes of unusual files is decided here once and written into `Image.mapping`: 16-bit values
are windowed (Pillow's own conversion clips them to white), transparency is shown on black, EXIF
orientation is applied, only the first frame of an animation is read. No metadata leaves this file.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import struct
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import NamedTuple

import numpy as np
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as PILImage

from stllava.errors import DataError
from stllava.records import Image

FORMATS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp", ".webp", ".gif"})
MAX_PIXELS = 64_000_000  # below Pillow's own limit (89 M), which only warns
WINDOW_PERCENTILES = (0.5, 99.5)  # of the stored values; the ends saturate
HIGH_DEPTH_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
COLOR_16_BIT = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0

# What Pillow's readers raise on damaged files besides OSError.
UNREADABLE = (
    *(OSError, ValueError, SyntaxError, EOFError, LookupError, TypeError, AttributeError),
    *(ArithmeticError, RuntimeError, struct.error, zlib.error),
)
BOMBS = (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning)


class View(NamedTuple):
    """An image as a model sees it, and how it came to be so."""

    image: PILImage.Image  # mode RGB, no metadata
    mapping: str  # "none", or steps joined by "; "


def open_image(path: Path, *, max_pixels: int = MAX_PIXELS) -> PILImage.Image:
    """Return the file as 8-bit RGB without metadata; anything wrong with it is a DataError."""
    return open_view(path, max_pixels=max_pixels).image


def open_view(path: Path, *, max_pixels: int = MAX_PIXELS) -> View:
    """`open_image`, with a note of every step between the stored and the shown values."""
    try:
        with PILImage.open(path, formats=FORMATS) as image:
            width, height = image.size
            if width * height > max_pixels:  # known from the header, nothing is decoded yet
                raise DataError(
                    f"{path}: {width} x {height} pixels, more than {max_pixels:,}; scale it down"
                )
            return _rgb_view(image, path)
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; check the image root and the path") from None
    except UnidentifiedImageError:
        wanted = ", ".join(FORMATS)
        raise DataError(f"{path}: not an image of a known kind; convert it to {wanted}") from None
    except BOMBS:
        raise DataError(f"{path}: more than {max_pixels:,} pixels; scale it down") from None
    except MemoryError:
        raise DataError(
            f"{path}: too large for the memory of this machine; scale it down"
        ) from None
    except UNREADABLE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({why}); export or copy it again") from None


def inspect_image(path: str | Path, *, id: str, root: Path, group: str, source: str) -> Image:  # noqa: A002
    """Decode the file once and return its record. `path` is relative to `root`."""
    full_path = resolve(root, str(path))
    view = open_view(full_path)
    with full_path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return Image(
        id=id,
        path=PurePosixPath(path).as_posix(),
        sha256=sha256,
        width=view.image.width,
        height=view.image.height,
        group=group,
        source=source,
        mapping=view.mapping,
    )


def resolve(root: Path, relative: str) -> Path:
    """Join a path from a data file to the image root; refuse whatever would leave the root."""
    windows = PureWindowsPath(relative)  # splits at both kinds of slash
    problem = ""
    if not relative.strip() or "\0" in relative:
        problem = "is empty or holds a NUL"
    elif relative.startswith(("/", "\\")) or windows.drive or re.match(r"[A-Za-z]:", relative):
        problem = "is absolute"
    elif ".." in windows.parts:
        problem = "holds '..'"
    if problem:
        raise DataError(f"image path {relative!r} {problem}; write it relative to {root}")
    try:
        full_path = (root / relative).resolve()
        inside = full_path.is_relative_to(root.resolve())
        full_path.exists()  # raises on a name that is too long, which later calls would meet
    except (OSError, RuntimeError, ValueError) as error:  # link loop, too long, not encodable
        raise DataError(f"image path {relative!r} cannot be followed ({error})") from None
    if not inside:
        raise DataError(f"image path {relative!r} is a link out of {root}; copy the file inside")
    return full_path


def pad_to_square(image: PILImage.Image, color: tuple[int, int, int]) -> PILImage.Image:
    """Centre the image on a square of `color` (paper: the processor's mean, times 255)."""
    side = max(image.size)
    if image.size == (side, side):
        return image
    square = PILImage.new("RGB", (side, side), color)
    square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
    return square


def encode_jpeg_base64(image: PILImage.Image, max_side: int = 1024, quality: int = 92) -> str:
    """JPEG bytes in base64 with the longer side at most `max_side`; pixels only, no metadata."""
    small = image.convert("RGB")
    small.info = {}  # `save` would copy comments and profiles
    small.thumbnail((max_side, max_side), PILImage.Resampling.LANCZOS)
    buffer = io.BytesIO()
    small.save(buffer, format="JPEG", quality=quality)
    return base64.b64encode(buffer.getvalue()).decode("ascii")


def data_uri(path: Path, max_side: int = 1024) -> str:
    """The image as a data URI for a remote judge: decoded, scaled down and encoded again."""
    return "data:image/jpeg;base64," + encode_jpeg_base64(open_image(path), max_side)


def _rgb_view(image: PILImage.Image, path: Path) -> View:
    steps: list[str] = []
    num_frames = getattr(image, "n_frames", 1)
    if num_frames > 1:
        steps.append(f"first of {num_frames} frames")
    is_16_bit_color = _raw_mode(image).startswith(COLOR_16_BIT)
    is_inverted = _is_white_zero_16_bit(image)
    if image.getexif().get(ExifTags.Base.Orientation, 1) in range(2, 9):
        steps.append("exif orientation applied")
    image.load()  # `verify` passes truncated files; never set LOAD_TRUNCATED_IMAGES
    if is_16_bit_color:
        _refuse_dark(image, path)
        steps.append("high byte of 16-bit colour")
    oriented = ImageOps.exif_transpose(image)
    if oriented.mode in HIGH_DEPTH_MODES:
        rgb, step = _window(oriented, invert=is_inverted)
        steps.append(step)
    elif oriented.has_transparency_data:
        rgba = oriented.convert("RGBA")
        black = PILImage.new("RGBA", rgba.size, (0, 0, 0, 255))
        rgb = PILImage.alpha_composite(black, rgba).convert("RGB")
        steps.append("alpha on black")
    else:
        rgb = oriented.convert("RGB")
        if oriented.mode not in ("RGB", "L", "P", "1"):
            steps.append(f"from {oriented.mode}")
    rgb.info = {}  # EXIF, comments and profiles stay behind
    return View(rgb, "; ".join(steps) or "none")


def _window(image: PILImage.Image, *, invert: bool) -> tuple[PILImage.Image, str]:
    """Map the 0.5-99.5 percentile range of the stored values to 0..255."""
    values_HW = np.asarray(image).astype(np.float64)
    finite = values_HW[np.isfinite(values_HW)]
    if finite.size == 0:
        raise ValueError("no finite pixel value")
    low, high = np.percentile(finite, WINDOW_PERCENTILES)
    if low == high:  # nearly everything is one value, as in a mask
        low, high = finite.min(), finite.max()
    shown_HW = np.clip((np.nan_to_num(values_HW, nan=low) - low) / max(high - low, 1e-12), 0, 1)
    if invert:
        shown_HW = 1 - shown_HW
    gray_HW = np.rint(shown_HW * 255).astype(np.uint8)
    step = f"window {low:g}..{high:g}" + (" inverted" if invert else "")
    return PILImage.fromarray(gray_HW).convert("RGB"), step


def _raw_mode(image: PILImage.Image) -> str:
    """How samples are stored, e.g. 'RGB;16B'; '' where the reader does not say."""
    tiles = getattr(image, "tile", None)
    args = tiles[0][3] if tiles else ""
    raw_mode = args[0] if isinstance(args, tuple) and args else args
    return raw_mode if isinstance(raw_mode, str) else ""


def _is_white_zero_16_bit(image: PILImage.Image) -> bool:
    """True for 16-bit WhiteIsZero TIFF: Pillow inverts the 8-bit kind and forgets this one."""
    tags = getattr(image, "tag_v2", None)
    is_white_zero = tags is not None and tags.get(PHOTOMETRIC_TAG) == WHITE_IS_ZERO
    return is_white_zero and image.mode in HIGH_DEPTH_MODES


def _refuse_dark(image: PILImage.Image, path: Path) -> None:
    """Pillow keeps the high byte of 16-bit colour; 12-bit values would be nearly black."""
    brightest = int(np.asarray(image.convert("RGB")).max())
    if 0 < brightest < 32:
        raise DataError(
            f"{path}: 16-bit colour that uses less than 13 bits; convert it to 8 bits per channel"
        )

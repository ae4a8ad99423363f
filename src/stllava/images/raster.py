"""PNG, JPEG, TIFF, BMP, WEBP and GIF files as 8-bit RGB.

16-bit values are windowed (Pillow's own conversion clips them to white), transparency is shown on
black, EXIF orientation is applied, only the first frame of an animation is read.
"""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import ExifTags, ImageOps, UnidentifiedImageError
from PIL import Image as PILImage

from stllava.errors import DataError
from stllava.images.view import UNREADABLE, Decoded, Full, View, sixteen_bit, too_large
from stllava.images.windows import percentile_range, stretch

KINDS = ("PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF")
HIGH_DEPTH_MODES = frozenset({"I;16", "I;16L", "I;16B", "I;16N", "I", "F"})
COLOR_16_BIT = ("RGB;16", "RGBA;16", "RGBX;16", "LA;16")
PHOTOMETRIC_TAG, WHITE_IS_ZERO = 262, 0
BOMBS = (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning)


def decode(data: bytes, path: Path, *, max_pixels: int) -> Decoded:
    """What the bytes of a file show; `path` is for messages. Raises DataError."""
    try:
        with PILImage.open(io.BytesIO(data), formats=KINDS) as image:
            width, height = image.size
            if width * height > max_pixels:  # known from the header, nothing is decoded yet
                raise DataError(
                    f"{path}: {width} x {height} pixels, more than {max_pixels:,}; scale it down"
                )
            return _decoded(image, path)
    except DataError:
        raise
    except UnidentifiedImageError:
        raise DataError(f"{path}: {_unknown(data)}") from None
    except BOMBS:
        raise DataError(f"{path}: more than {max_pixels:,} pixels; scale it down") from None
    except MemoryError:
        raise too_large(path) from None
    except UNREADABLE as error:
        why = " ".join(str(error).split()) or type(error).__name__
        raise DataError(f"{path}: cannot be read ({why}); export or copy it again") from None


def _unknown(data: bytes) -> str:
    """Why no reader takes the file, and what to do. Groups 0002 and 0008 open a DICOM data set."""
    if data[:2] in (b"\x02\x00", b"\x08\x00") and data[3:4] == b"\x00":
        return "DICOM without its preamble, so its encoding is a guess; write it as a DICOM file"
    return f"not an image of a known kind; convert it to {', '.join((*KINDS, 'DICOM'))}"


def _decoded(image: PILImage.Image, path: Path) -> Decoded:
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
    full = None
    if oriented.mode in HIGH_DEPTH_MODES:
        rgb, step, full = _window(oriented, invert=is_inverted)
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
    is_plain = full is None and not is_16_bit_color
    return Decoded(View(rgb, "; ".join(steps) or "none"), is_plain, full)


def _window(image: PILImage.Image, *, invert: bool) -> tuple[PILImage.Image, str, Full]:
    """Map the 0.5-99.5 percentile range of the stored values to 0..255."""
    stored_HW = np.asarray(image)
    values_HW = stored_HW.astype(np.float64)
    low, high = percentile_range(values_HW)
    shown_HW = stretch(np.nan_to_num(values_HW, nan=low), low, high)
    if invert:
        shown_HW = 1 - shown_HW
    gray_HW = np.rint(shown_HW * 255).astype(np.uint8)
    step = f"window {low:g}..{high:g}" + (" inverted" if invert else "")
    full = Full(*sixteen_bit(stored_HW), unit="", window=(low, high), is_inverted=invert)
    return PILImage.fromarray(gray_HW).convert("RGB"), step, full


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

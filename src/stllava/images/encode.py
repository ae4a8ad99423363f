"""Pictures as they leave: padded for a model, or as JPEG text for a judge, pixels only."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image as PILImage

from stllava.images.opening import open_image


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

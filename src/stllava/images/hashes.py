"""Hashes of what a picture shows: equal pictures in different files, and near-duplicates."""

from __future__ import annotations

import hashlib

import imagehash
from PIL import Image as PILImage


def pixels_sha256(image: PILImage.Image) -> str:
    """Hex digest of the size and the RGB samples; equal for equal pictures in any kind of file."""
    rgb = image.convert("RGB")
    size = f"{rgb.width}x{rgb.height}\n".encode()
    return hashlib.sha256(size + rgb.tobytes()).hexdigest()


def perceptual_hash(image: PILImage.Image) -> str:
    """64-bit pHash as 16 hex digits: signs of low frequencies of the 32 x 32 gray picture."""
    return str(imagehash.phash(image))


def hamming(a: str, b: str) -> int:
    """Number of bits, 0..64, in which two perceptual hashes differ."""
    return (int(a, 16) ^ int(b, 16)).bit_count()

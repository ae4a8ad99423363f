"""The only part that opens images: every model, judge and page sees the same 8-bit RGB view.

`opening` turns any file into a view, `raster` (Pillow's kinds) and `dicom` say how; `store` makes
the record and keeps what later stages read; `phi` and `burned_in` look for what identifies a
person. What becomes of unusual files is decided here once and written into `Image.mapping`.
"""

from __future__ import annotations

from stllava.images.dicom.identity import Identity, dicom_identity, opaque, read_salt
from stllava.images.encode import data_uri, encode_jpeg_base64, pad_to_square
from stllava.images.hashes import hamming, perceptual_hash, pixels_sha256
from stllava.images.opening import (
    FORMATS,
    SUFFIXES,
    is_dicom,
    looks_like_image,
    open_image,
    open_view,
)
from stllava.images.paths import resolve
from stllava.images.store import inspect_image, store_view
from stllava.images.view import DEFAULTS, MAX_BYTES, MAX_PIXELS, View

__all__ = [
    "DEFAULTS",
    "FORMATS",
    "MAX_BYTES",
    "MAX_PIXELS",
    "SUFFIXES",
    "Identity",
    "View",
    "data_uri",
    "dicom_identity",
    "encode_jpeg_base64",
    "hamming",
    "inspect_image",
    "is_dicom",
    "looks_like_image",
    "opaque",
    "open_image",
    "open_view",
    "pad_to_square",
    "perceptual_hash",
    "pixels_sha256",
    "read_salt",
    "resolve",
    "store_view",
]

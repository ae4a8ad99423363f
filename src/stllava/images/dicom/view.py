"""A DICOM file as a model sees it. Overlays are not drawn, presentation states not looked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PILImage

from stllava.config import ImagesSection
from stllava.images.dicom.gray import gray
from stllava.images.dicom.header import GRAY, Header, read_dataset, read_header, reading
from stllava.images.dicom.pixels import stored_values
from stllava.images.view import Decoded, Full, View


def decode_dicom(data: bytes, path: Path, *, max_pixels: int, options: ImagesSection) -> Decoded:
    """The chosen frame as 8-bit RGB; `path` is for messages. Raises DataError, MissingExtra."""
    with reading(path):
        dataset = read_dataset(data, path)
        header = read_header(dataset, path, max_pixels=max_pixels, options=options)
        stored = stored_values(header, path)
        steps: tuple[str, ...]
        full: Full | None = None
        if header.photometric in GRAY:
            shown, steps, full = gray(stored, header, options)
            image = PILImage.fromarray(shown).convert("RGB")
        else:
            shown, steps = _color(stored, header)
            image = PILImage.fromarray(shown)
    frame = (f"frame {header.frame + 1} of {header.num_frames}",) if header.num_frames > 1 else ()
    return Decoded(View(image, "; ".join(("dicom", *steps, *frame))), is_plain=False, full=full)


def _color(stored: NDArray[Any], header: Header) -> tuple[NDArray[np.uint8], tuple[str, ...]]:
    """RGB samples as 8-bit ones: the high bits of those stored."""
    from pydicom.pixels.processing import apply_color_lut

    bits, steps = header.bits_stored, [f"from {header.photometric}"]
    if header.photometric == "RGB":
        steps = []
    if header.photometric == "PALETTE COLOR":
        stored = apply_color_lut(stored, header.dataset)[..., :3]
        bits = 8 * stored.dtype.itemsize
        if bits == 16 and stored.max() <= 255:  # 8-bit entries that were not scaled up
            bits = 8
    if bits > 8:
        stored = stored >> (bits - 8)
        steps.append(f"high 8 of {bits} bits")
    return np.ascontiguousarray(np.clip(stored, 0, 255).astype(np.uint8)), tuple(steps)

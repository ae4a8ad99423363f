"""Stored pixel values of one frame; what cannot be decoded says which plug-in is missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from numpy.typing import NDArray

from stllava.errors import DataError
from stllava.images.dicom.header import Header, registered_name
from stllava.images.view import UNREADABLE

UNCOMPRESSED = "store it uncompressed, e.g. with dcmdjpeg (DCMTK)"
# Beginning of a registered name -> what decodes it. pylibjpeg-libjpeg is under the GPL and so no
# dependency of ours; Pillow decodes 8-bit JPEG Baseline and Extended, and pydicom RLE by itself.
PLUGINS = {
    "JPEG-LS": "pip install pyjpegls",
    "JPEG 2000": "pip install pylibjpeg-openjpeg (in 'stllava[dicom]')",
    "High-Throughput JPEG 2000": "pip install pylibjpeg-openjpeg (in 'stllava[dicom]')",
    "JPEG": f"pip install pylibjpeg-libjpeg (GPL, so no part of stllava), or {UNCOMPRESSED}",
}
END_OF_IMAGE = b"\xff\xd9"  # JPEG, JPEG-LS and JPEG 2000 all end so
J2K_START = b"\xff\x4f\xff\x51"
START_OF_FRAME = frozenset({*range(0xC0, 0xD0), 0xF7}) - {0xC4, 0xC8, 0xCC}


class Codestream(NamedTuple):
    """What a compressed frame says about itself."""

    width: int
    height: int
    precision: int  # bits per sample


def stored_values(header: Header, path: Path) -> NDArray[Any]:
    """The chosen frame: (H, W) for gray and palette, (H, W, 3) for RGB; YBR becomes RGB.

    Raises DataError. Call inside `reading`.
    """
    from pydicom.pixels.utils import pixel_array

    name = _refuse_undecodable(header, path)
    try:
        values: NDArray[Any] = pixel_array(header.dataset, index=header.frame)
    except UNREADABLE as error:
        kind = type(error).__name__
        raise DataError(
            f"{path}: pixel data ({name}) cannot be decoded ({kind}): cut short, damaged or of "
            f"an unusual kind; export it again, or {_remedy(name)}"
        ) from None
    shape = (int(header.dataset.Rows), int(header.dataset.Columns))
    if values.shape != (shape if header.num_samples == 1 else (*shape, 3)):
        raise DataError(f"{path}: pixel data ({name}) are of another shape than the header says")
    return values


def _refuse_undecodable(header: Header, path: Path) -> str:
    """Name of the transfer syntax, if there is a decoder and the frame is whole."""
    from pydicom.pixels.decoders.base import get_decoder
    from pydicom.uid import UID

    uid = UID(str(getattr(header.dataset, "file_meta", {}).get("TransferSyntaxUID") or ""))
    name = registered_name(uid, "an unknown transfer syntax")
    try:
        decoder = get_decoder(uid)
    except NotImplementedError:
        raise DataError(f"{path}: no decoder for {name}; {UNCOMPRESSED}") from None
    if not decoder.is_available:
        raise DataError(f"{path}: nothing installed decodes {name} ({uid}); {_remedy(name)}")
    if uid.is_encapsulated:
        _check_frame(header, path, name)
    return name


def _check_frame(header: Header, path: Path, name: str) -> None:
    """A compressed frame must end, and be as large as the header said it is.

    Decoders give gray where a stream ends early, and make room for what the stream claims.
    """
    from pydicom.encaps import get_frame

    dataset = header.dataset
    frame = get_frame(dataset.PixelData, header.frame, number_of_frames=header.num_frames)
    raw_bytes = dataset.Rows * dataset.Columns * header.num_samples * dataset.BitsAllocated // 8
    if len(frame) > 2 * raw_bytes + 65_536:
        raise DataError(f"{path}: a compressed frame ({name}) larger than its pixels; export again")
    if not name.startswith(("JPEG", "High-Throughput")):
        return
    if END_OF_IMAGE not in frame[-16:]:  # padding may follow
        raise DataError(f"{path}: pixel data ({name}) are cut short; export or copy it again")
    found = codestream(frame)
    if found is not None and (found.width, found.height) != (dataset.Columns, dataset.Rows):
        raise DataError(
            f"{path}: a compressed frame ({name}) of {found.width} x {found.height} pixels, "
            f"not {dataset.Columns} x {dataset.Rows} as the header says; export it again"
        )
    if found is not None and found.precision > 8 and name.startswith("JPEG Extended"):
        raise DataError(f"{path}: {found.precision}-bit lossy {name} is not read; {UNCOMPRESSED}")


def codestream(frame: bytes) -> Codestream | None:
    """Size and depth from the stream's own header; None where it is not found.

    Sources: ITU-T T.81, B.2.2 (SOF) and T.87, C.2.2 (SOF55); ISO/IEC 15444-1, A.5.1 (SIZ).
    """
    start = frame.find(J2K_START, 0, 1024)  # a JP2 wrapper may come first
    if start >= 0 and len(frame) >= start + 43:
        x, y, x0, y0 = (int.from_bytes(frame[start + at :][:4], "big") for at in (8, 12, 16, 20))
        return Codestream(x - x0, y - y0, (frame[start + 42] & 0x7F) + 1)
    at = 2
    while frame[:2] == b"\xff\xd8" and at + 9 <= len(frame) and frame[at] == 0xFF:
        if frame[at + 1] in START_OF_FRAME:
            height, width = (int.from_bytes(frame[at + n : at + n + 2], "big") for n in (5, 7))
            return Codestream(width, height, frame[at + 4])
        at += 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    return None


def _remedy(name: str) -> str:
    return next((how for start, how in PLUGINS.items() if name.startswith(start)), UNCOMPRESSED)

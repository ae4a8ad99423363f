"""What a DICOM header says about its picture, and what is refused before any pixel is decoded."""

from __future__ import annotations

import contextlib
import io
import logging
import threading
import warnings
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from stllava.config import ImagesSection
from stllava.errors import DataError, MissingExtra
from stllava.images.view import MAX_BYTES, one_line

if TYPE_CHECKING:
    from pydicom import Dataset

DEFLATED = "1.2.840.10008.1.2.1.99"
PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")
GRAY = frozenset({"MONOCHROME1", "MONOCHROME2"})
COLOR = frozenset({"RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT", "PALETTE COLOR"})


class Header(NamedTuple):
    """The part of a header that says how its pixels are meant."""

    dataset: Dataset
    photometric: str
    num_samples: int  # per pixel: 1 or 3
    bits_stored: int
    is_signed: bool
    frame: int  # index of the frame that is shown
    num_frames: int
    places: tuple[Dataset, ...]  # where a value of this frame may stand, nearest first

    def first(self, keyword: str) -> Any:
        """The value nearest to the frame; None where it is absent or empty."""
        found = (place.get(keyword) for place in self.places)
        return next((v for v in found if v is not None and not _is_empty(v)), None)


class Hush:
    """Silences pydicom while any thread reads: its warnings and messages quote the header.

    What it turns off belongs to the process (other warnings are off meanwhile), so the first thread
    in turns it off and the last one out turns it on again.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._num_inside = 0
        self._undo = contextlib.ExitStack()

    def __enter__(self) -> None:
        from pydicom import config

        with self._lock:
            self._num_inside += 1
            if self._num_inside == 1:
                logger = logging.getLogger("pydicom")
                self._undo.callback(logger.setLevel, logger.level)
                logger.setLevel(logging.CRITICAL + 1)
                self._undo.enter_context(config.disable_value_validation())
                self._undo.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._num_inside -= 1
            if self._num_inside == 0:
                self._undo.close()


HUSH = Hush()


@contextmanager
def reading(path: Path) -> Iterator[None]:
    """pydicom is there, keeps quiet, and what it raises becomes a DataError."""
    try:
        from pydicom import errors
    except ImportError:
        raise MissingExtra("pydicom", "dicom") from None
    with HUSH, one_line(path):
        try:
            yield
        except (errors.BytesLengthException, errors.InvalidDicomError):
            raise DataError(f"{path}: cannot be read as DICOM; export it again") from None


def read_dataset(data: bytes, path: Path, *, only: Sequence[str] | None = None) -> Dataset:
    """Parse a file, or `only` these keywords of it; call inside `reading`."""
    from pydicom import dcmread

    _refuse_inflated(data, path)
    tags: list[Any] | None = None if only is None else list(only)
    return dcmread(io.BytesIO(data), specific_tags=tags, stop_before_pixels=only is not None)


def _refuse_inflated(data: bytes, path: Path) -> None:
    """pydicom inflates a deflated data set without a limit; a small file can fill the memory."""
    syntax, start = _syntax(data)
    if syntax == DEFLATED:
        inflater = zlib.decompressobj(-zlib.MAX_WBITS)
        if len(inflater.decompress(data[start:], MAX_BYTES + 1)) > MAX_BYTES:
            raise DataError(f"{path}: more than {MAX_BYTES / 1e6:g} MB when inflated; split it")


def _syntax(data: bytes) -> tuple[str, int]:
    """Transfer syntax UID and where the data set begins, from the file meta group alone."""
    from pydicom.filereader import read_dataset

    file = io.BytesIO(data)
    for implicit in (False, True):  # the second is wrong and met (pydicom issue 503)
        file.seek(132)
        meta = read_dataset(file, implicit, True, stop_when=lambda tag, _vr, _n: tag >> 16 != 2)
        with contextlib.suppress(NotImplementedError):
            return str(meta.get("TransferSyntaxUID") or ""), file.tell()
    return "", len(data)


def read_header(dataset: Dataset, path: Path, *, max_pixels: int, options: ImagesSection) -> Header:
    """Check what the header says against the limits, and choose the frame."""
    if not any(keyword in dataset for keyword in PIXELS):
        raise DataError(f"{path}: DICOM without pixel data ({_kind(dataset)}); leave it out")
    rows, columns = (_count(dataset, keyword, path) for keyword in ("Rows", "Columns"))
    num_samples = _count(dataset, "SamplesPerPixel", path, default=1)
    num_frames = _count(dataset, "NumberOfFrames", path, default=1)
    bits = _count(dataset, "BitsAllocated", path)
    if rows * columns > max_pixels:
        size = f"{columns} x {rows} pixels, more than {max_pixels:,}"
        raise DataError(f"{path}: {size}; scale it down")
    num_bytes = rows * columns * num_samples * num_frames * bits / 8
    if num_bytes > MAX_BYTES:
        size = f"{num_frames} frames of {columns} x {rows} are {num_bytes / 1e6:,.0f} MB"
        raise DataError(f"{path}: {size}, more than {MAX_BYTES / 1e6:g}; split it")
    photometric = str(dataset.get("PhotometricInterpretation", "")).strip().upper()
    if photometric not in GRAY | COLOR:
        known = ", ".join(sorted(GRAY | COLOR))
        raise DataError(f"{path}: PhotometricInterpretation is none of {known}; convert it")
    if num_samples != (3 if photometric in COLOR - {"PALETTE COLOR"} else 1):
        raise DataError(f"{path}: {num_samples} samples per pixel do not fit {photometric}")
    frame = _frame(num_frames, path, options)
    return Header(
        dataset=dataset,
        photometric=photometric,
        num_samples=num_samples,
        bits_stored=min(_count(dataset, "BitsStored", path, default=bits), bits),
        is_signed=dataset.get("PixelRepresentation") == 1,
        frame=frame,
        num_frames=num_frames,
        places=tuple(_places(dataset, frame)),
    )


def _frame(num_frames: int, path: Path, options: ImagesSection) -> int:
    """Index of the frame to show; a number in the recipe counts from 1."""
    if isinstance(options.frame, int):
        if options.frame > num_frames:
            raise DataError(f"{path}: has {num_frames} frames; images.frame={options.frame}")
        return options.frame - 1
    return num_frames // 2 if options.frame == "middle" else 0


def _places(dataset: Dataset, frame: int) -> Iterator[Dataset]:
    """Enhanced objects keep rescale and window per frame, or shared by all (PS3.3, C.7.6.16)."""
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = dataset.get("SharedFunctionalGroupsSequence") or []
    for groups in (*per_frame[frame : frame + 1], *shared[:1]):
        for name in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
            yield from (groups.get(name) or [])[:1]
    yield dataset


def _count(dataset: Dataset, keyword: str, path: Path, *, default: int | None = None) -> int:
    try:
        value = dataset.get(keyword)
        count = default if value is None or value == "" else int(value)
    except (ValueError, TypeError, NotImplementedError):
        raise DataError(f"{path}: {keyword} of the header is no number; export it again") from None
    if keyword == "NumberOfFrames" and count == 0:  # written by mistake for one
        return 1
    if count is None:
        raise DataError(f"{path}: DICOM header lacks {keyword}; export it again")
    if count < 1:
        raise DataError(f"{path}: {keyword} of the header is {count}; export it again")
    return count


def _kind(dataset: Dataset) -> str:
    """Registered name of the object's kind, e.g. 'RT Plan Storage'; never free text."""
    return registered_name(str(dataset.get("SOPClassUID") or ""), "of an unknown kind")


def registered_name(uid: str, otherwise: str) -> str:
    """The standard's name for a UID; whatever else a header holds there is not repeated."""
    from pydicom.uid import UID

    name = UID(uid).name
    return otherwise if name == uid else name


def _is_empty(value: Any) -> bool:
    return hasattr(value, "__len__") and len(value) == 0

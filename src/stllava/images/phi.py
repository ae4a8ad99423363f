"""What in a file's metadata may identify a person: codes and names of fields, never their values.

A check, not a de-identifier: nothing found does not mean that nothing is there. Metadata of these
files stays where it is either way; stages read pixels only (see `store`).
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from PIL import ExifTags, UnidentifiedImageError
from PIL import Image as PILImage

from stllava.errors import DataError
from stllava.images.opening import has_dicom_prefix
from stllava.images.phi_table import EXIF
from stllava.images.raster import KINDS
from stllava.images.view import one_line, read_bytes

# What each code means, in the order in which a table should show them.
FINDINGS = {
    "dicom-patient": "attribute of the patient, filled",
    "dicom-number": "number that an archive can be asked with, filled",
    "dicom-person": "name of a physician, operator or other person, filled",
    "dicom-place": "institution, station or site, filled",
    "dicom-date": "date or time, filled",
    "dicom-text": "free text, filled",
    "dicom-private": "private attributes, meaning unknown",
    "dicom-identity-not-removed": "PatientIdentityRemoved does not say YES",
    "dicom-burned-in": "BurnedInAnnotation does not say NO",
    "dicom-burned-in-risk": "a kind of object that often has text in its pixels",
    "dicom-face": "RecognizableVisualFeatures says YES",
    "dicom-overlay": "overlays; they may hold text and are not shown",
    "exif-gps": "place where it was taken",
    "exif-person": "name of a person or their device",
    "exif-text": "free text",
    "exif-number": "serial number of a device",
    "exif-date": "date or time",
    "text": "text beside the pixels: PNG text, JPEG or GIF comment",
    "xmp": "XMP packet",
    "iptc": "IPTC fields or Photoshop blocks",
}
PNG_KEYWORDS = frozenset(  # registered ones; a free keyword may itself say whom it is about
    {"Title", "Author", "Description", "Copyright", "Creation Time", "Software", "Disclaimer"}
    | {"Warning", "Source", "Comment", "XML:com.adobe.xmp"}
)
IPTC_TAG, PHOTOSHOP_TAG = 33723, 34377  # TIFF


class Finding(NamedTuple):
    """One kind of evidence in one file; `detail` names fields and counts, never a value."""

    code: str  # a key of FINDINGS
    detail: str


def metadata_findings(path: Path) -> list[Finding]:
    """Evidence in a file's metadata, by code. Raises DataError, and MissingExtra for DICOM."""
    data = read_bytes(path)
    if has_dicom_prefix(data):
        from stllava.images.dicom.identifying import header_findings

        found = header_findings(data, path)
    else:
        found = _raster_findings(data, path)
    order = list(FINDINGS)
    return [Finding(code, found[code]) for code in sorted(found, key=order.index)]


def _raster_findings(data: bytes, path: Path) -> dict[str, str]:
    with one_line(path):
        try:
            with PILImage.open(io.BytesIO(data), formats=KINDS) as image:
                if image.format == "PNG":
                    image.load()  # text may follow the pixels
                fields = [*_exif(image), *_blocks(image)]
        except UnidentifiedImageError:
            raise DataError(f"{path}: not an image of a known kind; leave it out") from None
        except (PILImage.DecompressionBombError, PILImage.DecompressionBombWarning):
            raise DataError(f"{path}: too many pixels; scale it down") from None
    return {code: _listed(name for c, name in fields if c == code) for code, _ in fields}


def _listed(names: Iterator[str]) -> str:
    return ", ".join(sorted(set(names)))


def _exif(image: PILImage.Image) -> Iterator[tuple[str, str]]:
    """EXIF fields, and those of TIFF, which are the same, by code and standard name."""
    exif = image.getexif()
    nested: Mapping[int, Any] = exif.get_ifd(ExifTags.IFD.Exif)
    if exif.get_ifd(ExifTags.IFD.GPSInfo):
        yield "exif-gps", "GPSInfo"
    for tag, value in [*exif.items(), *nested.items()]:
        name = ExifTags.TAGS.get(tag, "")
        code = next((code for code, names in EXIF.items() if name in names), None)
        if code is not None and value and name != "GPSInfo":
            yield code, name
    tags = getattr(image, "tag_v2", {})
    if tags.get(IPTC_TAG) or tags.get(PHOTOSHOP_TAG) or image.info.get("photoshop"):
        yield "iptc", "IPTC or Photoshop block"


def _blocks(image: PILImage.Image) -> Iterator[tuple[str, str]]:
    """Text beside the pixels. GIF and JPEG comments, PNG text chunks, XMP."""
    if image.info.get("comment"):
        yield "text", "comment"
    if image.info.get("xmp"):
        yield "xmp", "XMP packet"
    for keyword in getattr(image, "text", {}):
        if keyword != "XML:com.adobe.xmp":
            yield "text", keyword if keyword in PNG_KEYWORDS else "text under a keyword of its own"

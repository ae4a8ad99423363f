"""What a DICOM header holds that may identify a person; keywords and counts, never values.

Source of the rules: DICOM PS3.15, Annex E. An absent BurnedInAnnotation does not mean NO.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stllava.images.dicom.header import read_dataset, reading
from stllava.images.phi_table import (
    IDENTIFYING,
    RISKY_CONVERSIONS,
    RISKY_MODALITIES,
    RISKY_TYPES,
    SECONDARY_CAPTURE,
)

if TYPE_CHECKING:
    from pydicom import Dataset

OVERLAYS = range(0x6000, 0x6100, 2)  # groups; PS3.3, C.9.2


def header_findings(data: bytes, path: Path) -> dict[str, str]:
    """Code -> names of fields and counts. Raises DataError, MissingExtra."""
    with reading(path):
        dataset = read_dataset(data, path)
        return _filled(dataset) | dict(_statements(dataset))


def _filled(dataset: Dataset) -> dict[str, str]:
    """Attributes that are there and not empty, in sequences too."""
    from pydicom.datadict import keyword_for_tag

    names: dict[str, Counter[str]] = {}
    overlays, num_private = set(), 0
    for tag, value in _elements(dataset):
        if tag.is_private:
            num_private += 1
        elif tag.group in OVERLAYS:
            overlays.add(tag.group)
        elif _is_filled(value) and (code := IDENTIFYING.get(keyword := keyword_for_tag(tag))):
            names.setdefault(code, Counter())[keyword] += 1
    found = {code: ", ".join(_times(*n) for n in sorted(c.items())) for code, c in names.items()}
    if num_private:
        found["dicom-private"] = f"{num_private} attributes"
    if overlays:
        found["dicom-overlay"] = f"{len(overlays)} overlays"
    return found


def _times(keyword: str, count: int) -> str:
    return keyword if count == 1 else f"{keyword} ({count} times)"


def _elements(dataset: Dataset) -> Iterator[tuple[Any, Any]]:
    """Tags and values as they lie in the file, all levels; values are not parsed."""
    for tag in list(dataset.keys()):
        element = dataset.get_item(tag)
        yield tag, element.value
        if _is_sequence(tag, element):
            for item in dataset[tag].value or []:
                yield from _elements(item)


def _is_sequence(tag: Any, element: Any) -> bool:
    from pydicom.datadict import dictionary_VR

    if element.VR not in (None, "UN"):
        return bool(element.VR == "SQ")
    try:
        return dictionary_VR(tag) == "SQ"
    except KeyError:
        return False


def _is_filled(value: Any) -> bool:
    if isinstance(value, bytes):
        return bool(value.strip(b" \0"))
    return bool(value is not None and str(value).strip(" \0") not in ("", "[]"))


def _statements(dataset: Dataset) -> Iterator[tuple[str, str]]:
    """What the header says about itself, and what kind of object it is."""
    removed = _text(dataset, "PatientIdentityRemoved")
    if removed != "YES":
        yield "dicom-identity-not-removed", _said("PatientIdentityRemoved", removed)
    burned_in = _text(dataset, "BurnedInAnnotation")
    if burned_in != "NO":
        yield "dicom-burned-in", _said("BurnedInAnnotation", burned_in)
    if _text(dataset, "RecognizableVisualFeatures") == "YES":
        yield "dicom-face", "RecognizableVisualFeatures is YES"
    types = {part.strip() for part in _text(dataset, "ImageType").split("\\")}
    risks = {
        "Modality": _text(dataset, "Modality") in RISKY_MODALITIES,
        "ConversionType": _text(dataset, "ConversionType") in RISKY_CONVERSIONS,
        "ImageType": bool(types & RISKY_TYPES),
        "SOPClassUID": _text(dataset, "SOPClassUID").startswith(SECONDARY_CAPTURE),
    }
    if any(risks.values()):
        yield "dicom-burned-in-risk", ", ".join(name for name, risky in risks.items() if risky)


def _said(keyword: str, value: str) -> str:
    """The answer, if it is one of the standard's; what else stands there is not repeated."""
    return f"{keyword} is {value if value in ('YES', 'NO') else 'absent' if not value else 'odd'}"


def _text(dataset: Dataset, keyword: str) -> str:
    value = dataset.get(keyword)
    parts = [value] if isinstance(value, str) or not hasattr(value, "__iter__") else value
    return "\\".join("" if part is None else str(part) for part in parts).strip(" \0").upper()

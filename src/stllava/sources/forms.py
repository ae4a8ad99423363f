"""Which of its forms a published data set lies there in; the official one goes first."""

from __future__ import annotations

from pathlib import Path

from stllava.errors import DataError
from stllava.reading.table import SUFFIXES, columns_of
from stllava.sources import hub, path_vqa, slake, vqa_rad, vqa_rad_mevf
from stllava.sources.place import Place, Split
from stllava.sources.published import refuse_other
from stllava.sources.questions import Questions
from stllava.sources.store import ImageStore


def read_vqa_rad(
    place: Place,
    split: Split,
    *,
    restated: bool = False,
    look: bool = True,
    extract_to: Path | None = None,
) -> Questions:
    """VQA-RAD's official file, MEVF's pair of files, or the hub's rows.

    `restated` prefers, and allows, MEVF's 3,064 training questions.
    """
    keys = keys_of(place.file) if place.file else ()
    if place.file is not None:
        refuse_other(place.file, keys, "vqa-rad")
    if split == "validation":
        raise DataError(f"{place.folder}: VQA-RAD has no validation split; set split to test")
    mevf = vqa_rad_mevf.FILES[split]
    is_official = "image_case_url" in keys or place.has(vqa_rad.QUESTIONS)
    if is_official and not (restated and place.file is None and place.has(mevf)):
        return vqa_rad.read_questions(place.root, split, place.find(vqa_rad.QUESTIONS), look=look)
    if "phrase_type" in keys or (place.file is None and place.has(mevf)):
        file = place.find(mevf)
        return vqa_rad_mevf.read_questions(file, place.root, split, restated=restated, look=look)
    store = ImageStore(place.root, extract_to=extract_to, look=look)
    if place.file is not None:
        return hub.read("vqa-rad", [place.file], split, store)
    if place.has(*hub.PATTERNS):
        return hub.read("vqa-rad", hub.shards_of(place, split), split, store)
    raise DataError(
        f"{place.folder}: no {vqa_rad.QUESTIONS!r}, {mevf} or *.parquet in it; get VQA-RAD from "
        "osf.io/89kps"
    )


def read_path_vqa(
    place: Place, split: Split, *, look: bool = True, extract_to: Path | None = None
) -> Questions:
    """PathVQA's official pickles, the LXMERT file, or the hub's rows."""
    if place.file is not None:
        keys = keys_of(place.file)
        refuse_other(place.file, keys, "path-vqa")
        is_hub = place.file.suffix != ".pkl" and "sentf" not in keys
    else:
        is_hub = not place.has(*path_vqa.patterns(split)) and place.has(*hub.PATTERNS)
    if not is_hub:
        return path_vqa.read_questions(place, split, look=look)
    store = ImageStore(place.root, extract_to=extract_to, look=look)
    return hub.read("path-vqa", hub.shards_of(place, split), split, store)


def read_slake(
    place: Place, split: Split, *, language: slake.Language = "en", look: bool = True
) -> Questions:
    """SLAKE's file of a split."""
    file = place.find(*slake.FILES[split])
    refuse_other(file, keys_of(file), "slake")
    return slake.read_questions(place, split, language=language, look=look)


def keys_of(file: Path) -> tuple[str, ...]:
    """Keys of a table's records, by which its form is known; () for other files."""
    return columns_of(file) if file.suffix.lower() in SUFFIXES else ()

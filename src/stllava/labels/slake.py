"""SLAKE's boxes as a table of labels: which organs and diseases are in each image.

Every image folder of SLAKE (Liu et al. 2021) has a detection.json with the boxes of organs and
diseases that its annotators found. A box says that something is there. That nothing was boxed does
not say that it is absent: chest X-rays have boxes of diseases alone, and what was not annotated in
one image may be seen in it. The rule here: **an organ is absent only where its place in the body
is at least two regions away from the imaged one** in the order head, neck, chest, abdomen, pelvis
(fields of view reach into the next region, never into the one after). A disease is never absent.
Otherwise the cell is empty: unknown.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import yaml

from stllava.errors import DataError
from stllava.files import disk_errors, write_text
from stllava.labels.mapping import Columns, Finding
from stllava.reading.json import read_entries

QUESTIONS = ("train*.json", "valid*.json", "test*.json")
REGIONS = ("head", "neck", "chest", "abdomen", "pelvis")
LOCATIONS = {  # `location` of SLAKE's questions -> region
    "Brain": "head", "Brain_Tissue": "head", "Brain_Face": "head", "Neck": "neck", "Lung": "chest",
    "Chest_lung": "chest", "Chest_heart": "chest", "Chest_mediastinal": "chest",
    "Abdomen": "abdomen", "Pelvic Cavity": "pelvis",
}  # fmt: skip
# Organ -> regions in which parts of it may lie. The spinal cord may be in any.
ORGANS = {
    "brain stem": ("head",),
    "temporal lobe": ("head",),
    "eye": ("head",),
    "ear": ("head",),
    "mandible": ("head", "neck"),
    "parotid": ("head", "neck"),
    "tooth": ("head", "neck"),
    "larynx": ("neck",),
    "trachea": ("neck", "chest"),
    "esophagus": ("neck", "chest", "abdomen"),
    "lung": ("neck", "chest"),
    "heart": ("chest",),
    "liver": ("chest", "abdomen"),
    "spleen": ("abdomen",),
    "stomach": ("abdomen",),
    "duodenum": ("abdomen",),
    "kidney": ("abdomen",),
    "small bowel": ("abdomen", "pelvis"),
    "colon": ("abdomen", "pelvis"),
    "rectum": ("pelvis",),
    "bladder": ("pelvis",),
    "femoral head": ("pelvis",),
    "spinal cord": REGIONS,
}
SIDED = ("temporal lobe", "eye", "ear", "mandible", "parotid", "lung", "kidney", "femoral head")
DISEASES = {
    "Atelectasis": "atelectasis",
    "Brain Edema": "brain edema",
    "Brain Enhancing Tumor": "an enhancing brain tumor",
    "Brain Non-enhancing Tumor": "a non-enhancing brain tumor",
    "Cardiomegaly": "cardiomegaly",
    "Effusion": "an effusion",
    "Infiltrate": "an infiltrate",
    "Liver Cancer": "liver cancer",
    "Lung Cancer": "lung cancer",
    "Mass": "a mass",
    "Nodule": "a nodule",
    "Pneumonia": "pneumonia",
    "Pneumothorax": "a pneumothorax",
}
LICENCE = "CC BY 4.0 (SLAKE, Liu et al. 2021, med-vqa.com/slake)"


class Boxes(NamedTuple):
    """`rows`: one per image, column -> cell, "" where nothing is known."""

    rows: tuple[dict[str, str], ...]
    columns: Columns


def slake_boxes(root: Path) -> Boxes:
    """Read all detection.json files below `root`/imgs. Raises DataError if there are none.

    `root` also holds SLAKE's question files, from which modality and region of each image come.
    """
    folder = root / "imgs"
    places = _places(root)
    rows = []
    for file in sorted(folder.glob("*/detection.json"), key=lambda f: (len(f.parent.name), f)):
        modality, location = places.get(file.parent.name, ("", ""))
        row = {"image": f"{file.parent.name}/source.jpg", "modality": modality}
        row |= _cells(_names(file), LOCATIONS.get(location, ""), file)
        rows.append(row)
    if not rows:
        raise DataError(f"{folder}: no detection.json below it; unpack SLAKE's imgs.zip there")
    findings = {
        **{name.replace(" ", "_"): _organ(name) for name in ORGANS},
        **{_key(name): Finding(column=_key(name), wording=w) for name, w in DISEASES.items()},
    }
    columns = Columns(image="image", modality="modality", findings=findings, licence=LICENCE)
    return Boxes(tuple(rows), columns)


def is_absent(organ: str, region: str) -> bool:
    """Whether the organ is certain not to be in an image of the region; False for region ""."""
    if not region:
        return False
    here = REGIONS.index(region)
    return all(abs(REGIONS.index(place) - here) >= 2 for place in ORGANS[organ])


def save(boxes: Boxes, folder: Path) -> tuple[Path, Path]:
    """Write labels.csv and mapping.yaml as a recipe's `file` and `mapping` name them."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(boxes.rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(boxes.rows)
    mapping = yaml.safe_dump(
        boxes.columns.model_dump(mode="json", exclude_defaults=True), sort_keys=False
    )
    table, meaning = folder / "labels.csv", folder / "mapping.yaml"
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        write_text(table, text.getvalue())
        write_text(meaning, mapping)
    return table, meaning


def _organ(name: str) -> Finding:
    kind = "sided" if name in SIDED else "binary"
    return Finding(column=name.replace(" ", "_"), kind=kind, wording=name, of="structure")


def _key(disease: str) -> str:
    return disease.lower().replace(" ", "_").replace("-", "_")


def _cells(names: Iterable[str], region: str, file: Path) -> dict[str, str]:
    boxed = set(names)
    unknown = boxed - {_boxed(side, organ) for organ in ORGANS for side in ("", "left", "right")}
    unknown -= set(DISEASES)
    if unknown:
        raise DataError(f"{file}: {min(unknown)!r} is no organ or disease of SLAKE")
    cells = {}
    for organ in ORGANS:
        sides = [side for side in ("left", "right") if _boxed(side, organ) in boxed]
        there = "both" if len(sides) == 2 else sides[0] if sides else ""
        if organ not in SIDED:
            there = "yes" if _boxed("", organ) in boxed else ""
        absent = not there and is_absent(organ, region)
        cells[organ.replace(" ", "_")] = "no" if absent else there
    cells |= {_key(disease): "yes" if disease in boxed else "" for disease in DISEASES}
    return cells


def _boxed(side: str, organ: str) -> str:
    return f"{side} {organ}".strip().title()


def _names(file: Path) -> list[str]:
    """Names of the boxes: a list of {name: [x, y, width, height]}."""
    try:
        boxes = json.loads(file.read_bytes())
        return [name for box in boxes for name in box]
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{file}: not a list of boxes ({error}); download it again") from None


def _places(root: Path) -> dict[str, tuple[str, str]]:
    """Image folder -> (modality, location), from every question file there is."""
    places: dict[str, tuple[str, str]] = {}
    for pattern in QUESTIONS:
        for file in sorted(root.glob(pattern)):
            for entry in read_entries(file):
                row = entry.value or {}
                name, _, _ = str(row.get("img_name", "")).partition("/")
                places[name] = (str(row.get("modality", "")), str(row.get("location", "")))
    return places

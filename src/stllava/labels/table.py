"""A table of labels or reports, read: one `Labelled` per image, with its part of the data."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from stllava.config import PlaceSection
from stllava.errors import DataError
from stllava.images import resolve
from stllava.labels import mapping as mappings
from stllava.labels.mapping import Columns, did_you_mean
from stllava.labels.split import IMAGES, PARTS, Part, split_groups
from stllava.labels.values import Value, values_of
from stllava.reading import table as tables
from stllava.records import Dropped, JSONObject
from stllava.sources import STAGE, SourceImage, image_ids
from stllava.sources.place import Place
from stllava.sources.store import ImageStore, UnusableError

PART_NAMES: dict[str, Part] = {
    **{part: part for part in PARTS},
    "val": "dev",
    "valid": "dev",
    "validate": "dev",
    "validation": "dev",
    "training": "train",
    "testing": "test",
}
STRICTEST = ("test", "dev", "train")  # where a patient goes whom the table puts into several


class Labelled(NamedTuple):
    """One image and all that is known of it."""

    image: SourceImage
    part: Part
    values: dict[str, Value]  # by finding; what is unknown is not in it
    modality: str = ""
    view: str = ""
    report: str = ""


class Table(NamedTuple):
    """All usable rows in file order."""

    rows: tuple[Labelled, ...]
    columns: Columns
    repairs: dict[str, int]
    dropped: tuple[Dropped, ...]
    warnings: tuple[str, ...]


class _Row(NamedTuple):
    path: str
    group: str  # "": not said
    part: str  # "": not said
    values: dict[str, Value]
    modality: str
    view: str
    report: str


def read_table(section: PlaceSection, place: Place, *, images: bool = True) -> Table:
    """Read the table with its mapping; images are looked for, below the root, if `images`.

    Parts are made of all readable rows, so that they do not depend on which images are there.
    Raises DataError for an unknown column (with those there are) or a table without a usable row.
    """
    if place.file is None:
        raise DataError(f"{place.root}: which file is the table? name it in `file`")
    path, columns = place.file, _mapping(section, place)
    _check_columns(path, columns, section.mapping or "columns")
    repairs: Counter[str] = Counter()
    dropped: list[Dropped] = []
    rows = _rows(path, columns, repairs, dropped)
    ids = image_ids(row.path for row in rows)
    groups = {row.path: row.group or ids[row.path] for row in rows}
    if columns.group:
        repairs["row without a patient, split on its own"] = sum(not row.group for row in rows)
    parts = _parts(rows, groups, columns, repairs)
    store = ImageStore(place.root, look=images)
    found: list[Labelled] = []
    for row in rows:
        try:
            store.place(row.path)
            image = SourceImage(ids[row.path], row.path, groups[row.path])
            part = parts[groups[row.path]]
            found.append(Labelled(image, part, row.values, row.modality, row.view, row.report))
        except UnusableError as error:
            dropped.append(Dropped(id=row.path, stage=STAGE, reason=str(error)))
    if not found:
        first = dropped[0].reason if dropped else "it is empty"
        raise DataError(f"{path}: no usable row ({first})")
    warnings = () if columns.group else (_no_patients(path, columns),)
    return Table(tuple(found), columns, dict(+repairs), tuple(dropped), warnings)


def _no_patients(path: Path, columns: Columns) -> str:
    unit = f"{columns.study!r}" if columns.study else "each image on its own"
    return f"{path.name}: no column says which patient; split by {unit}, so patients may straddle"


def _mapping(section: PlaceSection, place: Place) -> Columns:
    if section.mapping is None:
        return mappings.from_columns(section.columns)
    path = Path(section.mapping)
    return mappings.load(path if path.exists() else place.folder / path)


def _check_columns(path: Path, columns: Columns, where: str) -> None:
    there = tables.columns_of(path)
    for field, column in columns.named().items():
        if column not in there:
            hint = did_you_mean(column, there)
            listed = ", ".join(there)
            raise DataError(
                f"{where}: {field}: {path} has no column {column!r}{hint}; it has {listed}"
            )


def _rows(
    path: Path, columns: Columns, repairs: Counter[str], dropped: list[Dropped]
) -> list[_Row]:
    seen: dict[str, _Row] = {}
    for entry in tables.read_rows(path):
        try:
            if entry.problem:
                raise UnusableError(entry.problem)
            row = _row(entry.value, columns, path, dropped, entry.place)
            first = seen.setdefault(row.path, row)
            if first != row:
                raise UnusableError(f"image {row.path!r} again, with other labels")
            repairs["repeated row left out"] += first is not row
        except UnusableError as error:
            dropped.append(Dropped(id=entry.place, stage=STAGE, reason=str(error)))
    return list(seen.values())


def _row(
    cells: JSONObject, columns: Columns, path: Path, dropped: list[Dropped], place: str
) -> _Row:
    def cell(column: str | None) -> str:
        value = cells.get(column) if column else None
        return "" if value is None else str(value).strip()

    image = cell(columns.image)
    if not isinstance(cells.get(columns.image) or "", str):
        raise UnusableError(f"image in column {columns.image!r} is not a path")
    if not image:
        raise UnusableError(f"no image in column {columns.image!r}")
    view = cell(columns.view)
    if columns.views and view not in columns.views:
        raise UnusableError(f"view {view!r} is not among those to use")
    part = cell(columns.split)
    if columns.split and part.lower() not in PART_NAMES:
        raise UnusableError(f"split {part!r} is none of {', '.join(PARTS)}")
    values = dict(values_of(cells, columns, dropped, place))
    group = cell(columns.group) or cell(columns.study)
    report = _report(cell(columns.report), columns, path)
    return _Row(image, group, PART_NAMES.get(part.lower(), ""), values, cell(columns.modality),
                view, report)  # fmt: skip


def _report(cell: str, columns: Columns, path: Path) -> str:
    if not (cell and columns.report_files):
        return cell
    folder = path.parent / columns.report_files
    try:
        return resolve(folder, cell).read_text(encoding="utf-8", errors="replace")
    except DataError as error:
        raise UnusableError(str(error)) from None
    except OSError as error:
        raise UnusableError(f"report {cell!r} cannot be read ({error.strerror})") from None


def _parts(
    rows: list[_Row], groups: dict[str, str], columns: Columns, repairs: Counter[str]
) -> dict[str, Part]:
    """Part of each patient: as the table says, or stratified by the findings that are present."""
    said: dict[str, set[str]] = {}
    counts: dict[str, Counter[str]] = {}
    for row in rows:
        group = groups[row.path]
        said.setdefault(group, set()).add(row.part)
        present = [name for name, value in row.values.items() if value.present and not value.text]
        counts.setdefault(group, Counter()).update([IMAGES, *present])
    if not columns.split:
        return split_groups(counts, columns.seed, columns.fractions)
    repairs["patient in several splits, moved to the strictest"] += sum(
        len(parts) > 1 for parts in said.values()
    )
    return {g: PART_NAMES[next(p for p in STRICTEST if p in parts)] for g, parts in said.items()}

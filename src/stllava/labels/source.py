"""Labels or reports as a source: the training part, by patient, as instruction data."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from stllava.config import PlaceSection, SourceSection
from stllava.errors import DataError
from stllava.labels.conversations import conversations
from stllava.labels.questions import samples
from stllava.labels.report import Report, read_report
from stllava.labels.split import Part
from stllava.labels.table import Labelled, Table, read_table
from stllava.sources import SourceData
from stllava.sources.place import Place, place_of

NAME = "labels"


class PartOfTable(NamedTuple):
    """The images of one part of the data, with what their reports say."""

    table: Table
    rows: tuple[Labelled, ...]
    reports: dict[str, Report]  # by image id; those with a usable sentence
    repairs: dict[str, int]


def read(section: SourceSection) -> SourceData:
    """Images of the training part and their conversations. `source: reports` needs a report column.

    Raises DataError if the table, its mapping or its columns are not as named, or if the part has
    no images.
    """
    place = place_of(section, section.source)
    found = read_part(section, place, "train", images=True)
    table = found.table
    if section.source == "reports" and table.columns.report is None:
        raise DataError(f"{section.file}: no report column; name it: columns: {{report: COLUMN}}")
    if section.source == "labels" and not table.columns.findings:
        raise DataError(f"{section.file}: no findings; name their columns in a mapping file")
    return SourceData(
        images=tuple(row.image for row in found.rows),
        conversations=tuple(conversations(found.rows, table.columns, found.reports)),
        samples=tuple(samples(found.rows, table.columns, found.reports, split="train")),
        repairs=found.repairs,
        dropped=table.dropped,
        root=place.root,
        warnings=table.warnings,
        licence=table.columns.licence,
    )


def read_part(section: PlaceSection, place: Place, part: Part, *, images: bool) -> PartOfTable:
    """One part of a table. The parts of one table and mapping never share a patient."""
    table = read_table(section, place, images=images)
    rows = tuple(row for row in table.rows if row.part == part)
    if not rows:
        raise DataError(f"{place.file}: no patient is in {part}; check its split or `fractions`")
    counts: Counter[str] = Counter(table.repairs)
    reports = {row.image.id: read_report(row.report, counts) for row in rows if row.report}
    usable = {image: found for image, found in reports.items() if found.sentences}
    counts["report without a usable sentence"] += len(reports) - len(usable)
    return PartOfTable(table, rows, usable, dict(+counts))

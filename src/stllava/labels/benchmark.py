"""Labels or reports as a benchmark: questions on patients that the source never trains on."""

from __future__ import annotations

from stllava.benchmarks import Benchmark
from stllava.config import BenchmarkSection
from stllava.errors import DataError
from stllava.labels.questions import samples
from stllava.labels.source import NAME, read_part
from stllava.labels.split import Part
from stllava.sources.place import place_of

PARTS: dict[str, Part] = {"train": "train", "validation": "dev", "test": "test"}


def read(section: BenchmarkSection, *, root: str | None = None, images: bool = True) -> Benchmark:
    """Questions of the section's split. `root`: where the section names none.

    The split is a pure function of table and mapping: give the source the same two and no patient
    is in both. With `images` False nobody looks for image files. Raises DataError as the source.
    """
    place = place_of(section, "labels", root)
    found = read_part(section, place, PARTS[section.split], images=images)
    columns = found.table.columns
    questions = tuple(samples(found.rows, columns, found.reports, split=section.split))
    if not questions:
        raise DataError(f"{place.file}: no question can be made of its {section.split} part")
    return Benchmark(
        name=NAME,
        samples=questions,
        images=tuple(row.image for row in found.rows),
        repairs=found.repairs,
        warnings=found.table.warnings,
        root=place.root if images else None,
        dropped=found.table.dropped,
        licence=columns.licence,
    )

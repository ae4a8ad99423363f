"""`read_source`: a section of the recipe becomes images, conversations and training questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from stllava.config import SourceSection
from stllava.errors import RecipeError
from stllava.reading import Entry, parquet
from stllava.reading.table import read_rows
from stllava.sources import SourceData, folder, hub, llava_json, messages, table
from stllava.sources.conversations import collect
from stllava.sources.forms import read_path_vqa, read_slake, read_vqa_rad
from stllava.sources.place import Place, place_of, split_of
from stllava.sources.questions import as_source
from stllava.sources.store import ImageStore

CONVERSATIONS = ("conversations.json*", "train.json*", "*.json", "*.jsonl")

Reader = Callable[[SourceSection, Place, "Path | None"], SourceData]


def read_source(section: SourceSection, *, extract_to: Path | None) -> SourceData:
    """Read one source. Images embedded in its files are written, as they are, to `extract_to`.

    Raises RecipeError if the section says too little, DataError if its files cannot be used.
    """
    if section.source in ("labels", "reports"):
        from stllava.labels import source as labels

        return labels.read(section)
    reader = READERS.get(section.source)
    if reader is None:
        raise RecipeError(f"data.source: {section.source!r} is not read from files")
    place = place_of(section, f"source {section.source}")
    found = reader(section, place, extract_to)
    if any(sample.split == "test" for sample in found.samples):
        warning = f"source {section.source}: {place.file} is a test set; do not test on it"
        found = found._replace(warnings=(*found.warnings, warning))
    return found if found.root is not None else found._replace(root=place.root)


def _folder(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    return folder.read(place.root)


def _llava(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    if place.has("*.parquet") and not place.has("*.json", "*.jsonl"):
        return _parquet(section, place, extract_to)
    return llava_json.read(_conversations(section, place), place.root)


def _messages(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    if place.has("*.parquet") and not place.has("*.json", "*.jsonl"):
        return _parquet(section, place, extract_to)
    return messages.read(_conversations(section, place), place.root, extract_to)


def _conversations(section: SourceSection, place: Place) -> Path:
    files = place.find_all(*CONVERSATIONS)
    if len(files) > 1:
        names = ", ".join(path.name for path in files[:5])
        raise RecipeError(f"data.file: not set, and {place.folder} holds {names}; name the file")
    return files[0]


def _vqa_rad(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    split = split_of(place.file) or "train"
    found = read_vqa_rad(place, split, restated=section.restated, extract_to=extract_to)
    return as_source(found, "vqa-rad")


def _slake(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    split = split_of(place.file) or "train"
    return as_source(read_slake(place, split, language=section.language), "slake")


def _path_vqa(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    split = split_of(place.file) or "train"
    return as_source(read_path_vqa(place, split, extract_to=extract_to), "path-vqa")


def _table(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    store = ImageStore(place.root, extract_to=extract_to)
    files = place.find_all(*table.files_of("train"))
    return as_source(
        table.read_questions(files, store, table.Form(columns=section.columns)), "table"
    )


def _parquet(section: SourceSection, place: Place, extract_to: Path | None) -> SourceData:
    """Conversations, messages or question rows, told apart by the columns."""
    files = hub.shards_of(place, "train")
    renamed = {column: field for field, column in section.columns.items()}
    columns = {renamed.get(name, name) for name in parquet.columns_of(files[0])}
    store = ImageStore(place.root, extract_to=extract_to)
    if columns & {"conversations", "conversatons"}:
        return collect(files[0], _renamed(files, renamed), llava_json.parse, store)
    if "messages" in columns:
        return collect(files[0], _renamed(files, renamed), messages.parse, store)
    form = table.Form("parquet", columns=section.columns)
    return as_source(table.read_questions(files, store, form), "parquet")


def _renamed(files: Sequence[Path], renamed: dict[str, str]) -> Iterator[Entry]:
    for file in files:
        for entry in read_rows(file):
            if not entry.problem:
                row = {renamed.get(name, name): value for name, value in entry.value.items()}
                entry = entry._replace(value=row)
            yield entry


READERS: dict[str, Reader] = {
    "folder": _folder,
    "llava": _llava,
    "messages": _messages,
    "vqa-rad": _vqa_rad,
    "slake": _slake,
    "path-vqa": _path_vqa,
    "table": _table,
    "parquet": _parquet,
}

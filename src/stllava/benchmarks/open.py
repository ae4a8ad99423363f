"""`read_benchmark`: a section of the recipe becomes questions with reference answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from stllava.benchmarks import Benchmark, as_benchmark, choice, jsonl, llava_med
from stllava.config import BenchmarkSection
from stllava.errors import RecipeError
from stllava.sources import hub, table
from stllava.sources.forms import read_path_vqa, read_slake, read_vqa_rad
from stllava.sources.place import Place, Split, place_of, split_of
from stllava.sources.store import ImageStore


class Wanted(NamedTuple):
    """What a reader is told."""

    section: BenchmarkSection
    place: Place
    split: Split  # the section's, unless the name of its file says another
    look: bool  # for images
    extract_to: Path | None

    def store(self, prefixes: Sequence[str] = ("",)) -> ImageStore:
        root, extract_to = self.place.root, self.extract_to
        return ImageStore(root, prefixes=prefixes, extract_to=extract_to, look=self.look)


def read_benchmark(
    section: BenchmarkSection,
    *,
    root: str | None = None,
    images: bool = True,
    extract_to: Path | None = None,
) -> Benchmark:
    """Read one benchmark; `root` is its folder where the section names none.

    Without `images` the questions alone are read: no image file is needed, `Benchmark.root` is
    None, and `Benchmark.images` says ids and groups only. `section.file` and `section.root` may
    each be a file or a folder. Raises RecipeError or DataError.
    """
    if section.benchmark == "labels":
        from stllava.labels import benchmark as labels

        return labels.read(section, root=root, images=images)
    reader = READERS.get(section.benchmark)
    if reader is None:
        raise RecipeError(f"eval.benchmark: {section.benchmark!r} is not read from files")
    place = place_of(section, f"benchmark {section.benchmark}", root)
    split = split_of(place.file) or section.split
    found = reader(Wanted(section, place, split, images, extract_to))
    return found if images else found._replace(root=None)


def _vqa_rad(wanted: Wanted) -> Benchmark:
    found = read_vqa_rad(
        wanted.place,
        wanted.split,
        restated=wanted.section.restated,
        look=wanted.look,
        extract_to=wanted.extract_to,
    )
    return as_benchmark("vqa-rad", found)


def _slake(wanted: Wanted) -> Benchmark:
    language = wanted.section.language
    found = read_slake(wanted.place, wanted.split, language=language, look=wanted.look)
    return as_benchmark("slake", found)


def _pope(wanted: Wanted) -> Benchmark:
    from stllava.benchmarks import pope  # reads labels, which know benchmarks

    place = wanted.place
    found = read_slake(place, wanted.split, language="all", look=wanted.look)
    return pope.read(place.root, found)


def _path_vqa(wanted: Wanted) -> Benchmark:
    extract_to = wanted.extract_to
    found = read_path_vqa(wanted.place, wanted.split, look=wanted.look, extract_to=extract_to)
    return as_benchmark("path-vqa", found)


def _llava_med(wanted: Wanted) -> Benchmark:
    columns = wanted.section.columns
    return as_benchmark(
        "llava-med", llava_med.read_questions(wanted.place, wanted.store(), columns)
    )


def _jsonl(wanted: Wanted) -> Benchmark:
    file = wanted.place.find(f"{wanted.split}.jsonl", "samples.jsonl")
    found = jsonl.read(file)
    return jsonl.with_images(found, wanted.place.root) if wanted.look else found


def _table(wanted: Wanted) -> Benchmark:
    section = wanted.section
    files = wanted.place.find_all(*table.files_of(wanted.split))
    form = table.Form("table", wanted.split, section.columns)
    return as_benchmark(files[0].stem, table.read_questions(files, wanted.store(), form))


def _parquet(wanted: Wanted) -> Benchmark:
    section = wanted.section
    files = hub.shards_of(wanted.place, wanted.split)
    form = table.Form("parquet", wanted.split, section.columns)
    return as_benchmark("parquet", table.read_questions(files, wanted.store(), form))


def _choice(wanted: Wanted) -> Benchmark:
    found = choice.read_questions(wanted.place, wanted.split, wanted.store(choice.IMAGE_FOLDERS))
    return as_benchmark("choice", found)


READERS: dict[str, Callable[[Wanted], Benchmark]] = {
    "vqa-rad": _vqa_rad,
    "slake": _slake,
    "pope": _pope,
    "path-vqa": _path_vqa,
    "llava-med": _llava_med,
    "jsonl": _jsonl,
    "table": _table,
    "parquet": _parquet,
    "choice": _choice,
}

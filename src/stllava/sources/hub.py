"""VQA-RAD and PathVQA as the hub has them: image, question and answer, images inside the file.

The hub's copies (flaviagiammarino/vqa-rad, path-vqa) are lower-cased, without repeated rows and
without annotations: which questions are closed is read from the answers, and a warning says so.
The same rows as JSON text, with image paths, are read too.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from stllava.errors import DataError
from stllava.sources.place import Place, shards
from stllava.sources.published import LICENCES, deviation, refuse_other_size
from stllava.sources.questions import Questions
from stllava.sources.store import ImageStore
from stllava.sources.table import Form, read_questions

PATTERNS = ("*.parquet", "data/*.parquet", "*/*.parquet")
FORMS = {"vqa-rad": "VQA-RAD (hub form)", "path-vqa": "PathVQA (hub form)"}


def read(name: str, files: Sequence[Path], split: str, store: ImageStore) -> Questions:
    """Read one split of the data set `name`, a key of FORMS. Raises DataError for the other."""
    form = Form(name, split, infer_kind=True, licence=LICENCES[name])
    found = read_questions(files, store, form)
    if not found.samples:  # a table of images alone is fine elsewhere, but no such data set
        raise DataError(f"{files[0]}: no questions in it, so it is no form of {name}")
    refuse_other_size(files[0], len(found.samples), split, FORMS[name])
    deviating = deviation(FORMS[name], split, found.samples)
    return found._replace(warnings=(*found.warnings, *([deviating] if deviating else [])))


def shards_of(place: Place, split: str) -> list[Path]:
    """The Parquet files of a split, by their names; all of them where no name says a split."""
    files = place.find_all(*PATTERNS)
    wanted = shards(files, split)
    if wanted or place.file is not None:
        return wanted or files
    if any(shards(files, other) for other in ("train", "validation", "test")):
        names = ", ".join(path.name for path in files[:5])
        raise DataError(f"{place.folder}: no Parquet file for {split} among {names}")
    return files

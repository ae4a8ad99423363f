"""VQA-RAD (Lau et al. 2018) in its official form: one JSON file and one image folder.

2,248 questions on 314 radiology images; `phrase_type` names the official split: 1,797 to train and
451 to test, with 202 of the 203 test images also in training. Other forms: `vqa_rad_mevf`, `hub`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Literal

from stllava.errors import DataError
from stllava.reading import Entry
from stllava.reading.json import read_entries
from stllava.records import JSONObject, VQASample
from stllava.sources import SourceData, SourceImage
from stllava.sources.options import options_in
from stllava.sources.published import LICENCES, deviation
from stllava.sources.questions import Collector, Questions, as_source
from stllava.sources.store import ImageStore, UnusableError
from stllava.sources.text import ABSENT, alias, clean, kind_of

QUESTIONS = "VQA_RAD Dataset Public.json"
IMAGES = "VQA_RAD Image Folder"
IMAGE_FOLDERS = (IMAGES, "VQA_RAD_Image_Folder", "images")
TEST_PREFIX = "test_"  # of phrase_type
TYPE_REPAIRS = {"ATRIB": "ATTRIB", "PRSE": "PRES", "Other": "OTHER"}
NEEDED = ("qid", "image_name", "phrase_type", "question", "answer", "answer_type")

Split = Literal["train", "test"]


def read(root: Path, file: Path | None = None) -> SourceData:
    """Return the training part: one conversation per image, its questions in file order.

    Repeated rows stay, so that the official 1,797 are there; they are counted in `repairs`.
    """
    return as_source(read_questions(root, "train", file), "vqa-rad")


def read_questions(
    root: Path, split: Split, file: Path | None = None, *, look: bool = True
) -> Questions:
    """Read one split. Repairs and dropped rows are those of the whole file."""
    table = read_table(root, file, look=look)
    samples = table.split(split)
    used = dict.fromkeys(sample.image for sample in samples)
    warnings = [deviation("VQA-RAD", split, samples)]
    trained_on = {sample.image for sample in table.split("train")}
    num_shared = sum(image in trained_on for image in used) if split == "test" else 0
    if num_shared:
        warnings.append(f"VQA-RAD test: {num_shared} of {len(used)} images are also in training")
    return table._replace(
        samples=samples,
        images={image: table.images[image] for image in used},
        warnings=tuple(warning for warning in warnings if warning),
    )


def read_table(root: Path, file: Path | None = None, *, look: bool = True) -> Questions:
    """Read and repair all questions; a row that lacks a field or its image is dropped.

    `look` False reads the questions alone and needs no image folder.
    """
    path = file or root / QUESTIONS
    if not path.is_file():
        raise DataError(f"{path}: no such file; get VQA-RAD from osf.io/89kps")
    entries = list(read_entries(path))
    folder = image_folder(root) if look else IMAGES
    collector = Collector(ImageStore(root, prefixes=(folder,), look=look))
    rows = {entry.place: entry.value for entry in entries if isinstance(entry.value, dict)}
    groups = _groups(row for row in rows.values() if _has_text(row, "image_name"))
    for number, entry in enumerate(entries):
        try:
            row = checked(entry)
            sample = sample_of(row, f"vqa-rad-{row['qid']}", collector.repairs)
            place = collector.store.place(row["image_name"])
        except UnusableError as error:
            qid = rows.get(entry.place, {}).get("qid", number)
            collector.drop(f"vqa-rad-{qid}", error)
            continue
        image = SourceImage(image_id(row), place, groups[image_id(row)])
        is_test = row["phrase_type"].startswith(TEST_PREFIX)
        collector.add(sample.model_copy(update={"split": "test" if is_test else "train"}), image)
    if look:
        used = {row["image_name"] for row in rows.values() if _has_text(row, "image_name")}
        unused = sum(path.name not in used for path in (root / folder).iterdir())
        collector.repairs["image file without questions"] += unused
    return collector.finish(path, licence=LICENCES["vqa-rad"])


def image_folder(root: Path) -> str:
    """Name of the folder of images below `root`. Raises DataError if there is none."""
    for name in IMAGE_FOLDERS:
        if (root / name).is_dir():
            return name
    raise DataError(f"{root / IMAGES}: no such folder; unpack VQA-RAD's images there")


def checked(entry: Entry) -> JSONObject:
    """The row, if all that is needed is there. Raises UnusableError."""
    row = entry.value
    if entry.problem or not isinstance(row, dict):
        raise UnusableError(entry.problem or "not an object")
    missing = [name for name in NEEDED if str(row.get(name, "")).strip() in ABSENT]
    if missing:
        raise UnusableError(f"no {', '.join(missing)}")
    if not (_has_text(row, "image_name") and _has_text(row, "phrase_type")):
        raise UnusableError("image_name or phrase_type is not text")
    if kind_of(row["answer_type"], Counter()) is None:
        raise UnusableError(f"answer_type {row['answer_type']!r} is neither OPEN nor CLOSED")
    return row


def sample_of(row: JSONObject, name: str, repairs: Counter[str]) -> VQASample:
    """A checked row as a sample with id IMAGE/NAME; its split is still to be set.

    Raises UnusableError.
    """
    kind = kind_of(row["answer_type"], repairs)
    assert kind is not None
    question = clean(row["question"], "question", repairs)
    answer = clean(row["answer"], "answer", repairs)
    if not question or not answer:
        raise UnusableError("no question" if not question else "no answer")
    categories = {
        "question_type": _question_type(str(row.get("question_type", "")), repairs),
        "organ": str(row.get("image_organ", "")),
        "phrase_type": row["phrase_type"].removeprefix(TEST_PREFIX),
    }
    wordings = [
        alias(row.get(field), field, repairs) for field in ("question_rephrase", "question_frame")
    ]
    return VQASample(
        id=f"{image_id(row)}/{name}",
        image=image_id(row),
        question=question,
        answer=answer,
        kind=kind,
        options=options_in(question, answer) if kind == "closed" else (),
        answer_type=kind.upper(),
        categories={name: value for name, value in categories.items() if value not in ABSENT},
        aliases=tuple(dict.fromkeys(text for text in wordings if text not in ("", question))),
    )


def image_id(row: JSONObject) -> str:
    return PurePosixPath(row["image_name"]).stem


def _has_text(row: JSONObject, name: str) -> bool:
    return isinstance(row.get(name), str)


def _question_type(value: str, repairs: Counter[str]) -> str:
    """Several types are joined by "|", which no type contains."""
    types = [part.strip() for part in value.split(",")]
    repairs["misspelt question_type"] += sum(part in TYPE_REPAIRS for part in types)
    return "|".join(TYPE_REPAIRS.get(part, part) for part in types)


def _groups(rows: Iterable[JSONObject]) -> dict[str, str]:
    """Images that share a MedPix case share a group, named after its first image."""
    members: dict[str, set[str]] = {}
    for row in rows:
        image = image_id(row)
        members.setdefault(str(row.get("image_case_url", image)), set()).add(image)
    groups = {image: image for images in members.values() for image in images}
    for case in sorted(case for case, images in members.items() if len(images) > 1):
        joined = {groups[image] for image in members[case]}
        groups |= {image: min(joined) for image, group in groups.items() if group in joined}
    return groups

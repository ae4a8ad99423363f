"""VQA-RAD (Lau et al. 2018) in its official form: one JSON file and one image folder.

2,248 questions on 314 radiology images; `phrase_type` names the official split: 1,797 to train and
451 to test, with 202 of the 203 test images also in training. The often used MEVF form ("3,064
training questions") restates 286 test questions in its training set and is not read.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from stllava.errors import DataError
from stllava.records import Conversation, Dropped, JSONObject, Turn, VQASample
from stllava.sources import STAGE, SourceData, SourceImage

QUESTIONS = "VQA_RAD Dataset Public.json"
IMAGES = "VQA_RAD Image Folder"
TEST_PREFIX = "test_"  # of phrase_type
ABSENT = frozenset({"NULL", "NA", ""})
TYPE_REPAIRS = {"ATRIB": "ATTRIB", "PRSE": "PRES", "Other": "OTHER"}
NEEDED = ("qid", "image_name", "phrase_type", "question", "answer", "answer_type")

Split = Literal["train", "test"]


class Table(NamedTuple):
    """The repaired question table."""

    samples: tuple[VQASample, ...]  # both splits, in file order
    images: dict[str, SourceImage]  # by id
    repairs: dict[str, int]
    dropped: tuple[Dropped, ...]

    def split(self, split: Split) -> tuple[VQASample, ...]:
        return tuple(sample for sample in self.samples if sample.split == split)


def read(root: Path) -> SourceData:
    """Return the training part: one conversation per image, its questions in file order.

    Repeated rows stay, so that the official 1,797 are there; they are counted in `repairs`.
    """
    table = read_table(root)
    by_image: dict[str, list[VQASample]] = {}
    for sample in table.split("train"):
        by_image.setdefault(sample.image, []).append(sample)
    conversations = tuple(
        Conversation(
            id=f"{image}/vqa-rad",
            image=image,
            turns=tuple(Turn(question=s.question, answer=s.answer) for s in samples),
        )
        for image, samples in by_image.items()
    )
    return SourceData(
        images=tuple(table.images[image] for image in by_image),
        conversations=conversations,
        samples=table.split("train"),
        repairs=table.repairs,
        dropped=table.dropped,
    )


def read_table(root: Path) -> Table:
    """Read and repair all questions; a row that lacks a field or its image is dropped."""
    rows = _rows(root / QUESTIONS)
    if not (root / IMAGES).is_dir():
        raise DataError(f"{root / IMAGES}: no such folder; unpack VQA-RAD's images there")
    files = {path.name for path in (root / IMAGES).iterdir()}
    repairs: Counter[str] = Counter()
    dropped: list[Dropped] = []
    samples: list[VQASample] = []
    usable: list[JSONObject] = []
    for number, row in enumerate(rows):
        problem = _problem(row, files)
        if problem:
            qid = row.get("qid", number) if isinstance(row, dict) else number
            dropped.append(Dropped(id=f"vqa-rad-{qid}", stage=STAGE, reason=problem))
        else:
            usable.append(row)
            samples.append(_sample(row, repairs))
    seen = Counter((s.split, s.image, s.question.lower(), s.answer.lower()) for s in samples)
    repairs["repeated row, kept"] = seen.total() - len(seen)
    repairs["image file without questions"] = len(files - {row["image_name"] for row in usable})
    groups = _groups(usable)
    images = {
        image: SourceImage(image, f"{IMAGES}/{name}", groups[image])
        for name, image in {row["image_name"]: _image_id(row) for row in usable}.items()
    }
    return Table(tuple(samples), images, dict(+repairs), tuple(dropped))


def _rows(path: Path) -> list[JSONObject]:
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; get VQA-RAD from osf.io/89kps") from None
    except (ValueError, RecursionError) as error:
        raise DataError(f"{path}: not JSON ({error}); download it again") from None
    if not isinstance(rows, list) or not rows:
        raise DataError(f"{path}: not a list of questions; use the file from osf.io/89kps")
    return rows


def _problem(row: object, files: set[str]) -> str:
    if not isinstance(row, dict):
        return "not an object"
    missing = [name for name in NEEDED if str(row.get(name, "")).strip() in ABSENT]
    if missing:
        return f"no {', '.join(missing)}"
    if row["answer_type"].strip().upper() not in ("OPEN", "CLOSED"):
        return f"answer_type {row['answer_type']!r} is neither OPEN nor CLOSED"
    return "" if row["image_name"] in files else f"image file {row['image_name']!r} not found"


def _sample(row: JSONObject, repairs: Counter[str]) -> VQASample:
    answer_type = row["answer_type"].strip().upper()
    repairs["answer_type with blanks or lower case"] += answer_type != row["answer_type"]
    question = _text(row["question"], "question", repairs)
    answer = _text(row["answer"], "answer", repairs)
    categories = {
        "question_type": _question_type(str(row.get("question_type", "")), repairs),
        "organ": str(row.get("image_organ", "")),
        "phrase_type": row["phrase_type"].removeprefix(TEST_PREFIX),
    }
    wordings = [
        _alias(row.get(name), name, repairs) for name in ("question_rephrase", "question_frame")
    ]
    is_closed = answer_type == "CLOSED"
    return VQASample(
        id=f"{_image_id(row)}/vqa-rad-{row['qid']}",
        image=_image_id(row),
        question=question,
        answer=answer,
        kind="closed" if is_closed else "open",
        options=options_in(question, answer) if is_closed else (),
        answer_type=answer_type,
        split="test" if row["phrase_type"].startswith(TEST_PREFIX) else "train",
        categories={name: value for name, value in categories.items() if value not in ABSENT},
        aliases=tuple(dict.fromkeys(alias for alias in wordings if alias not in ("", question))),
    )


def _text(value: object, name: str, repairs: Counter[str]) -> str:
    repairs[f"{name} that is a number"] += not isinstance(value, str)
    text = str(value)
    if "\t" in text:  # the file's tabs were commas: "cardia c\tmusculoskeletal"
        repairs[f"tab in {name}"] += 1
        text = re.sub(r"(?<=\w) (\w)\t", r"\1\t", text)
        text = re.sub(r"\s*\t\s*", ", ", text)
    clean = " ".join(text.split())
    repairs[f"blanks in {name}"] += clean != text
    return clean


def _alias(value: object, name: str, repairs: Counter[str]) -> str:
    text = " ".join(str(value or "").split())
    repairs[f"'NULL' or 'NA' as {name}"] += text in ("NULL", "NA")
    return "" if text in ABSENT else text


def _question_type(value: str, repairs: Counter[str]) -> str:
    """Several types are joined by "|", which no type contains."""
    types = [part.strip() for part in value.split(",")]
    repairs["misspelt question_type"] += sum(part in TYPE_REPAIRS for part in types)
    return "|".join(TYPE_REPAIRS.get(part, part) for part in types)


def _image_id(row: JSONObject) -> str:
    return PurePosixPath(row["image_name"]).stem


def _groups(rows: Iterable[JSONObject]) -> dict[str, str]:
    """Images that share a MedPix case share a group, named after its first image."""
    members: dict[str, set[str]] = {}
    for row in rows:
        image = _image_id(row)
        members.setdefault(str(row.get("image_case_url", image)), set()).add(image)
    groups = {image: image for images in members.values() for image in images}
    for case in sorted(case for case, images in members.items() if len(images) > 1):
        joined = {groups[image] for image in members[case]}
        groups |= {image: min(joined) for image, group in groups.items() if group in joined}
    return groups


def options_in(question: str, answer: str) -> tuple[str, ...]:
    """The choices a closed question names: yes and no, or the words around its "or".

    () where the reference answer is none of those found, so that no option list is made up.
    """
    if answer.strip(" .").lower() in ("yes", "no"):
        return ("yes", "no")
    parts = re.split(r",?\s+(?:or|vs\.?)\s+", question, maxsplit=1)
    if len(parts) < 2:
        return ()
    before = [part.split() for part in parts[0].split(",")]
    width = len(before[-1]) if len(before) > 1 else 1  # "T1 weighted, T2 weighted, or ..."
    after = [word for word in parts[1].split() if word.lower() not in ("a", "an", "the", "just")]
    options = [*(" ".join(part[-width:]) for part in before), *after[:1]]
    options = [option.strip(" ,.;:?") for option in options]
    return tuple(options) if _names_one(answer, options) else ()


def _names_one(answer: str, options: Sequence[str]) -> bool:
    """True when the answer is exactly one option, at most one word longer ("Right side")."""
    found = [
        option
        for option in options
        if re.fullmatch(rf"{re.escape(option)}(?: [\w-]+)?", answer, re.IGNORECASE)
    ]
    return len(found) == 1 and len({option.lower() for option in options}) == len(options)

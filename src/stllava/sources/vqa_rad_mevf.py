"""VQA-RAD as the MEVF code ships it (Nguyen et al. 2019): trainset.json and testset.json.

The same 451 test questions, and 3,064 training questions: the official 1,797 and 1,267 "framed"
wordings, through which the training set restates 286 of the 451 test questions (284 by the official
file's `question_frame`). Numbers differ from the official ones, so ids say "mevf".
"""

from __future__ import annotations

from pathlib import Path

from stllava.errors import DataError
from stllava.reading.json import read_entries
from stllava.sources import SourceImage
from stllava.sources.published import LICENCES, deviation
from stllava.sources.questions import Collector, Questions
from stllava.sources.store import ImageStore, UnusableError
from stllava.sources.vqa_rad import (
    IMAGE_FOLDERS,
    Split,
    checked,
    image_id,
    sample_of,
)

FORM = "VQA-RAD (MEVF form)"
FILES = {"train": "trainset.json", "test": "testset.json"}
RESTATED = "restates 286 of the 451 test questions"


def read_questions(
    file: Path, root: Path, split: Split, *, restated: bool = False, look: bool = True
) -> Questions:
    """Read one of the two files; each image is its own group, for the form names no cases.

    Raises DataError for a training file with framed questions unless `restated` is set.
    """
    collector = Collector(ImageStore(root, prefixes=(*IMAGE_FOLDERS, ""), look=look))
    for number, entry in enumerate(read_entries(file)):
        try:
            row = checked(entry)
            if split == "train" and row["phrase_type"] == "frame" and not restated:
                raise DataError(
                    f"{file}: this 3,064-question form {RESTATED}; use the official file "
                    "(osf.io/89kps), or set restated: true"
                )
            sample = sample_of(row, f"vqa-rad-mevf-{row['qid']}", collector.repairs)
            place = collector.store.place(row["image_name"])
        except UnusableError as error:
            collector.drop(f"vqa-rad-mevf-{number}", error)
            continue
        image = SourceImage(image_id(row), place, image_id(row))
        collector.add(sample.model_copy(update={"split": split}), image)
    warnings = [deviation(FORM, split, collector.samples)]
    if any(sample.categories.get("phrase_type") == "frame" for sample in collector.samples):
        warnings.append(f"{FORM} {split}: {RESTATED}; scores on them are not a test")
    return collector.finish(file, warnings=warnings, licence=LICENCES["vqa-rad"])

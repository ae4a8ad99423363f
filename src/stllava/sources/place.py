"""Where a section of the recipe points: a folder, a file, or both, relative to one another."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from stllava.config import PlaceSection
from stllava.errors import DataError, RecipeError

Split = Literal["train", "validation", "test"]

# "train.json", "trainset.json", "pvqa_val.json", "test-00000-of-00001", "validate"
SPLIT_IN_NAME = re.compile(r"(?:pvqa_)?(train|val|test)(?:set|id|idate|idation)?(?![a-z])")
SPLITS: dict[str, Split] = {"train": "train", "val": "validation", "test": "test"}


class Place(NamedTuple):
    """A data set's folders, and its file where the recipe names one."""

    root: Path  # image paths start here
    folder: Path  # files are looked for here; the root unless the recipe says otherwise
    file: Path | None = None

    def find(self, *patterns: str) -> Path:
        """The named file, or the first one in the folder that a glob pattern names.

        Raises DataError that lists the patterns.
        """
        return self.find_all(*patterns)[0]

    def find_all(self, *patterns: str) -> list[Path]:
        """As `find`; all files of the first pattern that has any, sorted by path."""
        if self.file is not None:
            return [self.file]
        for pattern in patterns:
            if found := self._matching(pattern):
                return found
        raise DataError(
            f"{self.folder}: no {' or '.join(patterns)} in it; set file, or split, to what is there"
        )

    def has(self, *patterns: str) -> bool:
        """Whether the named file is such a one, or the folder holds one."""
        if self.file is not None:
            return any(self.file.match(pattern) for pattern in patterns)
        return any(self._matching(pattern) for pattern in patterns)

    def _matching(self, pattern: str) -> list[Path]:
        return sorted(path for path in self.folder.glob(pattern) if path.is_file())


def place_of(section: PlaceSection, name: str, fallback: str | None = None) -> Place:
    """The place of a section; `file` and `root` may each be a file or a folder.

    A file is looked for from where the command runs, then from the root. Raises RecipeError if
    neither is set, and DataError if one does not exist.
    """
    given_root = section.root if section.root is not None else fallback
    root = Path(given_root) if given_root is not None else None
    file = Path(section.file) if section.file is not None else None
    if file is not None and root is not None and not file.exists():
        file = root / file
    missing = next((path for path in (file, root) if path and not path.exists()), None)
    if missing is not None:
        raise DataError(f"{missing}: no such file or folder; check root and file of {name}")
    if root is not None and root.is_file():
        root, file = root.parent, file or root
    if file is None:
        if root is None:
            raise RecipeError(f"{name}: neither root nor file is set; give the data set's folder")
        return Place(root, root)
    if file.is_dir():
        return Place(root or file, file)
    return Place(root or file.parent, file.parent, file)


def split_of(file: Path | None) -> Split | None:
    """The split that a file's own name says; None if it says none."""
    if file is None:
        return None
    found = SPLIT_IN_NAME.match(file.stem.lower())
    return SPLITS[found.group(1)] if found else None


def shards(paths: Sequence[Path], split: str) -> list[Path]:
    """Those files whose name, or folder, says that they belong to a split."""
    return [path for path in paths if split in (split_of(path), split_of(path.parent))]

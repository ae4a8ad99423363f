"""A folder of images and nothing else: enough for the policy to ask its own questions.

Nothing says which images belong to one patient, so each is its own group; a data set in which
patients have several images needs a label file that says so before it is split.
"""

from __future__ import annotations

from pathlib import Path

from stllava.errors import DataError
from stllava.images import FORMATS, looks_like_image, resolve
from stllava.records import Dropped
from stllava.sources import STAGE, SourceData, SourceImage, image_ids


def read(root: Path) -> SourceData:
    """List images below `root`, sorted by path, hidden files left out; other files are dropped."""
    if not root.is_dir():
        raise DataError(f"{root}: no such folder; name the folder that holds the images")
    paths: list[str] = []
    dropped: list[Dropped] = []
    for path in _files(root):
        problem = _problem(root, path)
        if problem:
            dropped.append(Dropped(id=path, stage=STAGE, reason=problem))
        else:
            paths.append(path)
    if not paths:
        raise DataError(f"{root}: no image in it; put {', '.join(FORMATS)} files there")
    images = (SourceImage(image, path, image) for path, image in image_ids(paths).items())
    return SourceData(tuple(images), (), (), {}, tuple(dropped))


def _files(root: Path) -> list[str]:
    relative = (path.relative_to(root) for path in root.rglob("*") if not path.is_dir())
    visible = (path for path in relative if not any(part.startswith(".") for part in path.parts))
    return sorted(path.as_posix() for path in visible)


def _problem(root: Path, path: str) -> str:
    try:
        file = resolve(root, path)
    except DataError as error:
        return str(error)
    if not file.is_file():
        return "a link to nothing"
    return "" if looks_like_image(file) else f"not a {', '.join(FORMATS)} file by its name"

"""Where the images of one data set are: files below a folder, or bytes in the rows themselves.

Embedded images are written as they are, named by their content, so that equal images are one file
and a data set's training and test part agree on ids. No image is decoded.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from stllava.errors import DataError
from stllava.files import disk_errors
from stllava.images import resolve

MAX_BYTES = 256 * 2**20  # of one embedded image
ID_LENGTH = 16  # hex digits of the content's SHA-256
SIGNATURES = (
    (re.compile(rb"\xff\xd8\xff"), ".jpg"),
    (re.compile(rb"\x89PNG\r\n\x1a\n"), ".png"),
    (re.compile(rb"GIF8[79]a"), ".gif"),
    (re.compile(rb"BM"), ".bmp"),
    (re.compile(rb"II\*\x00|MM\x00\*"), ".tif"),
    (re.compile(rb"RIFF....WEBP", re.DOTALL), ".webp"),
    (re.compile(rb".{128}DICM", re.DOTALL), ".dcm"),
)


class UnusableError(ValueError):
    """Why one record is dropped; readers turn it into a Dropped."""


class ImageStore:
    """Finds, or writes, the image that a record refers to.

    `prefixes` are folders below `root` in which images may lie; `look` False takes every path as
    it is, for readers that want questions alone. `extract_to` receives embedded images.
    """

    def __init__(
        self,
        root: Path,
        *,
        prefixes: Sequence[str] = ("",),
        extract_to: Path | None = None,
        look: bool = True,
    ) -> None:
        self.given_root, self.prefixes, self.look = root, tuple(prefixes), look
        self.extract_to = extract_to
        self.is_embedded: bool | None = None  # as the first image was
        self.num_missing = 0
        self._found: dict[str, str | UnusableError] = {}

    @property
    def root(self) -> Path | None:
        """Where the paths that `place` returned start; None if nothing was looked for."""
        if not self.look:
            return None
        return self.extract_to if self.is_embedded else self.given_root

    def place(self, image: object) -> str:
        """Path of a record's image, relative to `root`: text, bytes, or {"bytes", "path"}.

        Raises UnusableError if there is none, or DataError if there is nowhere to write it.
        """
        path = image
        if isinstance(image, Mapping):
            path = image.get("bytes") if image.get("bytes") is not None else image.get("path")
        if isinstance(path, bytes):
            self._all_alike(embedded=True)
            return self._keep(path)
        if not isinstance(path, str) or not path.strip():
            raise UnusableError("no image" if not path else "image is not a path")
        self._all_alike(embedded=False)
        if path not in self._found:
            self._found[path] = self._find(path)
        found = self._found[path]
        if isinstance(found, UnusableError):
            raise found
        return found

    def _all_alike(self, *, embedded: bool) -> None:
        if self.is_embedded is None:
            self.is_embedded = embedded
        if self.is_embedded != embedded:
            raise UnusableError("image in another form than the first one of its file")

    def _find(self, path: str) -> str | UnusableError:
        if not self.look:
            return _joined(self.prefixes[0], path)
        try:
            for prefix in self.prefixes:
                if resolve(self.given_root, _joined(prefix, path)).is_file():
                    return _joined(prefix, path)
        except DataError as error:
            return UnusableError(str(error))
        self.num_missing += 1
        return UnusableError(f"image file {path!r} not found under {self.given_root}")

    def _keep(self, data: bytes) -> str:
        suffix = next((end for pattern, end in SIGNATURES if pattern.match(data)), None)
        if suffix is None or len(data) > MAX_BYTES:
            raise UnusableError("embedded image is of no known kind, or too large")
        name = hashlib.sha256(data).hexdigest()[:ID_LENGTH] + suffix
        if not self.look:
            return name
        if self.extract_to is None:
            raise DataError("images are embedded in the file, and there is no folder to write them")
        target = self.extract_to / name
        if not target.is_file():
            with disk_errors(self.extract_to):
                self.extract_to.mkdir(parents=True, exist_ok=True)
                partial = target.with_name(f".{name}.{os.getpid()}")
                partial.write_bytes(data)
                partial.replace(target)
        return name


def _joined(prefix: str, path: str) -> str:
    """`path` below `prefix`; an absolute path stays one, so that it is refused."""
    if not prefix or path.startswith(("/", "\\")) or ":" in path:
        return path
    return str(PurePosixPath(prefix) / path)

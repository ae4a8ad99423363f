"""Paths from data files: joined to the image root, and refused where they would leave it."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

from stllava.errors import DataError


def resolve(root: Path, relative: str) -> Path:
    """Join a path from a data file to the image root; refuse whatever would leave the root."""
    windows = PureWindowsPath(relative)  # splits at both kinds of slash
    problem = ""
    if not relative.strip() or "\0" in relative:
        problem = "is empty or holds a NUL"
    elif relative.startswith(("/", "\\")) or windows.drive or re.match(r"[A-Za-z]:", relative):
        problem = "is absolute"
    elif ".." in windows.parts:
        problem = "holds '..'"
    if problem:
        raise DataError(f"image path {relative!r} {problem}; write it relative to {root}")
    try:
        full_path = (root / relative).resolve()
        inside = full_path.is_relative_to(root.resolve())
        full_path.exists()  # raises on a name that is too long, which later calls would meet
    except (OSError, RuntimeError, ValueError) as error:  # link loop, too long, not encodable
        raise DataError(f"image path {relative!r} cannot be followed ({error})") from None
    if not inside:
        raise DataError(f"image path {relative!r} is a link out of {root}; copy the file inside")
    return full_path

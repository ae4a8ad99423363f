"""A reporter for tests."""

from __future__ import annotations

from stllava.pipeline.job import Quiet


class Notes(Quiet):
    """Collects what is said to the reader."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def note(self, text: str) -> None:
        self.lines.append(text)

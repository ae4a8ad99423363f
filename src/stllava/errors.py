"""What can go wrong for a user, as a tree; `cli` prints one line of it and exits with 2.

StllavaError
├── RecipeError      a recipe field is unknown, missing or out of range
├── DataError        a file, image or record is not what it should be
├── RunError         a run directory is locked, stale, incomplete or cannot be written
├── PolicyError      a checkpoint cannot be loaded, trained or exported as asked
├── JudgeError       a judge cannot be reached or may not be used
└── MissingExtra     an optional library is not installed
"""


class StllavaError(Exception):
    """A user's mistake or a broken environment: one line that says what, where and the remedy."""


class RecipeError(StllavaError):
    """A recipe field is unknown, missing or out of range."""


class DataError(StllavaError):
    """A file, image or record is not what it should be."""


class RunError(StllavaError):
    """A run directory is locked, stale, incomplete or cannot be written."""


class PolicyError(StllavaError):
    """A checkpoint cannot be loaded, trained or exported as asked."""


class JudgeError(StllavaError):
    """A judge cannot be reached or may not be used."""


class MissingExtra(StllavaError):
    """An optional library is not installed; the message holds the install line."""

    def __init__(self, library: str, extra: str) -> None:
        super().__init__(f"{library} is not installed; pip install 'stllava[{extra}]'")

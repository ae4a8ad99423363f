"""Pickles that hold plain data only; a pickle that would call or import anything is refused.

A pickle is a program. Its instructions are read before any is run, and only those that build dicts,
lists, tuples, text, numbers, True, False and None are allowed; the unpickler that runs them
then refuses every name besides (https://docs.python.org/3/library/pickle.html,
"Restricting Globals").
"""

from __future__ import annotations

import pickle
import pickletools
import re
from pathlib import Path
from typing import IO, Any

from stllava.errors import DataError
from stllava.reading import file_problem

MAX_BYTES = 256 * 2**20  # PathVQA's largest is 2 MB
PLAIN = re.compile(
    r"MARK|STOP|POP|POP_MARK|DUP|PROTO|FRAME|NONE|NEWTRUE|NEWFALSE|INT|BININT[12]?|LONG[14]?|"
    r"FLOAT|BINFLOAT|STRING|(SHORT_)?BINSTRING|UNICODE|(SHORT_)?BINUNICODE8?|"
    r"(EMPTY_)?(LIST|TUPLE|DICT)|TUPLE[123]|APPENDS?|SETITEMS?|GET|(LONG_)?BINGET|"
    r"PUT|(LONG_)?BINPUT|MEMOIZE"
)
STORES = frozenset(("PUT", "BINPUT", "LONG_BINPUT"))  # at an index that the file chooses

# What the unpickler raises on damaged input besides its own error.
DAMAGED = (
    *(pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError),
    *(OverflowError, MemoryError, RecursionError),
)


class PlainUnpickler(pickle.Unpickler):
    """Finds no class and no function, whatever it is asked for."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError("it refers to objects outside of itself")


def load(path: Path) -> Any:
    """Return the plain data of a pickle file. Raises DataError for anything else."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise DataError(f"{path}: larger than {MAX_BYTES:,} bytes; not read as a pickle")
        with path.open("rb") as file:
            _refuse_code(file, path)
            file.seek(0)
            return PlainUnpickler(file, encoding="utf-8").load()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({file_problem(error)})") from None
    except DAMAGED as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{path}: not a pickle of plain data ({said})") from None


def _refuse_code(file: IO[bytes], path: Path) -> None:
    for number, (opcode, argument, _) in enumerate(pickletools.genops(file)):
        if not PLAIN.fullmatch(opcode.name):
            what = f" {str(argument)[:80]!r}" if argument is not None else ""
            raise DataError(
                f"{path}: a pickle with code in it ({opcode.name}{what}) is never run; "
                "get the data as JSON or Parquet"
            )
        if opcode.name in STORES and int(argument or 0) > number:
            raise DataError(f"{path}: not a pickle of plain data (memo index {argument})")

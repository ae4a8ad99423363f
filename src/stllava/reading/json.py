"""JSON lists of any size, record by record in bounded memory, and JSON lines.

A record is decoded strictly: no duplicate keys, no NaN or Infinity, no half surrogate pairs, valid
UTF-8. Such a record is an Entry with a problem, in a list too. A list whose brackets do not match
has no further records to find, so that is an error of the file. Lines end at a newline only: text
may hold U+2028.
"""

from __future__ import annotations

import codecs
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from stllava.errors import DataError
from stllava.reading import Entry, file_problem

MAX_RECORD = 16 * 2**20  # bytes of a line, characters of a record; a base64 image fits
CHUNK = 2**20
BOM = codecs.BOM_UTF8
OTHER_BOMS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
BLANKS = re.compile(r"[ \t\r\n]*")
HALF_PAIR = re.compile(r"\\u[dD][89a-fA-F]")


class RefusedError(ValueError):
    """JSON by its brackets, but not a record that can be trusted; never leaves this module."""


def read_entries(path: Path) -> Iterator[Entry]:
    """Yield the records of a JSON list or of JSON lines, told apart by the first sign."""
    try:
        with path.open("rb") as file:
            first = _first_sign(file, path)
            yield from _list(file, path) if first == b"[" else _lines(file, path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({file_problem(error)})") from None


def decode(text: str) -> tuple[Any, str]:
    """Return (value, problem) of one JSON text; the problem is "" where there is none."""
    try:
        return _checked(STRICT.decode(text), text), ""
    except RecursionError:
        return None, "not JSON (nested too deeply)"
    except ValueError as error:
        return None, _reason(error)


def _first_sign(file: IO[bytes], path: Path) -> bytes:
    """Move behind a byte order mark; return the first byte that is not blank."""
    start = file.read(len(BOM))
    if start.startswith(OTHER_BOMS):
        raise DataError(f"{path}: is UTF-16; save it as UTF-8")
    begin = len(BOM) if start == BOM else 0
    file.seek(begin)
    sign = file.read(1)
    while sign and sign in b" \t\r\n":
        sign = file.read(1)
    file.seek(begin)
    return sign


def _lines(file: IO[bytes], path: Path) -> Iterator[Entry]:
    number = 0
    while line := file.readline(MAX_RECORD + 1):
        number += 1
        place = f"{path.name}:{number}"
        if len(line) > MAX_RECORD:
            while line and not line.endswith(b"\n"):
                line = file.readline(CHUNK)
            yield Entry(place, problem=f"longer than {MAX_RECORD:,} bytes")
        elif line.strip():
            try:
                yield Entry(place, *decode(line.decode("utf-8")))
            except UnicodeDecodeError as error:
                yield Entry(place, problem=f"not UTF-8 ({error.reason} at byte {error.start})")


def _list(file: IO[bytes], path: Path) -> Iterator[Entry]:
    window = _Window(file)
    window.take_sign()  # the bracket
    index = 0
    sign = "]" if window.next_sign() == "]" else ","
    while sign == ",":
        try:
            record = window.take_record()
        except RecursionError:
            raise DataError(f"{path}: not JSON (record {index} is nested too deeply)") from None
        except ValueError as error:
            raise DataError(f"{path}: not JSON (record {index}: {error}); copy it again") from None
        yield Entry(f"{path.name}[{index}]", *record)
        index += 1
        sign = window.take_sign()
    if sign != "]":
        raise DataError(f"{path}: not JSON (no comma or bracket after record {index - 1})")
    if index == 0:
        window.take_sign()
    if window.next_sign():
        raise DataError(f"{path}: text after the end of its list; write one list, or JSON lines")


class _Window:
    """The part of a file that is being looked at."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.decoder = codecs.getincrementaldecoder("utf-8")("surrogateescape")
        self.text, self.at, self.ended = "", 0, False

    def more(self) -> bool:
        """Read on, as much again as is there; False at the end of the file."""
        data = self.file.read(max(CHUNK, len(self.text) - self.at))
        self.ended = not data
        self.text = self.text[self.at :] + self.decoder.decode(data, final=self.ended)
        self.at = 0
        return not self.ended

    def next_sign(self) -> str:
        """Skip blanks and return the sign there without taking it; "" at the end."""
        while True:
            blanks = BLANKS.match(self.text, self.at)
            self.at = blanks.end() if blanks else self.at
            if self.at < len(self.text):
                return self.text[self.at]
            if not self.more():
                return ""

    def take_sign(self) -> str:
        """As `next_sign`, and move behind it."""
        sign = self.next_sign()
        self.at += len(sign)
        return sign

    def take_record(self) -> tuple[Any, str]:
        """Return (value, problem) of the record here. Raises ValueError if it has no end."""
        self.next_sign()
        while True:
            value, problem = None, ""
            try:
                try:
                    value, end = STRICT.raw_decode(self.text, self.at)
                except json.JSONDecodeError:
                    raise
                except ValueError as error:  # refused, but where does it end?
                    problem = _reason(error)
                    end = LENIENT.raw_decode(self.text, self.at)[1]
            except json.JSONDecodeError as error:
                if len(self.text) - self.at > MAX_RECORD:
                    raise ValueError(f"{error.msg}, or over {MAX_RECORD:,} characters") from None
                if not self.more():
                    raise ValueError(f"{error.msg}, or it breaks off") from None
                continue
            if len(self.text) - end < len("e+0") and not self.ended:
                self.more()  # a number may go on
                continue
            text, self.at = self.text[self.at : end], end
            return self._judged(value, problem, text)

    def _judged(self, value: Any, problem: str, text: str) -> tuple[Any, str]:
        if not problem and not is_utf8(text):
            problem = "not UTF-8"
        if not problem:
            try:
                _checked(value, text)
            except RefusedError as error:
                problem = _reason(error)
        return (None, problem) if problem else (value, "")


def _checked(value: Any, text: str) -> Any:
    """Refuse text that cannot be written again: a half of a surrogate pair, as \\ud83d."""
    if HALF_PAIR.search(text) and not is_utf8(json.dumps(value, ensure_ascii=False)):
        raise RefusedError("half a surrogate pair in its text")
    return value


def is_utf8(text: str) -> bool:
    """False for half surrogate pairs, which also stand for bytes that were no UTF-8."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _reason(error: ValueError) -> str:
    said = str(error).split(";")[0]
    return said if isinstance(error, RefusedError) else f"not JSON ({said})"


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RefusedError(f"key {twice[:40]!r} twice in one object")
    return value


def _refuse_constant(name: str) -> None:
    raise RefusedError(f"{name} is not a JSON number")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise RefusedError(f"{text[:20]} is too large for a number")
    return value


STRICT = json.JSONDecoder(
    object_pairs_hook=_unique, parse_constant=_refuse_constant, parse_float=_finite
)
LENIENT = json.JSONDecoder(parse_int=len, parse_float=len, parse_constant=len)  # only for its end

"""ZIP and TAR archives, unpacked so that nothing lands outside, fills the disk, or stays half done.

Names follow the rule of image paths (`images.resolve`); links, devices and encrypted members are
refused; the number of members, the bytes written, and their ratio to the archive's own size have
caps, counted while writing because headers can lie.
"""

from __future__ import annotations

import lzma
import os
import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO, NamedTuple

from stllava.errors import DataError
from stllava.images import resolve
from stllava.reading import file_problem

CHUNK = 2**20
RATIO_FLOOR = 64 * 2**20  # bytes; below, a high ratio does no harm

# What the archive readers raise on damaged files besides OSError.
DAMAGED = (
    *(zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, EOFError, ValueError),
    *(NotImplementedError, RuntimeError, OverflowError, MemoryError, LookupError),
)


class Limits(NamedTuple):
    """What one archive may unpack to."""

    entries: int = 1_000_000
    total_bytes: int = 200 * 2**30
    ratio: float = 100.0  # unpacked bytes per byte of archive, beyond RATIO_FLOOR


class Member(NamedTuple):
    name: str
    problem: str  # "" for a plain file or folder
    is_folder: bool
    open: Callable[[], IO[bytes] | None]  # None for what is no plain file


def unpack(archive: Path, into: Path, *, limits: Limits = Limits()) -> int:  # noqa: B008
    """Unpack into the new folder `into`, all or nothing; return the number of files.

    Raises DataError that names the member; then `into` does not exist.
    """
    if into.exists():
        raise DataError(f"{into}: is there already; name a folder that does not exist")
    unfinished = into.with_name(f".{into.name}.{os.getpid()}")
    try:
        unfinished.mkdir(parents=True)
        num_files = _unpack(archive, unfinished, limits)
        unfinished.replace(into)
    except OSError as error:
        raise DataError(f"{archive}: cannot be unpacked ({file_problem(error)})") from None
    except DAMAGED as error:
        said = " ".join(str(error).split())[:200] or type(error).__name__
        raise DataError(f"{archive}: damaged ({said}); download it again") from None
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    return num_files


def _unpack(archive: Path, into: Path, limits: Limits) -> int:
    size = archive.stat().st_size
    allowed = min(limits.total_bytes, max(int(limits.ratio * size), RATIO_FLOOR))
    num_files = 0
    with closing(_members(archive)) as members:
        for number, member in enumerate(members, start=1):
            if number > limits.entries:
                raise DataError(f"{archive}: more than {limits.entries:,} members")
            target = _target(archive, into, member)
            if member.is_folder:
                target.mkdir(parents=True, exist_ok=True)
                continue
            target.parent.mkdir(parents=True, exist_ok=True)
            allowed -= _write(archive, member, target, allowed)
            num_files += 1
    return num_files


def _target(archive: Path, into: Path, member: Member) -> Path:
    problem = member.problem
    try:
        target = resolve(into, member.name)
    except DataError as error:
        problem = str(error).split(";")[0]
    if problem:
        raise DataError(f"{archive}: member {member.name!r} refused: {problem}")
    if target.exists() and not member.is_folder:
        raise DataError(f"{archive}: member {member.name!r} is there twice")
    return target


def _write(archive: Path, member: Member, target: Path, allowed: int) -> int:
    written = 0
    stream = member.open()
    assert stream is not None
    with stream, target.open("xb") as file:
        while data := stream.read(CHUNK):
            written += len(data)
            if written > allowed:
                raise DataError(f"{archive}: unpacks to more than its size allows; not unpacked")
            file.write(data)
    return written


def _members(archive: Path) -> Generator[Member]:
    if zipfile.is_zipfile(archive):
        yield from _zip_members(archive)
    elif tarfile.is_tarfile(archive):
        yield from _tar_members(archive)
    else:
        raise DataError(f"{archive}: neither a ZIP nor a TAR archive")


def _zip_members(archive: Path) -> Iterator[Member]:
    with zipfile.ZipFile(archive) as file:
        for info in file.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            problem = "" if kind in (0, stat.S_IFREG, stat.S_IFDIR) else "a link or a device"
            if info.flag_bits & 1:
                problem = "encrypted"
            name = info.orig_filename  # `filename` ends before a NUL
            yield Member(name, problem, info.is_dir(), partial(file.open, info))


def _tar_members(archive: Path) -> Iterator[Member]:
    with tarfile.open(archive) as file:
        for info in file:
            problem = "" if info.isreg() or info.isdir() else "a link or a device"
            yield Member(info.name, problem, info.isdir(), partial(file.extractfile, info))

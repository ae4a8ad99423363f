"""Headers of safetensors files: names, shapes and dtypes without the values."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from safetensors import SafetensorError, safe_open

from stllava.errors import PolicyError
from stllava.files import read_json


class Tensor(NamedTuple):
    """One line of a safetensors header."""

    name: str
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it: F32, BF16, ...
    file: Path


def read_headers(path: Path, stem: str) -> tuple[list[Tensor], list[str]]:
    """Tensors of all files that are there, and what is wrong with the files."""
    index = path / f"{stem}.safetensors.index.json"
    if not index.is_file():
        file = path / f"{stem}.safetensors"
        if not file.is_file():
            raise PolicyError(f"{path}: no {stem}.safetensors{_pickled(path)}")
        return _tensors(file), []
    placed = read_json(index).get("weight_map")
    if not isinstance(placed, dict):
        raise PolicyError(f"{index}: no weight_map; download it again")
    shards = sorted(set(placed.values()))
    missing = [name for name in shards if not (path / name).is_file()]
    problems = []
    if missing:
        problems.append(
            f"{len(missing)} of {len(shards)} shards missing: {', '.join(missing)}; copy or "
            "download them again"
        )
    tensors = [t for name in shards if name not in missing for t in _tensors(path / name)]
    found = {(t.name, t.file.name) for t in tensors}
    lost = [n for n, shard in placed.items() if shard not in missing and (n, shard) not in found]
    if lost:
        problems.append(f"{len(lost)} tensors are not in their shard, first {lost[0]}")
    return tensors, problems


def _pickled(path: Path) -> str:
    if any(path.glob("*.bin")):
        return "; pickled weights (.bin) are not read: save them as safetensors"
    return "; give the folder that holds the weights"


def _tensors(file: Path) -> list[Tensor]:
    try:
        with safe_open(file, framework="pt") as opened:
            slices = ((name, opened.get_slice(name)) for name in opened.keys())  # noqa: SIM118
            return [Tensor(n, tuple(s.get_shape()), s.get_dtype(), file) for n, s in slices]
    except (SafetensorError, OSError) as error:
        raise PolicyError(
            f"{file}: not safetensors, or cut off ({error}); copy it again"
        ) from error

"""Published weights, tensor by tensor: names and shapes first, values only when asked for."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from stllava.errors import PolicyError
from stllava.policy.published.layout import projector_file, read_config

DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
}


class Kept(NamedTuple):
    """Where a tensor lies and what it is, without its values."""

    file: Path
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class Source:
    """The tensors of one folder or file. `name` is what messages call it."""

    name: str
    files: tuple[Path, ...]
    tensors: Mapping[str, Kept]
    loaded: dict[Path, dict[str, Tensor]] = field(default_factory=dict)  # pickles, memory-mapped

    def read(self, key: str) -> Tensor:
        """The values; one tensor is in memory at a time, as far as the file's format allows."""
        file = self.tensors[key].file
        if file in self.loaded:
            return self.loaded[file][key]
        with safe_open(file, framework="pt", device="cpu") as opened:
            return opened.get_tensor(key)


def open_source(path: Path, *, allow_pickle: bool, stem: str | None = None) -> Source:
    """The weights of a folder or file, safetensors before pickles.

    `stem` is the file's name without ending where it is not `model`, as in `adapter_model`.
    Raises PolicyError for a missing, cut or disagreeing shard, and for a pickle not allowed.
    """
    files, index = _files(path, stem, allow_pickle)
    tensors: dict[str, Kept] = {}
    loaded: dict[Path, dict[str, Tensor]] = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors |= _safetensors(file)
        else:
            loaded[file] = _pickle(file, allow_pickle=allow_pickle)
            tensors |= {k: Kept(file, tuple(t.shape), t.dtype) for k, t in loaded[file].items()}
    for key, shard in index.items():
        if key not in tensors or tensors[key].file.name != shard:
            raise PolicyError(
                f"{path / shard}: {key} is not in it, as the index says; fetch it again"
            )
    if not tensors:
        raise PolicyError(f"{path}: no tensors in {', '.join(f.name for f in files)}")
    return Source(str(path), tuple(files), tensors, loaded)


def _files(path: Path, stem: str | None, allow_pickle: bool) -> tuple[list[Path], dict[str, str]]:
    """Weight files in order, and what the index says: file name by tensor."""
    if path.suffix in (".bin", ".safetensors") and not path.is_dir():
        _may_read(path, allow_pickle)
        if not path.is_file():
            raise PolicyError(f"{path}: no such file; fetch it again")
        return [path], {}
    for name in [stem] if stem else ["model", "pytorch_model"]:
        for ending in ("safetensors", "bin"):
            index = read_config(path, f"{name}.{ending}.index.json").get("weight_map")
            if isinstance(index, dict) and index:
                _may_read(path / f"{name}.{ending}", allow_pickle)
                return _shards(path, index), index
            if (path / f"{name}.{ending}").is_file():
                return [path / f"{name}.{ending}"], {}
    found = None if stem else projector_file(path)
    if found is None:
        hint = "" if allow_pickle else "; a .bin is only fetched and read with --allow-pickle"
        raise PolicyError(f"{path}: no {stem or 'model'}.safetensors or .bin in it{hint}")
    return [found], {}


def _shards(path: Path, index: dict[str, str]) -> list[Path]:
    shards = sorted(set(index.values()))
    missing = [name for name in shards if not (path / name).is_file()]
    if missing:
        raise PolicyError(
            f"{path}: {len(missing)} of {len(shards)} shards missing ({missing[0]}); "
            "the download is not complete, fetch it again"
        )
    return [path / name for name in shards]


def _safetensors(file: Path) -> dict[str, Kept]:
    try:
        with safe_open(file, framework="pt", device="cpu") as opened:
            slices = {key: opened.get_slice(key) for key in opened.keys()}  # noqa: SIM118
            return {
                key: Kept(file, tuple(part.get_shape()), _dtype(file, key, part.get_dtype()))
                for key, part in slices.items()
            }
    except (SafetensorError, OSError) as error:
        raise PolicyError(f"{file}: cut short or damaged, fetch it again: {error}") from error


def _dtype(file: Path, key: str, name: str) -> torch.dtype:
    if name not in DTYPES:
        raise PolicyError(f"{file}: {key} is {name}; quantized weights cannot be converted")
    return DTYPES[name]


def _may_read(file: Path, allow_pickle: bool) -> None:
    """Raise PolicyError for a pickle that is not allowed, wherever it lies or would lie."""
    if file.suffix == ".bin" and not allow_pickle:
        raise PolicyError(
            f"{file}: a pickle, a format that can carry code; "
            "--allow-pickle reads it with weights_only, which refuses all but tensors"
        )


def _pickle(file: Path, *, allow_pickle: bool) -> dict[str, Tensor]:
    _may_read(file, allow_pickle)
    try:
        state: Any = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
    except (RuntimeError, EOFError, OSError, ValueError, pickle.UnpicklingError) as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else repr(error)
        raise PolicyError(f"{file}: cannot be read as tensors: {first_line}") from error
    if not isinstance(state, dict) or not all(isinstance(t, Tensor) for t in state.values()):
        raise PolicyError(f"{file}: not a state dict of tensors")
    return state

"""Is this machine ready? Every finding is ok, warn or bad, with its remedy in one line.

Works from the base install: what may be missing is looked for by name and never imported here.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module, metadata, resources, util
from pathlib import Path
from typing import Any, Literal, NamedTuple

from stllava.files import read_json, sha256

Level = Literal["ok", "warn", "bad"]

GIB = 2**30
LOW_DISK, FULL_DISK = 10 * GIB, GIB  # a 7B checkpoint in fp32 takes 27 GiB, the demo 0.1
LOW_MEMORY = 2 * GIB  # the demo peaks at about 1
TRUE = {"1", "ON", "YES", "TRUE"}  # as huggingface_hub reads its switches

PURPOSE = {
    "train": "training, generation, inspect and export",
    "dicom": "DICOM files",
    "web": "the web page",
    "ray": "generation on several machines",
    "vllm": "generation with vLLM",
    "test": "the tests",
}


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    name: str
    level: Level
    text: str
    remedy: str = ""  # one line; empty where nothing needs to be done


class Requirement(NamedTuple):
    """One line of the package's own metadata."""

    library: str
    at_least: str  # "" where any version will do
    extra: str  # "" for the base install


def examine(where: Path, env: Mapping[str, str]) -> list[Finding]:
    """Look at everything. `where` is the folder that runs are written to, `env` the environment."""
    return [
        Finding("python", "ok", f"{platform.python_version()} on {platform.platform()}"),
        *libraries(),
        base_policies(),
        processor(),
        memory(),
        *accelerator(),
        disk(where),
        writable(where),
        hub_cache(env),
        hub_offline(env),
    ]


def requirements() -> list[Requirement]:
    """What the package asks for, from its installed metadata."""
    found = []
    for line in metadata.requires("stllava") or []:
        name = re.match(r"[\w.-]+", line)
        at_least = re.search(r">=\s*([\w.]+)", line)
        extra = re.search(r"extra\s*==\s*['\"]([\w-]+)['\"]", line)
        found.append(
            Requirement(
                name.group() if name else line,
                at_least.group(1) if at_least else "",
                extra.group(1) if extra else "",
            )
        )
    return found


def installed(library: str) -> str | None:
    """Its version; None if it is not there."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def libraries() -> Iterator[Finding]:
    """One finding for the package with its base install, and one for each extra."""
    wanted: dict[str, list[Requirement]] = {"": []}
    for requirement in requirements():
        wanted.setdefault(requirement.extra, []).append(requirement)
    for extra, needed in wanted.items():
        yield _extra(extra, needed)


def _extra(extra: str, needed: list[Requirement]) -> Finding:
    package = f"stllava[{extra}]" if extra else "stllava"
    versions = {r.library: installed(r.library) for r in needed}
    missing = [name for name, version in versions.items() if version is None]
    old = [
        f"{r.library} {versions[r.library]} (needs {r.at_least})"
        for r in needed
        if _number(versions[r.library] or "") < _number(r.at_least) and versions[r.library]
    ]
    install = f"pip install --upgrade '{package}'"
    listed = ", ".join(f"{name} {version}" for name, version in versions.items() if version)
    title = package if extra else f"stllava {installed('stllava')}"
    if old:
        return Finding(title, "bad", f"too old: {', '.join(old)}", install)
    if missing:
        level: Level = {"": "bad", "train": "warn"}.get(extra, "ok")  # type: ignore[assignment]
        purpose = f"; for {PURPOSE[extra]}" if extra in PURPOSE else ""
        return Finding(title, level, f"not installed: {', '.join(missing)}{purpose}", install)
    return Finding(title, "ok", listed)


def _number(version: str) -> tuple[int, ...]:
    """Comparable beginning of a version: 2.13.0+cpu is (2, 13, 0)."""
    plain = re.match(r"\d+(\.\d+)*", version)
    return tuple(map(int, plain.group().split("."))) if plain else ()


def base_policies() -> Finding:
    """The packaged base policies are there and are what was trained."""
    folder = Path(str(resources.files("stllava") / "assets"))
    names = sorted(path.parent.name for path in folder.glob("*/training.json"))
    broken = []
    for name in names:
        weights = folder / name / "model.safetensors"
        wanted = read_json(folder / name / "training.json").get("sha256")
        if not weights.is_file() or sha256(weights) != wanted:
            broken.append(name)
    if broken or not names:
        what = ", ".join(broken) or "none found"
        remedy = "pip install --force-reinstall --no-deps stllava; in a clone: git checkout it"
        return Finding("base policies", "bad", f"damaged or missing: {what}", remedy)
    return Finding("base policies", "ok", ", ".join(names))


def processor() -> Finding:
    """CPU cores that this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return Finding("cpu", "ok", f"{cores} of {os.cpu_count()} cores, {platform.machine()}")


def memory() -> Finding:
    """RAM of the machine or of its container, whichever is less."""
    sizes = [limit for limit in (_physical_memory(), _container_memory()) if limit]
    if not sizes:
        return Finding("memory", "ok", "size not known on this system")
    text = f"{min(sizes) / GIB:.1f} GiB" + (" (container limit)" if sizes[-1] < sizes[0] else "")
    if min(sizes) < LOW_MEMORY:
        return Finding("memory", "warn", text, "the demo needs about 1 GiB; use a larger machine")
    return Finding("memory", "ok", text)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def _container_memory() -> int | None:
    try:
        text = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii")
    except OSError:
        return None
    return int(text) if text.strip().isdigit() else None


def accelerator() -> list[Finding]:
    """GPUs, and which fast attention and serving libraries can be used with them."""
    try:
        torch = import_module("torch")
    except ImportError as error:
        remedy = "pip install 'stllava[train]'"
        return [Finding("gpu", "warn", f"not known: torch cannot be imported ({error})", remedy)]
    except OSError as error:  # a library that torch links against
        remedy = "pip install --force-reinstall torch"
        return [Finding("gpu", "bad", f"torch cannot be loaded: {error}", remedy)]
    has_gpu = torch.cuda.is_available()
    return [
        _gpus(torch, has_gpu),
        _flex_attention(has_gpu),
        *(_gpu_library(name, has_gpu) for name in ("flash_attn", "vllm")),
    ]


def _gpus(torch: Any, has_gpu: bool) -> Finding:
    if has_gpu:
        cards = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
        text = ", ".join(f"{card.name} {card.total_memory / GIB:.0f} GiB" for card in cards)
        half = torch.cuda.is_bf16_supported()
        return Finding("gpu", "ok", f"{text}; bf16 {'yes' if half else 'no, fp32 is used'}")
    if Path("/proc/driver/nvidia/version").is_file():
        text = f"an NVIDIA driver is there, but torch {torch.__version__} sees no GPU"
        return Finding(
            "gpu", "warn", text, "install a CUDA build of torch: pytorch.org/get-started"
        )
    half = torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return Finding("gpu", "ok", f"none; the CPU is used, bf16 {'yes' if half else 'no'}")


def _flex_attention(has_gpu: bool) -> Finding:
    if util.find_spec("torch.nn.attention.flex_attention") is None:
        return Finding("flex attention", "warn", "not in this torch", "pip install 'torch>=2.6'")
    text = "used on the GPU" if has_gpu else "there, but needs a GPU; the CPU uses dense or blocks"
    return Finding("flex attention", "ok", text)


def _gpu_library(module: str, has_gpu: bool) -> Finding:
    """Optional libraries. They are looked for, not imported: importing vllm takes half a minute."""
    name = module.replace("_", "-")
    if util.find_spec(module) is None:
        return Finding(name, "ok", "not installed; not needed")
    if not has_gpu:
        return Finding(name, "warn", "installed, but there is no GPU for it", "use a GPU machine")
    return Finding(name, "ok", f"{installed(module) or 'installed'}")


def disk(where: Path) -> Finding:
    """Free space where runs are written."""
    free = shutil.disk_usage(where).free
    text = f"{free / GIB:.1f} GiB free in {where}"
    remedy = "free space, or give another folder with --run"
    level: Level = "bad" if free < FULL_DISK else "warn" if free < LOW_DISK else "ok"
    return Finding("disk", level, text, "" if level == "ok" else remedy)


def writable(where: Path) -> Finding:
    """A file is really written: permission bits say little in containers and on network disks."""
    try:
        with tempfile.TemporaryFile(dir=where) as file:
            file.write(b"stllava")
    except OSError as error:
        remedy = "change into a folder of yours, or give one with --run"
        return Finding("write", "bad", f"{where} cannot be written: {error.strerror}", remedy)
    return Finding("write", "ok", f"{where} can be written")


def hub_cache(env: Mapping[str, str]) -> Finding:
    """Where Hugging Face files are kept, and how much there is."""
    path = _hub_cache_path(env)
    if not path.is_dir():
        return Finding("hub cache", "ok", f"{path} (nothing there yet)")
    total = 0
    for folder, _, names in os.walk(path):  # snapshots are links into blobs: counted once
        for name in names:
            file = Path(folder) / name
            if not file.is_symlink() and file.is_file():
                total += file.stat().st_size
    return Finding("hub cache", "ok", f"{path}, {total / GIB:.1f} GiB")


def _hub_cache_path(env: Mapping[str, str]) -> Path:
    """As huggingface_hub decides it."""
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"):
        if env.get(name):
            return Path(env[name]).expanduser()
    home = env.get("HF_HOME")
    if not home:
        home = f"{env.get('XDG_CACHE_HOME') or '~/.cache'}/huggingface"
    return Path(home).expanduser() / "hub"


def hub_offline(env: Mapping[str, str]) -> Finding:
    """Whether the hub may be asked."""
    if env.get("HF_HUB_OFFLINE", "").upper() in TRUE:
        remedy = "unset HF_HUB_OFFLINE to download or push"
        return Finding("hub", "warn", "HF_HUB_OFFLINE is set: nothing is downloaded", remedy)
    return Finding("hub", "ok", "HF_HUB_OFFLINE is not set: may be reached when asked")

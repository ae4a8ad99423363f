"""The package itself: its libraries by extra, and the base policies that ship with it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib import metadata, resources
from pathlib import Path
from typing import NamedTuple

from stllava.doctor.finding import Finding, Level
from stllava.files import read_json, sha256

PURPOSE = {
    "train": "training, generation, inspect and export",
    "data": "Parquet files",
    "dicom": "DICOM files",
    "qlora": "a base in 4 bits",
    "web": "the web page",
    "ray": "generation on several machines",
    "vllm": "generation with vLLM",
    "test": "the tests",
}


class Requirement(NamedTuple):
    """One line of the package's own metadata."""

    library: str
    at_least: str  # "" where any version will do
    extra: str  # "" for the base install


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

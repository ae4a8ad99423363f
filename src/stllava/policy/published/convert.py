"""A published checkpoint into a folder that `Policy.load` reads, tensor by tensor.

Everything is planned from names and shapes first; nothing is written before every tensor is
accounted for, and the folder gets its name when it is complete. A shard is what is in memory.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from stllava.errors import PolicyError
from stllava.files import disk_errors
from stllava.formats import FORMATS, Asker, ChatFormat, with_asker
from stllava.policy.published.hub import resolve_checkpoint
from stllava.policy.published.keys import PARTS, account, canonical
from stllava.policy.published.layout import Layout, read_config, recognise
from stllava.policy.published.lora import read_adapters
from stllava.policy.published.model import (
    Blueprint,
    draw,
    projector_of,
    text_config,
    vision_config,
)
from stllava.policy.published.report import Report
from stllava.policy.published.source import Source, open_source
from stllava.policy.published.text import read_tokenizer
from stllava.policy.published.write import Part, Work, dtypes_of, write_card, write_config

LANGUAGE, VISION, PROJECTOR = ("language_model.", "lm_head."), ("vision_tower.",), (PARTS[-1],)


class Folders(NamedTuple):
    """Where what lies; None where the user named nothing."""

    layout: Layout
    vision: Path | None
    llm: Path | None  # of a LoRA layout: its base
    projector: Path | None

    @property
    def text(self) -> Path:
        """The folder whose config and tokenizer are the language model's."""
        return self.llm or self.layout.path

    @property
    def all(self) -> list[Path]:
        return [p for p in (self.vision, self.layout.path, self.llm) if p is not None]


def convert(
    source: str | Path,
    out: str | Path,
    *,
    vision: str | Path | None = None,
    llm: str | Path | None = None,
    projector: str | Path | None = None,
    base: str | Path | None = None,
    chat_format: str | None = None,
    asker: Asker = "auto",
    allow_pickle: bool = False,
) -> Report:
    """Write the checkpoint `source` (folder or hub id) into the new folder `out`.

    `vision`, `llm` and `projector` name parts that are not inside or replace what is; `base` is
    what LoRA adapters are merged into, and another name for `llm`. Raises PolicyError.
    """
    out = Path(out)
    if out.exists():
        raise PolicyError(f"{out}: there already; give the name of a new folder")

    given = {"vision": vision, "llm": llm if base is None else base, "projector": projector}
    folders = _folders(source, given, allow_pickle=allow_pickle)
    parts = _parts(folders, allow_pickle=allow_pickle)
    blueprint = _blueprint(folders, parts)
    plan = account(blueprint.shapes, [part.offer for part in parts])
    adapters = None
    if folders.layout.kind == "lora":
        path = folders.layout.path
        adapters = read_adapters(path, blueprint.shapes, allow_pickle=allow_pickle)
    form = _format(blueprint, chat_format, asker)
    words = read_tokenizer([folders.text, *folders.all], form)
    work = Work(blueprint, plan, parts, adapters, words)
    report = _report(out, folders.layout, work, form)
    with _new_folder(out) as folder:
        work.write(folder)
        write_config(folder, folders.all, work)
        write_card(folder, name_of(source), work, report)
    return report


def name_of(source: str | Path) -> str:
    """What a card calls a source: a hub id, or a folder's own name without where it lay."""
    return Path(source).resolve().name if Path(source).exists() else str(source)


def _folders(
    source: str | Path, given: Mapping[str, str | Path | None], *, allow_pickle: bool
) -> Folders:
    path = resolve_checkpoint(source, allow_pickle=allow_pickle)
    layout = recognise(path)
    if layout is None:
        own = (path / "stllava.json").is_file()
        why = "is in this package's format already" if own else "no published layout known here"
        raise PolicyError(f"{path}: {why}; there is nothing to convert")
    vision, llm, projector = (
        None if part is None else resolve_checkpoint(part, allow_pickle=allow_pickle)
        for part in (given["vision"], given["llm"], given["projector"])
    )
    if layout.kind in ("vision", "projector"):
        raise PolicyError(layout.remedy)
    if layout.kind == "lora" and llm is None:
        raise PolicyError(f"{path}: {layout.title}; name what they were trained on with --base")
    if layout.kind == "llm" and (vision is None or projector is None):
        raise PolicyError(
            f"{path}: {layout.title}, which sees no images; "
            "name the other parts with --vision and --projector"
        )
    return Folders(layout, vision, llm, projector)


def _parts(folders: Folders, *, allow_pickle: bool) -> list[Part]:
    """Sources in order of precedence: parts named by the user, the checkpoint, the base."""

    def read(path: Path) -> Source:
        return open_source(path, allow_pickle=allow_pickle)

    layout, parts = folders.layout, []
    if folders.projector is not None:
        parts.append(Part(read(folders.projector), PROJECTOR, bare_projector=True))
    if folders.vision is not None:
        parts.append(Part(read(folders.vision), VISION))
    if layout.kind == "lora":
        trained = read(layout.path / "non_lora_trainables.bin")
        parts.append(Part(trained, PROJECTOR))
    if folders.llm is not None:
        parts.append(Part(read(folders.llm), PARTS if layout.kind == "lora" else LANGUAGE))
    if layout.kind != "lora":
        parts.append(Part(read(layout.path), PARTS if layout.kind != "llm" else LANGUAGE))
    return parts


def _blueprint(folders: Folders, parts: list[Part]) -> Blueprint:
    shapes: dict[str, tuple[int, ...]] = {}
    for part in reversed(parts):
        names = {
            canonical(key, bare_projector=part.bare_projector): kept.shape
            for key, kept in part.source.tensors.items()
        }
        taken = {name: shape for name, shape in names.items() if name.startswith(part.parts)}
        replaced = tuple(p for p in part.parts if any(name.startswith(p) for name in taken))
        shapes = {n: s for n, s in shapes.items() if not n.startswith(replaced)} | taken
    path = folders.layout.path
    said = read_config(path) or read_config(folders.text)
    if not any(name.startswith(VISION) for name in shapes):
        named = said.get("mm_vision_tower")
        hint = f" (its config names {named})" if named else ""
        raise PolicyError(f"{path}: no vision encoder in it; name its folder with --vision{hint}")
    return draw(
        text_config(folders.text),
        vision_config(folders.vision or path, shapes),
        projector_of(shapes, str(path)),
        said,
    )


def _format(blueprint: Blueprint, name: str | None, asker: Asker) -> ChatFormat:
    if name is not None and name not in FORMATS:
        raise PolicyError(f"chat format {name!r} is not one of {', '.join(sorted(FORMATS))}")
    return with_asker(FORMATS[name] if name else blueprint.chat_format, asker)


def _report(out: Path, layout: Layout, work: Work, form: ChatFormat) -> Report:
    return Report(
        title=layout.title,
        out=out,
        num_tensors=len(work.blueprint.tensors),
        left_out=work.plan.left_out,
        added_tokens=work.words.added,
        dtypes=dtypes_of(work),
        chat_format=form.name,
        asker=form.asked_by,
        lora=work.adapters.counts if work.adapters else None,
    )


@contextmanager
def _new_folder(out: Path) -> Iterator[Path]:
    """A folder beside `out` that gets its name at the end; on any error it is deleted."""
    folder = out.with_name(f".{out.name}.partial-{os.getpid()}")
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir()
        try:
            yield folder
            folder.rename(out)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

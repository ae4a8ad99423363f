"""Verbs that only look: inspect, doctor."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.text import Text

from stllava.cli.console import quiet_libraries
from stllava.cli.loop import SetOption
from stllava.cli.memory import described, memory_plans
from stllava.errors import MissingExtra

if TYPE_CHECKING:
    from stllava.policy.inspection import Inspection

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
COLORS = {"ok": "green", "warn": "yellow", "bad": "red"}
MIB = 2**20


def inspect(
    checkpoint: Annotated[
        Path, typer.Argument(help="folder of a checkpoint or an adapter, or a packaged base policy")
    ],
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", help="also estimate the memory of this recipe's training stages"),
    ] = None,
    overrides: SetOption = None,
    as_json: JsonOption = False,
) -> None:
    """What a checkpoint or adapter is, read from its headers: nothing is loaded.

    Family, parameters per part, image tokens, conversation format, adapter ranks, where it comes
    from. Exit code 1 if shards are missing or an adapter never trained (its LoRA B is all zero).

    Examples: `stllava inspect runs/demo/dpo/checkpoint`, `stllava inspect runs/demo/sft/adapter`,
    `stllava inspect base/llava --recipe single-24gb --set dpo.micro_batch_tokens=2048`.
    """
    try:
        from stllava.policy.inspection import inspect_folder
    except ImportError as error:
        raise MissingExtra(error.name or "safetensors", "train") from error

    packaged = Path(str(resources.files("stllava") / "assets")) / checkpoint.name
    if not checkpoint.exists() and checkpoint.name == str(checkpoint) and packaged.is_dir():
        checkpoint = packaged
    found = inspect_folder(checkpoint)
    quiet_libraries()
    plans = memory_plans(checkpoint, recipe, overrides or []) if recipe else {}
    if as_json:
        memory = {"memory": {name: plan.dump() for name, plan in plans.items()}} if plans else {}
        typer.echo(json.dumps(asdict(found) | memory, indent=1))
    else:
        for name, text in [*_described(found), *described(plans)]:
            typer.echo(f"{name:<20} {text}".rstrip())
    if found.problems:
        raise typer.Exit(1)


def _described(found: Inspection) -> list[tuple[str, str]]:
    kind = f"{found.kind}, {found.family or 'family not known'} ({found.architecture})"
    rows = [(found.path, ""), ("kind", kind)]
    if found.layout:
        rows.append(("layout", found.layout))
    if found.start:
        rows.append(("laid over", found.start))
    for part in found.parts:
        size = f"{part.parameters:>14,} parameters  {'/'.join(part.dtypes)}"
        rows.append((part.name, f"{size}  {part.bytes / MIB:,.1f} MiB  {part.tensors} tensors"))
    total = f"{found.parameters:>14,} parameters"
    rows.append(("together", f"{total}  {sum(p.bytes for p in found.parts) / MIB:,.1f} MiB"))
    for adapter in found.adapters:
        ranks = ", ".join(f"rank {rank} alpha {alpha:g}" for rank, alpha in adapter.settings)
        trained = f"{adapter.modules - len(adapter.zero_b)} of {adapter.modules} trained"
        rows.append((f"LoRA {adapter.part}", f"{ranks}; {trained}"))
    if found.kind == "checkpoint":
        rows += [("image", _image(found)), ("conversation", _conversation(found))]
    counts = ", ".join(f"{k} {v}" for k, v in found.provenance.get("counts", {}).items())
    rest = {k: v for k, v in found.provenance.items() if k not in ("counts", "inputs")}
    rows += [(name, _plain(value)) for name, value in rest.items()]
    rows += [("stage counted", counts)] if counts else []
    return rows + [("PROBLEM", problem) for problem in found.problems]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {inner}" for key, inner in value.items())
    return str(value)


def _image(found: Inspection) -> str:
    image = found.image
    number = image["tokens"] or "a number that depends on the image"
    text = f"{number} tokens {image['token'] or ''} (id {image['token_id']})"
    if image["size"]:
        text += f", {image['size']} x {image['size']} pixels in patches of {image['patch']}"
    if image["feature_layer"] is not None:
        text += f", vision layer {image['feature_layer']} ({image['select']})"
    return text + (f", {image['prototypes']} prototypes" if image["prototypes"] else "")


def _conversation(found: Inspection) -> str:
    chat = found.chat
    if "user" not in chat:
        return f"format not known ({chat['format'] or 'no stllava.json'})"
    roles = f"user {chat['user']!r}, assistant {chat['assistant']!r}, end {chat['end']!r}"
    return f"{chat['format']}: {roles}, asker {chat['asker']!r} ({chat['asker_is']})"


def doctor(as_json: JsonOption = False) -> None:
    """Is this machine ready? Versions, missing extras, memory, GPUs, disk, hub; with remedies.

    Works without torch. Exit code 1 if something is bad; a warning is not.
    """
    from stllava.doctor import examine

    findings = examine(Path.cwd(), os.environ)
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings], indent=1))
    else:
        console = Console(highlight=False, soft_wrap=True)
        for finding in findings:
            line = Text(f"{finding.level:<5}", style=COLORS[finding.level])
            line.append(f"{finding.name:<16} {finding.text}", style="default")
            if finding.remedy:
                line.append(f" -> {finding.remedy}", style="bold")
            console.print(line)
    if any(finding.level == "bad" for finding in findings):
        raise typer.Exit(1)

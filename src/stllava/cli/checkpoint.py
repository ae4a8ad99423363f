"""Verbs that write a checkpoint: convert, export."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from stllava.cli.console import Bars, quiet_libraries
from stllava.errors import MissingExtra, PolicyError, RunError


class Model(StrEnum):
    """What a run can export."""

    sft = "sft"
    dpo = "dpo"


class Asker(StrEnum):
    """How a policy is told to ask; the same words as `chat.Asker`."""

    auto = "auto"
    token = "token"
    text = "text"


def convert(
    source: Annotated[str, typer.Argument(help="published checkpoint: folder or hub id")],
    out: Annotated[Path, typer.Argument(help="folder to write; must not exist")],
    vision: Annotated[
        str | None, typer.Option(help="vision encoder, if not inside or to be replaced")
    ] = None,
    llm: Annotated[
        str | None, typer.Option(help="language model, if not inside or to be replaced")
    ] = None,
    projector: Annotated[
        str | None, typer.Option(help="projector (folder, file or hub id), likewise")
    ] = None,
    base: Annotated[
        str | None, typer.Option(help="what LoRA adapters were trained on and are merged into")
    ] = None,
    chat_format: Annotated[
        str | None,
        typer.Option(help="how it was prompted, such as v1 or mistral_instruct; else recognised"),
    ] = None,
    asker: Annotated[
        Asker, typer.Option(help="how it asks: as its format says, by <vusr>, or by a text role")
    ] = Asker.auto,
    allow_pickle: Annotated[
        bool, typer.Option("--allow-pickle", help="read .bin files too, tensors only")
    ] = False,
) -> None:
    """Write a checkpoint that others published as a folder that every verb here loads.

    LLaVA, SQ-LLaVA, STLLaVA-Med and LLaVA-Med, in one piece, in parts, or as LoRA adapters. Every
    tensor is accounted for before anything is written; what was left out or merged is printed.
    Only one shard is in memory at a time.

    Examples: `stllava convert ZachSun/stllava-med-7b base/med`,
    `stllava convert ADAPTERS base/sq --base LLM --vision VIT --allow-pickle`. The folder is then
    a base (--set model.path=base/med); `stllava inspect base/med` says what it is. A hub id is
    downloaded, pickles only with --allow-pickle; with HF_HUB_OFFLINE=1 only the cache is read.
    """
    if base is not None and llm is not None:
        raise PolicyError("--base and --llm name the same part: give one of them")
    try:
        from stllava.policy import published
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "train") from error

    quiet_libraries()
    report = published.convert(
        source, out, vision=vision, llm=llm, projector=projector, base=base,
        chat_format=chat_format, asker=asker.value, allow_pickle=allow_pickle,
    )  # fmt: skip
    for line in report.lines():
        typer.echo(line)


def export(
    run: Annotated[Path, typer.Argument(help="run directory")],
    out: Annotated[Path, typer.Option("--out", help="folder to write; must not hold anything")],
    model: Annotated[Model, typer.Option(help="stage whose policy to export")] = Model.dpo,
    push: Annotated[
        str | None,
        typer.Option("--push", help="then upload to this hub repository (OWNER/NAME), private"),
    ] = None,
) -> None:
    """Write a trained policy as a folder that transformers and vLLM load.

    Merged weights under the hub's key names, tokenizer, processor, chat template, model card with
    the run's scores, and stllava.json. What the folder computes is compared with the adapted model
    on records of the run first; beyond the tolerance nothing is written.

    Example: `stllava export runs/demo --out exported/demo`, then `vllm serve exported/demo` where
    the base is a plain LLaVA (model.path=base-mlp). Nothing is uploaded without --push; the token
    is the one of `hf auth login` or HF_TOKEN.
    """
    from stllava.pipeline import Job
    from stllava.pipeline import export as exporting
    from stllava.recipe import load_recipe
    from stllava.run import Run

    if not (run / "recipe.yaml").is_file():
        raise RunError(f"{run}: not a run directory, it has no recipe.yaml; give the one of --run")
    if push is not None:
        exporting.check_repo_id(push)
    quiet_libraries()
    with Bars() as bars:
        job = Job(Run(run), load_recipe(str(run / "recipe.yaml")), bars)
        found = exporting.export(job, out, model.value)
    typer.echo(
        f"exported: {found.path}; {found.tokens} tokens differ from the adapted model's by "
        f"{found.largest:.2g} nats at most, {found.mean:.2g} on average"
    )
    if not found.same_tokens:
        typer.echo("WARNING: its tokenizer makes the processor write other tokens; see README.md")
    if push is not None:
        typer.echo(f"pushed: {exporting.push(found.path, push)}")

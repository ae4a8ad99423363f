"""Verbs that measure without a model: score, compare."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from stllava.cli import tables
from stllava.config import BenchmarkSection
from stllava.errors import DataError, RunError

if TYPE_CHECKING:
    from stllava.metrics.folders import Scored
    from stllava.metrics.modes import Mode
    from stllava.metrics.paired import Change
    from stllava.metrics.scores import Sheet

JsonOption = Annotated[bool, typer.Option("--json", help="print JSON, for programs")]
SeedOption = Annotated[int, typer.Option(help="of the resampling")]
ResamplesOption = Annotated[int, typer.Option(min=100, help="resamples of groups for intervals")]
Name = Literal[
    "vqa-rad", "slake", "path-vqa", "llava-med", "jsonl", "table", "choice", "parquet", "labels"
]
ModeName = Literal["corrected", "llavamed", "llavamed-batch", "llavamed-prefix", "all"]


def score(
    gold: Annotated[Path, typer.Argument(help="folder or file of the benchmark")],
    predictions: Annotated[Path, typer.Argument(help="file with a model's answers")],
    benchmark: Annotated[Name, typer.Option(help="what GOLD is")],
    mode: Annotated[ModeName, typer.Option(help="rules of scoring; all: side by side")] = (
        "corrected"
    ),
    split: Annotated[Literal["train", "validation", "test"], typer.Option()] = "test",
    language: Annotated[
        Literal["en", "zh"] | None,
        typer.Option(help="of SLAKE; predictions in the other one are left out"),
    ] = None,
    by: Annotated[
        Literal["id", "question"], typer.Option(help="join by; question: files without ids")
    ] = "id",
    field: Annotated[str | None, typer.Option(help="that holds the answer, if not found")] = None,
    leaks: Annotated[
        Path | None, typer.Option(help="report of `data check`, or ids of leaked questions")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="write items.jsonl and scores.json here")] = None,
    categories: Annotated[bool, typer.Option(help="print the tables per category")] = False,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 2000,
    as_json: JsonOption = False,
) -> None:
    """Score anyone's answers to a benchmark: no model, no GPU, no torch.

    PREDICTIONS is JSONL, JSON, CSV, TSV or Parquet with an id (question_id, id, qid) and an answer
    (text, answer, prediction, response) in each record; LLaVA-Med's answer files and the sample
    logs of lmms-eval, VLMEvalKit and MedEvalKit are read as they are. Answers are joined by id
    and checked by question text, never by line.

    Example: `stllava score data/vqa_rad answers.jsonl --benchmark vqa-rad --mode all`.
    """
    from stllava.metrics.folders import write_scored
    from stllava.metrics.modes import MODES
    from stllava.metrics.scoring import read_answered, score_answered

    section = _section(gold, benchmark, split, language)
    only = language is not None
    answered = read_answered(
        section, predictions, field=field, by=by, only_language=only, leaks=leaks
    )
    modes: list[Mode] = list(MODES) if mode == "all" else [mode]
    sheets = {m: score_answered(answered, m, seed=seed, num_resamples=resamples) for m in modes}
    for name, sheet in sheets.items():
        if out is not None:
            write_scored(out / name if mode == "all" else out, *sheet)
    if as_json:
        typer.echo(json.dumps(_printed(sheets, mode), indent=1, allow_nan=False))
        return
    console = tables.console()
    for part in tables.score_parts({name: sheet.scores for name, sheet in sheets.items()}):
        console.print(part)
    if categories:
        for part in tables.category_parts(sheets[modes[0]].scores):
            console.print(part)


def _section(gold: Path, benchmark: Name, split: str, language: str | None) -> BenchmarkSection:
    if not gold.exists():
        raise DataError(f"{gold}: no such file or folder; name the benchmark's")
    place = {"root": str(gold)} if gold.is_dir() else {"root": str(gold.parent), "file": str(gold)}
    return BenchmarkSection.model_validate(
        {"benchmark": benchmark, "split": split, "language": language or "en", **place}
    )


def _printed(sheets: dict[Mode, Sheet], mode: str) -> object:
    if mode != "all":
        return next(sheet.scores for sheet in sheets.values())
    first = next(iter(sheets.values())).scores
    return {
        "benchmark": first["benchmark"],
        "mode": "all",
        "modes": {name: sheet.scores for name, sheet in sheets.items()},
    }


def compare(
    a: Annotated[Path, typer.Argument(metavar="FOLDER_A", help="evaluation, or above several")],
    b: Annotated[Path, typer.Argument(metavar="FOLDER_B", help="what is compared with A")],
    more: Annotated[list[Path] | None, typer.Argument(metavar="[FOLDER_C …]")] = None,
    force: Annotated[
        bool, typer.Option("--force", help="compare what both answered, whatever differs")
    ] = False,
    questions: Annotated[
        bool, typer.Option("--questions", help="in the JSON also the ids won and lost")
    ] = False,
    seed: SeedOption = 0,
    resamples: ResamplesOption = 10_000,
    as_json: JsonOption = False,
) -> None:
    """Is B better than A? Paired by question, with intervals and tests that know groups.

    Folders hold items.jsonl and scores.json, as `eval` and `score --out` write them, or are above
    several such folders: two runs, or eval/MODEL of runs; benchmarks are matched by path. Every
    further folder is compared with A too. Different questions are refused unless forced.

    Examples: `stllava compare runs/a/eval/sft runs/a/eval/dpo`, `stllava compare before after`.
    """
    results = {
        folder: _compared(a, folder, force=force, seed=seed, resamples=resamples)
        for folder in (b, *(more or []))
    }
    if as_json:
        rows = [_compare_json(a, folder, *result, questions) for folder, result in results.items()]
        printed = rows if more else rows[0]
        typer.echo(json.dumps(printed, indent=1, allow_nan=False))
        return
    console = tables.console()
    for folder, (changes, notes) in results.items():
        for part in tables.compare_parts(str(a), str(folder), changes, notes):
            console.print(part)


def _compared(
    a: Path, b: Path, *, force: bool, seed: int, resamples: int
) -> tuple[list[Change], list[str]]:
    from stllava.metrics.folders import difference, paired_folders, read_scored
    from stllava.metrics.paired import compare_all

    folders, alone = paired_folders(a, b)
    notes = [f"only on one side, left out: {', '.join(alone)}"] if alone else []
    pairs = {}
    for name, (folder_a, folder_b) in folders.items():
        read = read_scored(folder_a), read_scored(folder_b)
        problem = difference(*read)
        if problem and not force:
            raise RunError(f"{name or folder_b}: {problem}; --force compares what both answered")
        if problem:
            notes.append(f"{name or folder_b}: forced: {problem}")
        pairs[name or _benchmark(read)] = (read[0].items, read[1].items)
    return compare_all(pairs, seed=seed, num_resamples=resamples), notes


def _benchmark(read: Iterable[Scored]) -> str:
    found = (str(scored.scores["benchmark"]) for scored in read if "benchmark" in scored.scores)
    return next(found, "benchmark")


def _compare_json(
    a: Path, b: Path, changes: list[Change], notes: list[str], questions: bool
) -> dict[str, object]:
    rows = []
    for change in changes:
        row = change._asdict() | {"wins": len(change.won), "losses": len(change.lost)}
        if not questions:
            del row["won"], row["lost"]
        rows.append(row)
    return {"a": str(a), "b": str(b), "changes": rows, "notes": notes}

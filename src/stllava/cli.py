"""The command line. Only this module prints; heavy libraries are imported by the verb that needs
them, so that `stllava --help` answers at once."""

from __future__ import annotations

import logging
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from stllava import __version__
from stllava.errors import RunError, StllavaError

app = typer.Typer(
    help="Self-training for medical vision-language models: ask, answer, prefer, align, "
    "measure.\n\nStart with `stllava demo`: the whole method on drawn images, on a laptop.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
console = Console(stderr=True, highlight=False)

RecipeArg = Annotated[str, typer.Argument(help="packaged recipe (see `stllava recipes`) or file")]
RunOption = Annotated[Path, typer.Option("--run", help="run directory; made if it is not there")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", help="section.field=value; may be repeated")
]


class Bars:
    """Draws one progress bar per stage on stderr."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description:<12}"),
            BarColumn(bar_width=30),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[figures]}"),
            console=console,
        )
        self.task: Any = None

    def __enter__(self) -> Bars:
        return self

    def __exit__(self, *_: object) -> None:
        if self.task is not None:  # stopping writes an empty line, also where nothing was drawn
            self.progress.stop()

    def stage(self, name: str, total: int) -> None:
        self.progress.start()
        self.task = self.progress.add_task(name, total=total, figures="")

    def advance(self, done: int, total: int, **figures: float) -> None:
        text = "  ".join(f"{name} {value:.3g}" for name, value in figures.items() if name in SHOWN)
        self.progress.update(self.task, completed=done, total=total, figures=text)

    def note(self, text: str) -> None:
        self.progress.console.print(f"             {text}", style="dim")


SHOWN = ("loss", "loss/question", "loss/answer", "rewards/margins", "rewards/accuracies")


@app.callback()
def _options(
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="show library messages")] = False,
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s"
    )


@app.command()
def version() -> None:
    """Print the version."""
    typer.echo(__version__)


@app.command()
def demo(
    run: RunOption = Path("runs/demo"),
    overrides: SetOption = None,
) -> None:
    """The whole loop on drawn images: no data, no downloads, no GPU. Prints where the report is.

    Resumable: repeat the command after an interruption. The base policy ships with the package.
    """
    _run("demo", run, overrides)


@app.command()
def run(
    recipe: RecipeArg,
    run: RunOption,
    overrides: SetOption = None,
    redo: Annotated[
        str | None, typer.Option("--redo", help="start this stage over; the old is kept aside")
    ] = None,
) -> None:
    """Carry out a whole recipe, from images to the report; goes on where it was interrupted."""
    _run(recipe, run, overrides, redo=redo)


def _run(
    recipe: str,
    path: Path,
    overrides: list[str] | None,
    *,
    redo: str | None = None,
    stages: tuple[str, ...] | None = None,
) -> None:
    from stllava.config import load_recipe
    from stllava.files import disk_errors
    from stllava.pipeline import STAGES, Job, run_controls, self_train
    from stllava.run import Run

    resolved = load_recipe(recipe, overrides or [])
    if redo and redo not in STAGES:
        raise RunError(f"--redo {redo}: no such stage; one of {', '.join(STAGES)}")
    if not set(stages or STAGES) <= {"prepare", "judge", "prefer"}:
        _quiet_libraries()
    with Run(path) as opened, Bars() as bars, disk_errors(path):
        if redo:
            _supersede(opened, redo, bars)
        opened.start(resolved.dump())
        job = Job(opened, resolved, bars)
        if stages is None:
            self_train(job)
            if resolved.controls:
                _report(path)
                bars.note("the report can be read now; its controls follow")
                run_controls(job)
        for name in stages or ():
            STAGES[name](job)
    if stages is None:
        _report(path)


def _supersede(opened: Any, redo: str, bars: Bars) -> None:
    from stllava.pipeline import STAGES

    names = list(STAGES)
    after = names[names.index(redo) :]
    for moved in opened.supersede([*after, "controls", "report.html", "figures"]):
        bars.note(f"{moved} moved to superseded/")


def _quiet_libraries() -> None:
    """Progress is ours to show; transformers' own bars and hints would tear the lines."""
    import warnings

    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="peft")


def _stage_command(name: str, text: str) -> None:
    def command(recipe: RecipeArg, run: RunOption, overrides: SetOption = None) -> None:
        _run(recipe, run, overrides, stages=(name,))

    command.__doc__ = text
    app.command(name)(command)


for _name, _text in {
    "prepare": "Read data: images, conversations, splits, benchmark questions, what was dropped.",
    "sft": "Stage 1: train the policy to answer and to ask.",
    "ask": "The stage-1 policy asks about images.",
    "answer": "The stage-1 policy answers each of its questions several times.",
    "judge": "A judge compares the answers; interrupted, it asks for nothing twice.",
    "prefer": "Turn verdicts into training pairs; every rule is counted.",
    "dpo": "Stage 2: align the policy to the preferences.",
    "eval": "Checkpoints answer the held-out questions and are scored.",
}.items():
    _stage_command(_name, _text)


@app.command()
def report(run: Annotated[Path, typer.Argument(help="run directory")]) -> None:
    """Write report.html from what is in a run directory."""
    _report(run)


def _report(path: Path) -> None:
    from stllava.report import write_report

    typer.echo(f"report: {write_report(path)}")


@app.command()
def status(run: Annotated[Path, typer.Argument(help="run directory")]) -> None:
    """Which stages of a run are complete, and what each counted."""
    from stllava.run import STAGES, Run

    if not run.is_dir():
        raise RunError(f"{run}: no such run directory")
    for name in STAGES[:-1]:
        stage = Run(run).stage(name)
        if name == "eval":
            done = sorted(p.parent.relative_to(run) for p in stage.path.rglob("stage.json"))
            typer.echo(f"{name:<8} {', '.join(map(str, done)) or '-'}")
        elif stage.complete:
            plain = {k: v for k, v in stage.summary.items() if isinstance(v, int | float | str)}
            typer.echo(f"{name:<8} " + "  ".join(f"{k}={v}" for k, v in plain.items()))
        else:
            typer.echo(f"{name:<8} {'begun' if stage.path.is_dir() else '-'}")


@app.command()
def recipes(
    name: Annotated[str | None, typer.Argument(help="print this one, to edit")] = None,
) -> None:
    """List the packaged recipes, or print one."""
    from stllava.config import load_recipe, packaged_recipes

    known = packaged_recipes()
    if name is None:
        for recipe, file in known.items():
            first = file.read_text(encoding="utf-8").splitlines()[0]
            typer.echo(f"{recipe:<14} {first.lstrip('# ')}")
    else:
        load_recipe(name)
        typer.echo(known.get(name, Path(name)).read_text(encoding="utf-8"), nl=False)


def main() -> None:
    """Entry point: a StllavaError is one line on stderr and exit code 2."""
    try:
        app()
    except StllavaError as error:
        print(" ".join(str(error).split()), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("interrupted; repeat the command to go on", file=sys.stderr)
        sys.exit(130)

"""What the user sees while a verb works: progress bars on stderr, and libraries kept quiet."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

console = Console(stderr=True, highlight=False)

SHOWN = ("loss", "loss/question", "loss/answer", "rewards/margins", "rewards/accuracies")


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


def flowing(command: Callable[..., None]) -> str:
    """A docstring whose paragraphs wrap at the terminal's width, not at ours."""
    paragraphs = (command.__doc__ or "").split("\n\n")
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in paragraphs)


def quiet_libraries() -> None:
    """Progress is ours to show; transformers' own bars and hints would tear the lines."""
    try:
        from transformers.utils import logging as transformers_logging
    except ImportError:
        return
    logging.getLogger("bitsandbytes").setLevel(logging.CRITICAL)  # about kernels we do not call
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", module="peft")

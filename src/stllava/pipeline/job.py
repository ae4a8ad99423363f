"""What every stage function is handed: the run, its recipe, and where things are in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property, lru_cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from PIL import Image as PILImage

from stllava.config import Recipe
from stllava.errors import MissingExtra, PolicyError, RecipeError
from stllava.files import read_json
from stllava.images import open_image, resolve
from stllava.recipe import override
from stllava.records import Image
from stllava.run import Run
from stllava.stage import Stage

if TYPE_CHECKING:
    from stllava.policy.policy import Policy

T = TypeVar("T")

# Stages that a control can have to itself, under controls/NAME/. It shares with its run all that
# comes before the first one whose settings it changes, so that no verdict is paid for twice.
OWN = ("judge", "prefer", "dpo", "eval")


class Reporter(Protocol):
    """Where progress is shown; the command line draws bars, tests collect lines."""

    def stage(self, name: str, total: int) -> None:
        """A stage begins, `total` steps long."""

    def advance(self, done: int, total: int, **figures: float) -> None:
        """`done` of `total` steps; `figures` such as the loss."""

    def note(self, text: str) -> None:
        """One line for the reader."""


class Quiet:
    """A Reporter that says nothing."""

    def stage(self, name: str, total: int) -> None: ...

    def advance(self, done: int, total: int, **figures: float) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Job:
    """A recipe being carried out in a run directory."""

    run: Run
    recipe: Recipe
    reporter: Reporter = field(default_factory=Quiet)
    control: str | None = None  # name of the control this is, if it is one
    own: tuple[str, ...] = OWN  # stages that this control does not share
    agree: Callable[[str], bool] | None = None  # asked before money is spent; None: nobody is there

    def stage(self, name: str) -> Stage:
        shared = self.control is None or name.split("/")[0] not in self.own
        return self.run.stage(name if shared else f"controls/{self.control}/{name}")

    def controls(self) -> Iterator[Job]:
        """The recipe's controls, each with its own overrides."""
        for name, overrides in self.recipe.controls.items():
            first = min(_first_own_stage(name, text) for text in overrides)
            recipe = override(self.recipe, overrides)
            yield replace(self, recipe=recipe, control=name, own=OWN[first:])

    def file(self, stage: str, name: str) -> Path:
        """A file that another stage has written; RunError if that stage is not complete."""
        done = self.stage(stage)
        _ = done.summary
        return done.path / name

    @cached_property
    def images(self) -> dict[str, Image]:
        return {image.id: image for image in self.stage("prepare").read("images.jsonl", Image)}

    @cached_property
    def image_roots(self) -> dict[str, Path]:
        """Folder by key, as prepare wrote it; a relative one lies in the run directory."""
        roots = read_json(self.stage("prepare").path / "plan.json")["settings"]["image_roots"]
        return {key: self.run.path / folder for key, folder in roots.items()}

    def image_path(self, image_id: str) -> Path:
        image = self.images[image_id]
        return resolve(self.image_roots[image.root], image.path)

    @cached_property
    def _opened(self) -> Any:
        # Small: a stage visits an image's records together, and pictures can be large.
        return lru_cache(maxsize=512)(lambda image_id: open_image(self.image_path(image_id)))

    def open_image(self, image_id: str) -> PILImage.Image:
        picture: PILImage.Image = self._opened(image_id)
        return picture

    def units(self, items: Iterable[T], image_of: Any) -> list[list[T]]:
        """Consecutive items cut into work units of `unit_images` images, in a fixed order."""
        by_image: dict[str, list[T]] = {}
        for item in items:
            by_image.setdefault(image_of(item), []).append(item)
        names = list(by_image)
        size = self.recipe.unit_images
        return [
            [item for name in names[start : start + size] for item in by_image[name]]
            for start in range(0, len(names), size)
        ]

    @property
    def batching(self) -> dict[str, int]:
        """What goes through a generating policy together: float results depend on it."""
        return {"batch_rows": self.recipe.batch_rows, "batch_tokens": self.recipe.batch_tokens}

    @property
    def base_path(self) -> Path:
        """The checkpoint the run starts from: a folder, or a base policy of the package."""
        given = self.recipe.model.path
        packaged = Path(str(resources.files("stllava") / "assets" / given))
        if packaged.is_dir():
            return packaged
        if not Path(given).is_dir():
            known = ", ".join(sorted(p.name for p in packaged.parent.glob("*/")))
            if given.count("/") != 1 or given.startswith((".", "~")):
                raise PolicyError(
                    f"{given}: no such folder; set model.path to a checkpoint folder, a hub id "
                    f"(owner/name) or one of {known}"
                )
        with needs_torch():
            from stllava.policy.published.hub import resolve_checkpoint

        return resolve_checkpoint(given)

    def checkpoint(self, model: str) -> Path:
        """Folder of "base", "sft" or "dpo". Without instruction data "sft" is the base itself."""
        if model == "base" or (model == "sft" and self.skips_sft):
            return self.base_path
        return self.file(model, "checkpoint")

    @property
    def has_pairs(self) -> bool:
        """True where stage 2 trains on pairs from a file, and nothing is asked or judged."""
        return self.recipe.data.preferences is not None

    @property
    def skips_sft(self) -> bool:
        """True where there is nothing to learn stage 1 from: images alone."""
        return self.stage("prepare").summary.get("conversations") == 0

    def load(self, model: str, *, to_speak: bool = False, called: str | None = None) -> Policy:
        """Load a policy of this run onto the recipe's device; it proves how texts share images.

        `to_speak`: it will not be trained, so a GPU that trains in bf16 holds it in bf16.
        `called`: its name in what the reader is told, where it is none of the run's own.
        """
        in_bf16 = to_speak and self.device == "cuda" and self.precision == "bf16"
        policy = self.read_policy(model, self.device, "bfloat16" if in_bf16 else "float32")
        policy.backend = self.recipe.model.attention
        self.note_sharing(called or model, policy)
        return policy

    def note_sharing(self, model: str, policy: Policy) -> None:
        """Let the policy itself say whether texts may share an image, and tell the reader."""
        self.reporter.note(f"{model}: {policy.probe()}; attention: {policy.attention}")

    def read_policy(self, model: str, device: str, dtype: str = "float32") -> Policy:
        """Load a policy of this run as the recipe wants it to look and ask."""
        with needs_torch():
            import torch

            from stllava.policy.policy import Policy
            from stllava.policy.published.asker import set_asker
        section = self.recipe.model
        # Set in both directions: a float result on CPU depends on the number of threads.
        torch.set_num_threads(section.threads or os.cpu_count() or 1)
        torch.set_flush_denormal(True)  # vanishing gradients would be computed in slow motion
        path = self.checkpoint(model)
        is_base = path == self.base_path
        side = section.image_side if is_base else None  # later ones record it
        policy = Policy.load(path, device=device, dtype=dtype, image_side=side)
        if is_base:
            set_asker(policy, section.asker)
        return policy

    @property
    def device(self) -> str:
        import torch

        wanted = self.recipe.model.device
        if wanted == "auto":
            return "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "cuda" and not torch.cuda.is_available():
            raise PolicyError("model.device: cuda is not available here; set it to auto or cpu")
        return wanted

    @property
    def precision(self) -> str:
        """Of training. bf16 is used where the hardware multiplies it, CPU included."""
        import torch

        wanted = self.recipe.model.precision
        if wanted != "auto":
            return wanted
        if self.device == "cuda":
            return "bf16" if torch.cuda.is_bf16_supported() else "fp32"
        return "bf16" if torch.ops.mkldnn._is_mkldnn_bf16_supported() else "fp32"


@contextmanager
def needs_torch() -> Iterator[None]:
    """Imports inside it may fail for want of the extra; one line says how to have it."""
    try:
        yield
    except ImportError as error:
        raise MissingExtra(error.name or "torch", "train") from error


def _first_own_stage(control: str, override_text: str) -> int:
    """Index into OWN of the first stage that an override changes; RecipeError if it is shared."""
    section = override_text.partition("=")[0].strip()
    section = "judge" if section == "phantom.judge_accuracy" else section.partition(".")[0]
    if section not in OWN[:-1]:
        raise RecipeError(
            f"controls.{control}: {override_text}: a control shares that with its run; "
            f"it can change {', '.join(OWN[:-1])} and phantom.judge_accuracy"
        )
    return OWN.index(section)

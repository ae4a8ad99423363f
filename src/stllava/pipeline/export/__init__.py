"""export: a trained policy of a run as a folder that other software loads.

Weights get the key names of the files on the hub, whatever the installed transformers calls them;
processor, chat template and model card are written beside them. Before the folder appears, what it
computes is compared with the adapted model on records of the run.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from stllava.errors import MissingExtra, PolicyError, RunError
from stllava.files import disk_errors, read_json
from stllava.pipeline.export.card import write_card
from stllava.pipeline.export.check import Exported, compare
from stllava.pipeline.export.files import write_configs
from stllava.pipeline.export.hub import check_repo_id, push
from stllava.pipeline.export.weights import FAMILIES, VISION, write_weights
from stllava.pipeline.job import Job

__all__ = ["Exported", "check_repo_id", "export", "push"]


def export(job: Job, out: Path, model: Literal["sft", "dpo"] = "dpo") -> Exported:
    """Write a policy of the run to `out`. Nothing appears there unless the comparison passes.

    Raises RunError if the stage is not complete or `out` is in use, PolicyError for a family that
    cannot be exported or a model that differs from the adapted one.
    """
    checkpoint, adapter = job.file(model, "checkpoint"), job.file(model, "adapter")
    config = read_json(checkpoint / "config.json")
    kinds = config.get("model_type"), config.get("vision_config", {}).get("model_type")
    if kinds[0] not in FAMILIES or kinds[1] not in VISION:
        raise PolicyError(
            f"{checkpoint}: {kinds[0]} with {kinds[1]} cannot be exported: its weights have no "
            "fixed names here. The folder itself loads with transformers"
        )
    _check_free(out)
    try:
        import peft  # noqa: F401  (brings the others along)
    except ImportError as error:
        raise MissingExtra(error.name or "peft", "train") from error
    temporary = out.parent / f".{out.name}.{os.getpid()}"
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            write_weights(checkpoint, temporary)
            write_configs(checkpoint, temporary, config)
            found = compare(job, model, adapter, temporary)
            write_card(job, temporary, model, config, found)
            temporary.rename(out)  # also onto an empty folder
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return found._replace(path=out)


def _check_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise RunError(f"{out}: exists already; delete it or choose another --out")

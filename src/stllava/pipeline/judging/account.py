"""What the judge's stage.json says of endpoints: who replied, what was refused, what was sent.

All of it follows from what lies in the stage's folder and in the ledger, however many processes
made it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from stllava.files import read_records
from stllava.judging.calls.sent import images_sent
from stllava.pipeline.job import Job
from stllava.pipeline.judging import calls
from stllava.pipeline.judging.asking import is_paid
from stllava.pipeline.judging.judges import judge_name, members
from stllava.pipeline.judging.jury import VOTES
from stllava.pipeline.judging.left_out import left_out
from stllava.records import Verdict
from stllava.stage import Stage

# What goes in the place of an option that was left out; of others, nothing.
IN_PLACE = {"json_schema": "json_object", "max_tokens": "max_completion_tokens"}


def account(job: Job, stage: Stage) -> dict[str, Any]:
    """Fields of stage.json, said to the reader too; of a jury, in `jurors` by member."""
    if not job.recipe.judge.jury:
        return _of_one(job, stage, "verdicts.jsonl") if is_paid(job) else {}
    found = {n: _of_one(own, stage, VOTES) for n, own in members(job).items() if is_paid(own)}
    return {"jurors": found} if found else {}


def _of_one(job: Job, stage: Stage, file: str) -> dict[str, Any]:
    """Of one endpoint, whose verdicts are in `file`."""
    name, model = judge_name(job), job.recipe.judge.model
    returned: dict[str, str | None] = {}  # of a call that was asked again, the last
    if (stage.path / file).is_file():
        verdicts = read_records(stage.path / file, Verdict)
        returned = {v.id: v.model_returned for v in verdicts if v.judge == name}
    models = Counter(filter(None, returned.values()))
    options = left_out(job)
    for line in (_about_models(model, models), _about_options(model, options)):
        if line:
            job.reporter.note(line)
    found: dict[str, Any] = {
        "model": model,
        "models_returned": dict(sorted(models.items())),
        "left_out": options,
    }
    if sent := images_sent(calls.ledger_path(job), returned):
        found |= {"sent_to": sorted(sent), "images_sent": len(set().union(*sent.values()))}
    return found


def _about_models(asked: str, returned: Counter[str]) -> str:
    """A second opinion that nobody asked for, or the name behind an alias; else nothing."""
    counts = ", ".join(f"{name} ({count})" for name, count in sorted(returned.items()))
    if len(returned) > 1:
        return f"warning: judge {asked}: {len(returned)} models replied, {counts}; name one of them"
    if returned and asked not in returned:
        return f"judge {asked}: {counts} replied; judge.model={next(iter(returned))} asks for it"
    return ""


def _about_options(model: str, options: Iterable[str]) -> str:
    said = [f"{o} ({IN_PLACE[o]} in its place)" if o in IN_PLACE else o for o in options]
    return f"judge {model}: the server took no {', '.join(said)}" if said else ""

"""A jury as the judge of a stage: its members are endpoints, and their votes are kept.

judge/votes.jsonl holds every member's verdicts, judge/verdicts.jsonl one verdict per pair.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace

from stllava.files import read_records
from stllava.judging.jury import JuryJudge
from stllava.judging.protocol import Judge
from stllava.pipeline.job import Job
from stllava.records import Verdict
from stllava.stage import Stage

VOTES = "votes.jsonl"
Opened = Callable[[Job], AbstractContextManager[Judge]]


def members(job: Job) -> dict[str, Job]:
    """Name -> the job as if that endpoint were the only judge; rubric, orders and caps are shared.

    What a member does not say of its endpoint is the default, not the section's own.
    """
    section = job.recipe.judge
    found = {}
    for name, juror in section.jury.items():
        said = {field: getattr(juror, field) for field in type(juror).model_fields}
        alone = section.model_copy(update={**said, "jury": {}, "kind": "openai", "server": None})
        found[name] = replace(job, recipe=job.recipe.model_copy(update={"judge": alone}))
    return found


@contextmanager
def opened_jury(job: Job, stage: Stage, opened: Opened) -> Iterator[Judge]:
    """The jury, its members opened one after the other; votes go to `stage`."""
    file = stage.path / VOTES
    votes = list(read_records(file, Verdict)) if file.is_file() else []
    with ExitStack() as stack:
        judges = [stack.enter_context(opened(alone)) for alone in members(job).values()]
        yield JuryJudge(
            judges,
            rule=job.recipe.judge.jury_rule,
            votes=votes,
            keep=lambda verdict: stage.append(VOTES, verdict),
        )

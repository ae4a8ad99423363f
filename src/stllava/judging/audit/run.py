"""The audit of a run: its judge, its jury's members, and all of them against an expert."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from stllava.judging.audit.audit import audit
from stllava.judging.audit.calibration import calibrate, expert_votes
from stllava.judging.audit.pairs import decisions, pair_name
from stllava.judging.audit.share import share
from stllava.judging.experts.votes import current_votes, is_expert
from stllava.records import Answers, Image, JSONObject, Verdict

# Records of a file of the run, none where it is not there. "judge/verdicts.jsonl", Verdict
Load = Callable[[str, type[Any]], Iterable[Any]]

EXPERTS_FILE = "review/verdicts.jsonl"


def audit_run(
    load: Load, *, judge: str = "judge", labels: Mapping[str, int] | None = None
) -> JSONObject:
    """As `audit`, plus "jury" (its members, from `judge`/votes.jsonl) and "calibration" by judge.

    Labels are those given, else the experts' votes, from review/verdicts.jsonl or the stage.
    Votes on texts that were sampled anew are not used; "votes" counts both kinds.
    """
    answers: list[Answers] = list(load("answer/answers.jsonl", Answers))
    images: list[Image] = list(load("prepare/images.jsonl", Image))
    verdicts: list[Verdict] = list(load(f"{judge}/verdicts.jsonl", Verdict))
    votes: list[Verdict] = list(load(f"{judge}/votes.jsonl", Verdict))
    reviewed, outdated = current_votes(answers, load(EXPERTS_FILE, Verdict))
    found = audit([v for v in verdicts if not is_expert(v.judge)], answers, images)
    experts = [v for v in (*verdicts, *reviewed) if is_expert(v.judge)]
    if reviewed or outdated:
        found["votes"] = {"used": len(reviewed), "outdated": outdated}
    if len({v.judge for v in experts}) > 1:
        found["experts"] = audit(experts, answers, images)["panel"]
    if votes:
        found["jury"] = audit(votes, answers, images)
        for combined in found["judges"].values():
            _forget_position(combined)
    every = decisions([*verdicts, *votes, *reviewed])
    if labels is None:
        labels = expert_votes(experts)
    if labels:
        groups = _groups(answers, images)
        judges = sorted({d.judge for d in every if not is_expert(d.judge)})
        found["calibration"] = {
            name: calibrate(labels, [d for d in every if d.judge == name], groups)
            for name in judges
        }
    return found


def _forget_position(judge: JSONObject) -> None:
    """A jury's own verdict was shown in no order; its members' were."""
    none = share([]).json()
    judge["position"] |= {"first_shown_wins": none, "model": None}
    for part in (*judge["by_source"].values(), *judge["by_kind"].values()):
        part["first_shown_wins"] = none


def _groups(answers: Iterable[Answers], images: Iterable[Image]) -> dict[str, str]:
    """Pair name -> patient or case, of every pair of draws."""
    group = {image.id: image.group for image in images}
    return {
        pair_name(item.id, (a.index, b.index)): group.get(item.image, item.image)
        for item in answers
        for a in item.draws
        for b in item.draws
        if a.index < b.index
    }

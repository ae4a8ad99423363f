"""prefer: clear verdicts and experts' votes become training pairs."""

from __future__ import annotations

from collections import Counter
from itertools import chain

from stllava.errors import RunError
from stllava.files import read_records, write_json
from stllava.judging.experts.votes import mark_edited, with_votes
from stllava.judging.prefer import prefer as make_preferences
from stllava.judging.routing import for_review
from stllava.pipeline import review
from stllava.pipeline.job import Job
from stllava.records import Answers, Preference, Verdict

MOST_UNSCORED = 1.0  # points of a winner without scores: a probability, or 1


def prefer(job: Job) -> None:
    """Write preferences.jsonl: a pure function of answers, verdicts and the recipe's section."""
    if job.has_pairs:
        _copy_pairs(job)
        return
    stage = job.stage("prefer")
    inputs = [job.file("answer", "answers.jsonl"), job.file("judge", "verdicts.jsonl")]
    inputs += review.voted(job)
    _check_scored(job)
    settings = {**job.recipe.prefer.model_dump(mode="json"), "seed": job.recipe.seed}
    if not stage.begin(inputs=inputs, settings=settings):
        return
    job.reporter.stage("prefer", 1)
    answers = job.stage("answer").read("answers.jsonl", Answers)
    verdicts = job.stage("judge").read("verdicts.jsonl", Verdict)
    merged = with_votes(answers, verdicts, review.votes(job))
    result = make_preferences(
        merged.answers, merged.verdicts, job.recipe.prefer, seed=job.recipe.seed
    )
    doubtful = list(for_review(answers, merged.undecided, job.recipe.prefer))
    for item in doubtful:
        stage.append("review.jsonl", item)
    for dropped in result.dropped:
        stage.drop(dropped)
    for preference in mark_edited(result.preferences, answers):
        stage.append("preferences.jsonl", preference)
    stage.finish_unit(0)
    write_json(stage.path / "counts.json", result.counts)
    if not result.preferences:
        reasons = Counter(d.reason for d in result.dropped).most_common(1)
        why = f"; most often: {reasons[0][0]}" if reasons else ""
        raise RunError(f"{stage.path}: no preference is left to train on{why}")
    job.reporter.advance(1, 1)
    stage.finish(
        preferences=len(result.preferences),
        for_review=len(doubtful),
        votes={"used": merged.used, "outdated": merged.outdated},
        rules=result.counts,
    )


def _check_scored(job: Job) -> None:
    """Raises RunError where no answer can reach prefer.min_chosen_score, for nobody gives scores.

    Only the verdicts tell: a jury may have members that score, an expert's votes are scores.
    """
    floor = job.recipe.prefer.min_chosen_score
    if floor is None or floor <= MOST_UNSCORED:
        return
    file, has_winner = job.file("judge", "verdicts.jsonl"), False
    for verdict in chain(read_records(file, Verdict), review.votes(job)):
        if verdict.scores is not None:
            return
        has_winner |= verdict.state == "ok"
    if has_winner:
        raise RunError(
            f"{file}: no verdict has scores, so none reaches prefer.min_chosen_score {floor:g}; "
            "leave it out with --set prefer.min_chosen_score=null (prefer.min_margin takes "
            "probabilities), or judge by a rubric with scores"
        )


def _copy_pairs(job: Job) -> None:
    """Pairs that others made are used as they are; `data check` has looked at them."""
    file, stage = job.file("prepare", "preferences.jsonl"), job.stage("prefer")
    if not file.is_file():
        raise RunError(f"{file}: no pair is left; see dropped.jsonl beside it")
    if not stage.begin(inputs=[file], settings={}):
        return
    pairs = job.stage("prepare").read("preferences.jsonl", Preference)
    for pair in pairs:
        stage.append("preferences.jsonl", pair)
    stage.finish_unit(0)
    stage.finish(preferences=len(pairs))

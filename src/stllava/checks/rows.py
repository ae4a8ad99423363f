"""Findings about rows: what was dropped or repaired, empty, repeated or contradictory ones."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from stllava.checks.material import Asked, Material
from stllava.checks.private import mask
from stllava.checks.report import Finding, finding
from stllava.metrics.closed import is_yes_no
from stllava.records import Dropped, Preference

SHORT_ANSWER = 8  # words; two longer answers that differ may both be right
ANSWER_MISSING = "no answer"

# Which of the reasons in dropped.jsonl say what; the first that fits, else the record is unusable.
_REASONS = {
    "missing": re.compile(r"not found|no such file|link to nothing|does not exist|not in the"),
    "follows": re.compile(r"its image was dropped"),
    "corrupt": re.compile(
        r"cannot be read|not an image of a known kind|pixels, more than|more than [\d,]+ pixels"
        r"|too large(?! for a number)|truncated|damaged|decod|no finite pixel|bits per channel"
        r"|cannot be followed"
    ),
}


def dropped_findings(dropped: Sequence[Dropped]) -> list[Finding]:
    """Missing, corrupt and unusable items, and what was lost with an image."""
    found: dict[str, list[str]] = {"missing": [], "corrupt": [], "follows": [], "unusable": []}
    for item in dropped:
        kinds = (kind for kind, reason in _REASONS.items() if reason.search(item.reason))
        found[next(kinds, "unusable")].append(item.id)
    missing, corrupt, follows, unusable = found.values()
    findings = [
        finding(
            "missing-images", "warn", missing,
            f"{len(missing)} items name an image that is not there",
            "copy the files to the image root, or go on without them",
        ),
        finding(
            "corrupt-images", "warn", corrupt, f"{len(corrupt)} image files cannot be used",
            "export or copy them again; dropped.jsonl says what is wrong with each",
        ),
        finding(
            "records-without-image", "note", follows,
            f"{len(follows)} conversations and questions were dropped with their image",
        ),
        finding(
            "unusable-records", "warn", unusable, f"{len(unusable)} records cannot be used",
            "dropped.jsonl says why for each",
        ),
    ]  # fmt: skip
    return [found for found in findings if found.count]


def dirt_findings(material: Material) -> list[Finding]:
    """One note for each repair, one warning for each that a reader of the files gave."""
    repairs = [
        finding("repaired", "note", (), mask(f"{place}: {what}".removeprefix(": ")), count=count)
        for place, said in material.repairs.items()
        for what, count in sorted(said.items())
        if count
    ]
    said = [
        finding("source-says", "warn", (), mask(text), "read it beside every number", count=1)
        for text in dict.fromkeys(material.warnings)
    ]
    licences = [
        finding(
            "licence", "note", (), f"{source}: {licence or 'licence not known'}",
            "" if licence else "find out before you share data or weights", count=1,
        )
        for source, licence in sorted(material.licences.items())
    ]  # fmt: skip
    return repairs + said + licences


def row_findings(rows: Sequence[Asked], where: str, prefix: str = "") -> list[Finding]:
    """Empty, repeated and contradictory rows of one set; `where` names it in the sentence."""
    empty = [row.id for row in rows if row.is_empty]
    seen: Counter[tuple[str, str, str]] = Counter()
    repeated: list[str] = []
    answers: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        if row.is_empty:
            continue
        key = (row.picture, row.text, row.answer)
        seen[key] += 1
        if seen[key] > 1:
            repeated.append(row.id)
        if len(row.answer.split()) <= SHORT_ANSWER:
            answers.setdefault(key[:2], {}).setdefault(row.answer, row.id)
    found = [
        finding(
            f"{prefix}empty-answers", "warn", empty,
            f"{len(empty)} rows of {where} have a blank question or answer",
            "leave them out; a model would learn to say nothing",
        ),
        finding(
            f"{prefix}repeated-rows", "warn", repeated,
            f"{len(repeated)} rows of {where} repeat an earlier one: picture, question and answer",
            "leave them out, or keep them to have the published count",
        ),
        _contradictions([given for given in answers.values() if len(given) > 1], where, prefix),
    ]  # fmt: skip
    return [one for one in found if one.count]


def _contradictions(answers: Iterable[dict[str, str]], where: str, prefix: str) -> Finding:
    listed = list(answers)
    num_yes_no = sum({"yes", "no"} <= set(given) for given in listed)
    return finding(
        f"{prefix}contradictory-answers",
        "warn",
        [next(iter(given.values())) for given in listed],
        f"{len(listed)} questions of {where} have several different short answers for one picture, "
        f"{num_yes_no} of them both yes and no",
        "look at them; for the second kind no model can be right",
    )


def pair_findings(preferences: Sequence[Preference]) -> list[Finding]:
    """Pairs that teach nothing, or whose opposite is there too."""
    same = [p.id for p in preferences if p.chosen.text.strip() == p.rejected.text.strip()]
    known = {(p.image, p.question, p.chosen.text, p.rejected.text) for p in preferences}
    opposite = [
        p.id for p in preferences
        if p.chosen.text != p.rejected.text
        and (p.image, p.question, p.rejected.text, p.chosen.text) in known
    ]  # fmt: skip
    found = [
        finding(
            "preference-equal-texts", "warn", same,
            f"{len(same)} pairs have the same text as chosen and as rejected", "leave them out",
        ),
        finding(
            "preference-reversed", "warn", opposite,
            f"{len(opposite)} pairs are there in both directions", "keep one direction, or none",
        ),
    ]  # fmt: skip
    return [one for one in found if one.count]


def prior_findings(training: Sequence[Asked], tests: Sequence[Asked], where: str) -> list[Finding]:
    """How far one gets without the image: test texts that training holds about any picture."""
    if not training or not tests:
        return []
    known = {(row.text, row.answer) for row in training}
    hits = [row.id for row in tests if (row.text, row.answer) in known]
    num_open = sum(not is_yes_no(row.answer) for row in tests)
    answers = {row.answer for row in training}
    seen = sum(row.answer in answers for row in tests if not is_yes_no(row.answer))
    what = (
        f"{len(hits)} of {len(tests)} questions of {where} ({len(hits) / len(tests):.0%}) are in "
        f"training with the same answer, about any picture; of {num_open} answers beside "
        f"yes and no, {seen} are answers in training"
    )
    return [
        finding(
            "answer-priors",
            "note",
            (),
            what,
            "read scores beside the blind baselines",
            count=len(hits),
        )
    ]

"""A judge against an expert: agreement beyond chance, accuracy, and a margin to trust it above.

The margin is chosen on one half of the images and reported on the other, so that the report is no
echo of the choice. 200 doubly labelled pairs give a kappa of 0.6 to about +-0.11, 800 to +-0.055.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from stllava.errors import DataError
from stllava.judging.audit.agreement import kappa_with_interval
from stllava.judging.audit.pairs import JUDGED, Decision, latest, pair_name
from stllava.judging.audit.share import share
from stllava.judging.experts.votes import is_expert, majority
from stllava.reading.table import read_rows
from stllava.records import JSONObject, Verdict

TIES = ("tie", "equal", "both")
NOTHING = ("", "skip", "cannot_judge", "cannot judge", "?", "both_bad", "both bad")
TARGET = 90.0  # percent right that a margin is chosen for; not in the paper
FEWEST = 20  # pairs that a margin must leave on the half it is chosen on

_PAIR = re.compile(r"(?P<answers>.+)/d(?P<i>\d+)[->]d(?P<j>\d+)")


class Case(NamedTuple):
    """One pair that the expert labelled and the judge was asked about."""

    expert: int  # 1, -1 or 0 for a tie, as `Decision.vote`
    judge: Decision
    group: str


def expert_votes(votes: Iterable[Verdict]) -> dict[str, int]:
    """Pair name -> label, from experts' votes, by the majority that `prefer` goes by.

    Left out: what they could not judge, found both bad, or did not agree on.
    """
    by_name: dict[str, list[Verdict]] = defaultdict(list)
    for vote in latest(votes):
        if is_expert(vote.judge):
            by_name[pair_name(vote.answers_id, vote.pair)].append(vote)
    labels = {}
    for name, given in by_name.items():
        said = majority(given)
        if said.state in ("ok", "tie"):
            first = min(given[0].pair)
            labels[name] = 0 if said.winner is None else 1 if said.winner == first else -1
    return labels


def read_labels(path: Path) -> dict[str, int]:
    """Pair name -> vote, from a table (CSV, TSV, JSONL, Parquet) with columns `pair` and `winner`.

    `pair` is as the audit lists it, ANSWERS/d0-d1; `winner` is the draw (`d1` or `1`), a word for a
    tie, or nothing (also `both_bad`) where the expert prefers nothing. Raises DataError otherwise.
    """
    votes = {}
    for entry in read_rows(path):
        row = entry.value if isinstance(entry.value, dict) else {}
        if entry.problem or not {"pair", "winner"} <= row.keys():
            raise DataError(
                f"{entry.place}: {entry.problem or 'needs the columns pair and winner'}"
            )
        name, vote = _label(str(row["pair"]).strip(), row["winner"], entry.place)
        if vote is not None:
            votes[name] = vote
    return votes


def _label(pair: str, winner: object, place: str) -> tuple[str, int | None]:
    found = _PAIR.fullmatch(pair)
    if found is None:
        raise DataError(f"{place}: {pair!r} names no pair; write it as ANSWERS_ID/d0-d1")
    i, j = sorted((int(found["i"]), int(found["j"])))
    name, said = f"{found['answers']}/d{i}-d{j}", str("" if winner is None else winner).strip()
    if said.lower() in NOTHING:
        return name, None
    if said.lower() in TIES:
        return name, 0
    said = said.lower().removesuffix(".0").removeprefix("d")
    if said not in (str(i), str(j)):
        raise DataError(f"{place}: winner {winner!r} is neither d{i} nor d{j} nor tie")
    return name, 1 if said == str(i) else -1


def calibrate(
    labels: Mapping[str, int],
    decisions: Iterable[Decision],
    groups: Mapping[str, str],
    *,
    target: float = TARGET,
    seed: int = 0,
) -> JSONObject:
    """Compare one judge's decisions with labels. `groups`: pair name -> patient or image.

    Kappa is over winner and tie as both name them, on pairs where the judge has a vote; accuracy on
    pairs where both name a winner, and, stricter, on all in which the expert does.
    """
    cases = [
        Case(labels[d.name], d, groups.get(d.name, d.answers_id))
        for d in decisions
        if d.view == "image" and d.name in labels
    ]
    kappa = kappa_with_interval(
        [case.expert for case in cases],
        [case.judge.vote for case in cases],
        [case.group for case in cases],
        seed=seed,
    )
    decided = [case for case in cases if case.expert != 0]
    both = [case for case in decided if case.judge.vote]
    return {
        "labels": len(labels),
        "pairs": len(cases),
        "groups": len({case.group for case in cases}),
        "kappa": kappa._asdict(),
        "accuracy": share((_right(c), c.group) for c in both).json(),
        "accuracy_of_all": share((_right(c), c.group) for c in decided).json(),
        "confusion": _confusion(cases),
        "threshold": _threshold(both, target, seed),
    }


def _right(case: Case) -> float:
    return float(case.judge.vote == case.expert)


def _confusion(cases: Iterable[Case]) -> JSONObject:
    """Rows: the expert named a winner, or a tie. Which draw has which index means nothing."""
    rows: dict[str, Counter[str]] = defaultdict(Counter)
    for case in cases:
        vote, state = case.judge.vote, case.judge.state
        said: str = state if state in JUDGED[1:] else "no verdict"
        if vote:
            said = "winner" if case.expert == 0 else "same" if _right(case) else "other"
        rows["tie" if case.expert == 0 else "winner"][said] += 1
    return {name: dict(row.most_common()) for name, row in rows.items()}


def _half(group: str, seed: int) -> Literal["chosen_on", "reported_on"]:
    """Whole groups go to a half, by hash: no image is in both, and more labels move none."""
    luck = hashlib.sha256(f"calibration\0{seed}\0{group}".encode()).digest()[0]
    return "chosen_on" if luck % 2 else "reported_on"


def _threshold(both: Sequence[Case], target: float, seed: int) -> JSONObject | None:
    """The smallest margin at which the judge is right often enough, and what it gives elsewhere.

    If none is, the most accurate one that leaves 20 pairs. None for judges without scores, or
    where a half has fewer pairs than that.
    """
    halves: dict[str, list[Case]] = {"chosen_on": [], "reported_on": []}
    for case in both:
        if case.judge.margin is not None:
            halves[_half(case.group, seed)].append(case)
    first, second = halves["chosen_on"], halves["reported_on"]
    if min(len(first), len(second)) < FEWEST:
        return None
    found = []
    for margin in sorted({_margin(case) for case in first}):
        kept = [case for case in first if _margin(case) >= margin]
        if len(kept) >= FEWEST:
            found.append((margin, 100 * sum(map(_right, kept)) / len(kept)))
    reaching = [margin for margin, accuracy in found if accuracy >= target]
    best = max(found, key=lambda pair: (pair[1], -pair[0]))[0]
    margin = min(reaching, default=best)
    return {
        "target": target,
        "reached": bool(reaching),
        "margin": margin,
        **{name: _above(half, margin) for name, half in halves.items()},
    }


def _margin(case: Case) -> float:
    assert case.judge.margin is not None
    return abs(case.judge.margin)


def _above(cases: Sequence[Case], margin: float) -> JSONObject:
    kept = [case for case in cases if _margin(case) >= margin]
    return {
        "accuracy": share((_right(c), c.group) for c in kept).json(),
        "kept": share((float(_margin(c) >= margin), c.group) for c in cases).json(),
    }

"""Rules that look at all preferences together, so that no shortcut pays: image caps and balances.

A judge that likes long answers, or one answer word, teaches that instead of what it sees.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Literal

from stllava.generation.protocol import draw_seed
from stllava.judging.questions import question_type
from stllava.records import Draw, Dropped, Preference

Side = Literal[-1, 0, 1]
SideOf = Callable[[Preference], Side]

_YES_NO = re.compile(r"\W*(yes|no)\b", re.IGNORECASE)


class Tally:
    """What each rule of a stage saw, passed and dropped."""

    def __init__(self, stage: str) -> None:
        self.stage = stage
        self.counts: dict[str, Counter[str]] = defaultdict(Counter)
        self.dropped: list[Dropped] = []

    def drop(self, item_id: str, reason: str) -> None:
        self.dropped.append(Dropped(id=item_id, stage=self.stage, reason=reason))
        self.counts["dropped"][reason] += 1

    def passes(self, rule: str, ok: bool) -> bool:
        """Count one item at `rule`; returns `ok`."""
        self.counts[rule].update({"in": 1, "out": int(ok)})
        return ok


def num_words(draw: Draw) -> int:
    return len(draw.text.split())


def yes_no_side(preference: Preference) -> Side:
    """1: the chosen answer opens with yes; -1: with no; 0: with neither."""
    opening = _YES_NO.match(preference.chosen.text)
    if opening is None:
        return 0
    return 1 if opening.group(1).lower() == "yes" else -1


def length_side(preference: Preference) -> Side:
    """1: the chosen answer is the longer one, in words; -1: the shorter; 0: equally long."""
    gap = num_words(preference.chosen) - num_words(preference.rejected)
    return 0 if gap == 0 else 1 if gap > 0 else -1


def cap_per_image(
    preferences: Sequence[Preference], limit: int, *, seed: int, tally: Tally
) -> list[Preference]:
    """At most `limit` preferences of an image: the largest margins, equal ones by the seed."""
    return _cap("max_per_image", "its image", lambda p: p.image, preferences, limit, seed, tally)


def cap_per_question_type(
    preferences: Sequence[Preference], limit: int, *, seed: int, tally: Tally
) -> list[Preference]:
    """At most `limit` preferences of a `question_type`, chosen likewise."""
    rule = "max_per_question_type"
    kind = "its question type"
    return _cap(rule, kind, lambda p: question_type(p.question), preferences, limit, seed, tally)


def _cap(
    rule: str,
    what: str,
    key: Callable[[Preference], str],
    preferences: Sequence[Preference],
    limit: int,
    seed: int,
    tally: Tally,
) -> list[Preference]:
    groups: dict[str, list[Preference]] = defaultdict(list)
    for preference in preferences:
        groups[key(preference)].append(preference)
    kept: set[str] = set()
    for group in groups.values():
        group.sort(key=lambda p: (-p.margin, _rank(seed, rule, p)))
        kept.update(p.id for p in group[:limit])
    return _keep(preferences, kept, rule, f"more than {limit} of {what}", tally)


def balance(
    preferences: Sequence[Preference], *, yes_no: bool, length: bool, seed: int, tally: Tally
) -> list[Preference]:
    """Drop a seeded surplus until both sides of each asked rule are equally many.

    With both rules each is applied inside the classes of the other, so that the second does not
    undo the first.
    """
    kept = list(preferences)
    if length:
        within = yes_no_side if yes_no else _one_class
        kept = _equalise("balance_length", kept, length_side, within, seed=seed, tally=tally)
    if yes_no:
        within = length_side if length else _one_class
        kept = _equalise("balance_yes_no", kept, yes_no_side, within, seed=seed, tally=tally)
    return kept


def _equalise(
    rule: str,
    preferences: Sequence[Preference],
    side: SideOf,
    within: SideOf,
    *,
    seed: int,
    tally: Tally,
) -> list[Preference]:
    classes: dict[Hashable, dict[Side, list[Preference]]] = defaultdict(lambda: defaultdict(list))
    for preference in preferences:
        classes[within(preference)][side(preference)].append(preference)
    kept: set[str] = set()
    for sides in classes.values():
        quota = min(len(sides[1]), len(sides[-1]))
        for group in (sides[1], sides[-1]):
            group.sort(key=lambda p: _rank(seed, rule, p))
            kept.update(p.id for p in group[:quota])
        kept.update(p.id for p in sides[0])
    return _keep(preferences, kept, rule, f"surplus in {rule}", tally)


def _one_class(_: Preference) -> Side:
    return 0


def _rank(seed: int, rule: str, preference: Preference) -> int:
    """A place in line that depends on no other preference: more data reshuffles nothing."""
    return draw_seed(seed, f"{rule}/{preference.id}", 0)


def _keep(
    preferences: Sequence[Preference], kept: set[str], rule: str, reason: str, tally: Tally
) -> list[Preference]:
    passing = []
    for preference in preferences:
        if tally.passes(rule, preference.id in kept):
            passing.append(preference)
        else:
            tally.drop(preference.id, reason)
    return passing

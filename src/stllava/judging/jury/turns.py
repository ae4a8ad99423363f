"""A jury that asks: one judge after the other, each gone before the next one comes."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple

from stllava.errors import JudgeError
from stllava.judging.jury.combine import Key, Rule, jury_verdicts, key_of
from stllava.judging.pairing import Pair, unordered
from stllava.judging.protocol import Judge
from stllava.judging.states import UNSAID
from stllava.records import Answers, Verdict

Item = tuple[Answers, Pair]


def _keys(items: Iterable[Item], view: str) -> list[Key]:
    return [(answers.id, unordered(pair), view) for answers, pair in items]


def _asked(
    views: Views,
    cases: Sequence[Item],
    again: Sequence[Item],
    settled: Container[Key],
    standing: Container[str],
) -> Iterator[Verdict]:
    """What one member says that is neither `settled` nor said already."""
    for view, judge, items in (("image", views.image, cases), ("blank", views.blank, again)):
        if judge is not None:
            keys = _keys(items, view)
            open_ones = [item for item, key in zip(items, keys, strict=True) if key not in settled]
            yield from judge.judge(open_ones, done=standing)


class Views(NamedTuple):
    """A judge that is ready to be asked."""

    image: Judge
    blank: Judge | None = None  # the same one, shown no image; None: it never looks


class Member(NamedTuple):
    """A judge of a jury, which is there while its turn lasts."""

    name: str  # its verdicts'
    turn: Callable[[], AbstractContextManager[Views]]


class JuryJudge:
    """A `Judge` that asks several judges and combines their verdicts.

    One judge after the other reads all items, and is gone before the next one comes, so that they
    can share a GPU. `blank` says which items are judged again without the image. A member's verdict
    goes to `keep` as soon as it is there; `votes`, kept by an earlier run, are not asked for again,
    but those whose call failed are, where the jury has no verdict yet.
    """

    def __init__(
        self,
        members: Sequence[Member],
        *,
        rule: Rule = "majority",
        name: str = "jury",
        blank: Callable[[Iterable[Item]], Iterable[Item]] = lambda _: (),
        votes: Iterable[Verdict] = (),
        keep: Callable[[Verdict], None] = lambda _: None,
    ) -> None:
        names = [member.name for member in members]
        if len(set(names)) < len(names) or len(names) < 2:
            raise JudgeError(
                "judge.jury: needs two or more judges with names of their own, has "
                f"{', '.join(names)}"
            )
        self.name = name
        self._members, self._rule, self._keep = members, rule, keep
        self._blank = blank
        self._votes = {v.id: v for v in votes}

    def judge(self, items: Iterable[Item], *, done: Container[str] = ()) -> Iterator[Verdict]:
        """One verdict per item, once all judges have seen all items; then those without image."""
        cases = list(items)
        again = list(self._blank(cases))
        votes = dict(self._votes)
        settled = {key_of(v) for v in self._verdicts(votes.values()) if v.id in done}
        standing = {name for name, v in votes.items() if v.state not in UNSAID}
        for member in self._members:
            with member.turn() as views:
                for verdict in _asked(views, cases, again, settled, standing):
                    votes[verdict.id] = verdict
                    self._keep(verdict)
        wanted = {*_keys(cases, "image"), *_keys(again, "blank")}
        for verdict in self._verdicts(v for v in votes.values() if key_of(v) in wanted):
            if verdict.id not in done:
                yield verdict

    def _verdicts(self, votes: Iterable[Verdict]) -> list[Verdict]:
        return jury_verdicts(votes, rule=self._rule, name=self.name)

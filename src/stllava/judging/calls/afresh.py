"""Calls that are sent although equal ones were answered: what a server does, it does today."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from itertools import count

from stllava.generation.asked import Asker
from stllava.generation.protocol import CallBook, Estimate, Sampling, StoredCall
from stllava.judging.calls.budget import Budget, Plan
from stllava.judging.calls.estimate import CountingGenerator
from stllava.records import Draw, Request


class Afresh:
    """A CallBook that pays from another one and answers nothing from it.

    A try is `reserve`, then `settle` or `release` in the same thread.
    """

    def __init__(self, book: CallBook) -> None:
        self._book = book
        self._numbers = count()
        self._here = threading.local()

    def fetch(self, key: str) -> StoredCall | None:
        return None

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        self._here.key = f"{key}/{next(self._numbers)}"
        return self._book.reserve(self._here.key, estimate)

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        return self._book.settle(self._here.key, call)

    def has_replied(self, host: str, model: str) -> bool:
        return self._book.has_replied(host, model)

    def release(self, key: str, *, maybe_paid: bool = False) -> None:
        self._book.release(self._here.key, maybe_paid=maybe_paid)


class CountingAfresh:
    """Stands in for an endpoint that is asked afresh: counts every call, sends nothing."""

    def __init__(self, asker: Asker, budget: Budget) -> None:
        self.name = asker.model
        self._asker = asker
        self._budget = budget
        self.plan = Plan()

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        for request in requests:
            one = CountingGenerator(self._asker, None, self._budget)
            yield from one.generate([request], sampling)
            self.plan = self.plan.plus(one.plan)

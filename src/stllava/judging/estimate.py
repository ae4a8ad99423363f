"""What judging would send and cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stllava.generation.asked import Asker, one_by_one
from stllava.generation.protocol import CallBook, Sampling
from stllava.generation.wire import kept_fields
from stllava.judging.budget import NANO, Budget, Plan
from stllava.records import Draw, Request


class CountingGenerator:
    """Stands in for an endpoint: answers from the book, counts the rest and sends nothing.

    What a judge asks only after it has seen a reply, a repair, is not counted.
    """

    def __init__(self, asker: Asker, book: CallBook | None, budget: Budget) -> None:
        self.name = asker.model
        self._asker = asker
        self._book = book
        self._budget = budget
        self._seen: set[str] = set()
        self._nano = 0
        self.plan = Plan()

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        for request, index in one_by_one(requests):
            asked = self._asker.ask(request, index, sampling)
            stored = self._book.fetch(asked.key) if self._book else None
            if stored is not None and stored.status != "failed":
                self._count(asked.key, stored=1)
                yield Draw(request_id=request.id, index=index, **kept_fields(stored.reply))
                continue
            text, image, output = asked.estimate
            if self._count(
                asked.key, calls=1, text_tokens=text, image_tokens=image, output_tokens=output
            ):
                self._nano += self._budget.at_most_nano(asked.estimate)
                usd = None if self._budget.prices is None else self._nano / NANO
                self.plan = self.plan._replace(usd=usd)
            yield Draw(request_id=request.id, index=index, text="", finish="error", reason="budget")

    def _count(self, key: str, **more: int) -> bool:
        """Add to the plan; False if the same call was counted before."""
        if key in self._seen:
            return False
        self._seen.add(key)
        sums = {name: getattr(self.plan, name) + number for name, number in more.items()}
        self.plan = self.plan._replace(**sums)
        return True

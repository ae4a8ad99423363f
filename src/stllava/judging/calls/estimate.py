"""What judging would send and cost, before anything is sent."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from stllava.generation.asked import Asker, one_by_one
from stllava.generation.protocol import CallBook, Sampling
from stllava.generation.wire import kept_fields
from stllava.judging.calls.budget import NANO, Budget, Plan
from stllava.judging.outcome import repair_request
from stllava.records import Draw, Request


class CountingGenerator:
    """Stands in for an endpoint: answers from the book, counts the rest and sends nothing.

    A repair of a reply that is in the book is a call like others. `repair`: the form that a judge
    quotes when it asks once more; each call that is still to be sent may need that too.
    """

    def __init__(
        self, asker: Asker, book: CallBook | None, budget: Budget, *, repair: str | None = None
    ) -> None:
        self.name = asker.model
        self._asker = asker
        self._book = book
        self._budget = budget
        self._repair = repair
        self._seen: set[str] = set()
        self._nano = self._repairs_nano = 0
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
                if self._repair is not None and len(request.turns) == 1:
                    self._add_repair(request, index, sampling, self._repair)
            yield Draw(request_id=request.id, index=index, text="", finish="error", reason="budget")

    def _add_repair(self, request: Request, index: int, sampling: Sampling, form: str) -> None:
        """The same once more, with a reply as long as it may be, and the form."""
        again = self._asker.ask(repair_request(request, "", form), index, sampling).estimate
        again = again._replace(text_tokens=again.text_tokens + request.max_tokens)
        self._repairs_nano += self._budget.at_most_nano(again)
        self.plan = self.plan._replace(
            repairs=self.plan.repairs + 1, repairs_usd=self._repairs_nano / NANO
        )

    def _count(self, key: str, **more: int) -> bool:
        """Add to the plan; False if the same call was counted before."""
        if key in self._seen:
            return False
        self._seen.add(key)
        sums = {name: getattr(self.plan, name) + number for name, number in more.items()}
        self.plan = self.plan._replace(**sums)
        return True

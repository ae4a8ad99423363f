"""How many calls at a time, and how long to wait before the next try.

Additive increase, multiplicative decrease, as TCP does: a server that says "too many" gets half
as many at once, and one more for each round that goes well.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition

MAX_BACKOFF_S = 60.0


class Slot:
    """One call's place; what it learned about the server is reported on leaving."""

    def __init__(self, round_: int) -> None:
        self.round = round_
        self.outcome: bool | None = None  # True: went well; False: too much for the server


class Pace:
    """Between 1 and `most` calls in flight; starts with `most`, for the user asked for them."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.limit = float(most)
        self._in_flight = 0
        self._round = 0  # of decreases: calls sent before one say nothing about the new limit
        self._free = Condition()

    @contextmanager
    def slot(self) -> Iterator[Slot]:
        """Wait for a place in flight, and give it back."""
        with self._free:
            self._free.wait_for(lambda: self._in_flight < int(self.limit))
            self._in_flight += 1
            slot = Slot(self._round)
        try:
            yield slot
        finally:
            with self._free:
                self._in_flight -= 1
                self._learn(slot)
                self._free.notify_all()

    def _learn(self, slot: Slot) -> None:
        if slot.outcome:
            self.limit = min(float(self.most), self.limit + 1 / self.limit)
        elif slot.outcome is False and slot.round == self._round:
            self.limit = max(1.0, self.limit / 2)
            self._round += 1


def wait_s(attempt: int, retry_after_s: float | None, chance: random.Random) -> float:
    """Seconds before try `attempt` + 1; full jitter.

    What the server asks for is a lower bound, not an instant at which all come back.
    """
    if retry_after_s is not None:
        return retry_after_s + chance.random()
    return chance.uniform(0, min(MAX_BACKOFF_S, 2.0**attempt))

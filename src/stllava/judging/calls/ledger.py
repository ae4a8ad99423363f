"""The ledger of calls: every reply is paid for once, and no call is sent that the cap forbids.

One SQLite file (WAL, synchronous FULL), on a local disk. Several threads and processes may share
it. A call's price is set aside in the transaction that permits it, before it is sent; what was set
aside by a process that died is written off as spent, for the provider may have charged it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Container
from pathlib import Path

from stllava.generation.protocol import CallStatus, Estimate, StoredCall
from stllava.judging.calls.budget import Budget, Totals
from stllava.judging.calls.database import Database
from stllava.judging.calls.owner import new_owner, retire
from stllava.judging.calls.purse import Purse


class Ledger:
    """A CallBook in a file. Use as a context manager. `retry`, `since`: see `Purse`."""

    def __init__(
        self,
        path: Path,
        budget: Budget = Budget(),  # noqa: B008  (a tuple)
        *,
        retry: Container[str] = ("failed",),
        since: float = 0.0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.path = path
        self.database = Database(path)
        self.owner = new_owner()
        self._retry, self._since, self._clock = retry, since, clock
        self._purse = self.purse_of(self.owner, budget)

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        retire(self.owner)

    def fetch(self, key: str) -> StoredCall | None:
        return self.database.read(lambda: self._purse.standing(key))

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        return self.database.commit(lambda: self._purse.reserve(key, estimate))

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        return self.database.commit(lambda: self._purse.settle(key, call))

    def has_replied(self, host: str, model: str) -> bool:
        return self.database.read(lambda: self._purse.has_replied(host, model))

    def release(self, key: str, *, maybe_paid: bool = False) -> None:
        self.database.commit(lambda: self._purse.release(key, maybe_paid=maybe_paid))

    def mark(self, key: str, status: CallStatus) -> None:
        """Note what the latest reply turned out to be once it was read: refused, or unparsed."""
        change = (
            "UPDATE calls SET status = ?1 WHERE key = ?2 AND status = 'ok' "
            "AND ask = (SELECT max(ask) FROM calls WHERE key = ?2)"
        )
        self.database.commit(lambda: self.database.connection.execute(change, (status, key)))

    def purse_of(self, owner: str, budget: Budget) -> Purse:
        """The same calls and sums for another owner or at other prices; see `Purse`."""
        return Purse(
            self.database.connection,
            self.path,
            budget,
            owner=owner,
            retry=self._retry,
            since=self._since,
            clock=self._clock,
        )

    def totals(self) -> Totals:
        """What was spent and what is set aside, over all who share the file."""
        return self.database.read(self._purse.totals)

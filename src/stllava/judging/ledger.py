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
from stllava.judging.budget import Budget, Totals
from stllava.judging.database import Database
from stllava.judging.owner import new_owner, retire
from stllava.judging.purse import Purse


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
        self._owner = new_owner()
        self._purse = Purse(
            self.database.connection,
            path,
            budget,
            owner=self._owner,
            retry=retry,
            since=since,
            clock=clock,
        )

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self.database.close()
        retire(self._owner)

    def fetch(self, key: str) -> StoredCall | None:
        with self.database.lock:
            return self._purse.standing(key)

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        return self.database.commit(lambda: self._purse.reserve(key, estimate))

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        return self.database.commit(lambda: self._purse.settle(key, call))

    def release(self, key: str, *, maybe_paid: bool = False) -> None:
        self.database.commit(lambda: self._purse.release(key, maybe_paid=maybe_paid))

    def mark(self, request_id: str, status: CallStatus) -> None:
        """Note what a reply turned out to be once it was read: refused, or not to be parsed."""
        change = "UPDATE calls SET status = ? WHERE request_id = ? AND status = 'ok'"
        self.database.commit(lambda: self.database.connection.execute(change, (status, request_id)))

    def totals(self) -> Totals:
        """What was spent and what is set aside, over all who share the file."""
        with self.database.lock:
            return self._purse.totals()

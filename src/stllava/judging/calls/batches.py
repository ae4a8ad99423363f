"""Batches in the ledger: what is with the provider, under which id, and what came back.

A batch is begun here before anything is handed in, and its calls are set aside like any others;
the provider's id is on disk before it is first asked about. From then on the batch belongs to no
process: whoever opens the ledger next collects it.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeVar

from stllava.generation.asked import Asked
from stllava.generation.protocol import BudgetStopped, InFlight, StoredCall
from stllava.generation.wire import Reply
from stllava.judging.calls.budget import Budget
from stllava.judging.calls.ledger import Ledger
from stllava.judging.calls.owner import BATCH, is_alive
from stllava.judging.calls.purse import Purse

T = TypeVar("T")


class Batch(NamedTuple):
    """One batch that is not closed."""

    name: str
    calls: int
    file_id: str | None
    batch_id: str | None


class Batches:
    """The batches of one host in a ledger, at the price of `budget`."""

    def __init__(
        self,
        ledger: Ledger,
        budget: Budget,
        host: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._ledger, self._budget, self._host, self._clock = ledger, budget, host, clock
        self._db = ledger.database.connection

    def begin(self) -> Batch:
        """A new one, empty."""
        name = secrets.token_hex(8)
        row = (name, self._host, self._ledger.owner, self._clock())
        insert = "INSERT INTO batches (name, host, owner, created) VALUES (?, ?, ?, ?)"
        self._commit(lambda: self._db.execute(insert, row))
        return Batch(name, 0, None, None)

    def take(self, batch: Batch, asked: Iterable[Asked]) -> tuple[list[Asked], bool]:
        """Those of the calls that go into the batch, set aside; and whether all fit the budget.

        What is stored, or asked by somebody else, does not.
        """
        return self._commit(lambda: self._take(batch, asked))

    def handed_in(self, batch: Batch, *, file_id: str, batch_id: str | None = None) -> Batch:
        """Note the provider's ids, before anything else is done with them."""
        change = "UPDATE batches SET file_id = ?, batch_id = ? WHERE name = ?"
        self._commit(lambda: self._db.execute(change, (file_id, batch_id, batch.name)))
        return batch._replace(file_id=file_id, batch_id=batch_id)

    def unfinished(self) -> list[Batch]:
        """Those to go on with, made ours; not those that a living process is handing in."""
        return self._commit(self._unfinished)

    def settle(self, batch: Batch, came: Sequence[tuple[str, Reply | None]]) -> int:
        """Keep replies by key; None: charged without one. Returns how many were kept.

        What is not, or no longer, set aside for the batch is left out.
        """
        return self._commit(lambda: self._settle(batch, came))

    def close(self, batch: Batch) -> None:
        """Nothing more will come: what is still set aside was not charged."""
        self._commit(lambda: self._close(batch))

    def _take(self, batch: Batch, asked: Iterable[Asked]) -> tuple[list[Asked], bool]:
        purse, taken, fits = self._purse(batch), [], True
        for call in asked:
            if purse.holder(call.key) is not None:
                continue
            try:
                stored = purse.reserve(call.key, call.estimate)
            except (BudgetStopped, InFlight):  # in flight: others hold what is left
                fits = False
                break
            if stored is None:
                row = (call.key, batch.name, call.request.id, call.record)
                self._db.execute("INSERT OR REPLACE INTO batch_calls VALUES (?, ?, ?, ?)", row)
                taken.append(call)
        change = "UPDATE batches SET calls = calls + ? WHERE name = ?"
        self._db.execute(change, (len(taken), batch.name))
        return taken, fits

    def _unfinished(self) -> list[Batch]:
        columns = "name, calls, file_id, batch_id, owner"
        query = f"SELECT {columns} FROM batches WHERE host = ? AND closed IS NULL ORDER BY created"
        found = []
        for name, calls, file_id, batch_id, owner in self._db.execute(query, (self._host,)):
            ours = owner == self._ledger.owner
            if batch_id is None and not ours and is_alive(owner):
                continue
            found.append(Batch(name, calls, file_id, batch_id))
        for batch in found:
            change = "UPDATE batches SET owner = ? WHERE name = ?"
            self._db.execute(change, (self._ledger.owner, batch.name))
        return found

    def _settle(self, batch: Batch, came: Sequence[tuple[str, Reply | None]]) -> int:
        purse, num_kept = self._purse(batch), 0
        query = "SELECT request_id, request FROM batch_calls WHERE key = ? AND batch = ?"
        for key, reply in came:
            row = self._db.execute(query, (key, batch.name)).fetchone()
            if row is None or purse.holder(key) != BATCH + batch.name:
                continue
            if reply is None:
                purse.release(key, maybe_paid=True)
                continue
            request_id, request = row
            said = StoredCall(
                reply.status, request_id, request, reply.raw, reply.usage, reply.model
            )
            purse.settle(key, said)
            num_kept += 1
        change = "UPDATE batches SET settled = settled + ? WHERE name = ?"
        self._db.execute(change, (num_kept, batch.name))
        return num_kept

    def _close(self, batch: Batch) -> None:
        self._db.execute("DELETE FROM reservations WHERE owner = ?", (BATCH + batch.name,))
        self._db.execute("DELETE FROM batch_calls WHERE batch = ?", (batch.name,))
        change = "UPDATE batches SET closed = ? WHERE name = ?"
        self._db.execute(change, (self._clock(), batch.name))

    def _purse(self, batch: Batch) -> Purse:
        return self._ledger.purse_of(BATCH + batch.name, self._budget)

    def _commit(self, do: Callable[[], T]) -> T:
        return self._ledger.database.commit(do)

"""The ledger of calls: every reply is paid for once, and no call is sent that the cap forbids.

One SQLite file (WAL, synchronous FULL), on a local disk. Several threads and processes may share
it. A call's price is set aside in the transaction that permits it, before it is sent; what was set
aside by a process that died is written off as spent, for the provider may have charged it.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Container
from pathlib import Path

from stllava.generation.protocol import (
    BudgetStopped,
    CallStatus,
    Estimate,
    InFlight,
    StoredCall,
)
from stllava.judging.budget import NANO, Budget, Totals
from stllava.judging.database import Database
from stllava.judging.owner import is_alive, new_owner, retire
from stllava.records import Usage

HOLD_S = 3600.0  # a reservation of a machine that we cannot see is written off after so long


class Ledger:
    """A CallBook in a file. Use as a context manager.

    `retry` names the stored states that do not stand: a failed call never costs twice, so it is
    asked again whenever it is needed; another one only if it was stored before `since` (Unix
    seconds), so that what is asked again by choice is asked again once.
    """

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
        self._budget = budget
        self._retry = retry
        self._since = since
        self._clock = clock
        self._owner = new_owner()
        self._file = Database(path)
        self._db = self._file.connection

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
        retire(self._owner)

    def fetch(self, key: str) -> StoredCall | None:
        with self._file.lock:
            return self._standing(key)

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        return self._file.commit(lambda: self._reserve(key, estimate))

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        return self._file.commit(lambda: self._settle(key, call))

    def release(self, key: str, *, maybe_paid: bool = False) -> None:
        self._file.commit(lambda: self._release(key, maybe_paid))

    def mark(self, request_id: str, status: CallStatus) -> None:
        """Note what a reply turned out to be once it was read: refused, or not to be parsed."""
        change = "UPDATE calls SET status = ? WHERE request_id = ? AND status = 'ok'"
        self._file.commit(lambda: self._db.execute(change, (status, request_id)))

    def totals(self) -> Totals:
        """What was spent and what is set aside, over all who share the file."""
        with self._file.lock:
            calls, nano, lost, lost_nano, _ = self._purse()
            held, held_nano = self._held()
        spent, written_off, aside = nano / NANO, lost_nano / NANO, held_nano / NANO
        return Totals(calls, spent, lost, written_off, held, aside)

    # Everything below runs with the lock held.

    def _standing(self, key: str) -> StoredCall | None:
        columns = "status, request_id, request, reply, usage, model_returned, nano_usd, created"
        latest = f"SELECT {columns} FROM calls WHERE key = ? ORDER BY ask DESC LIMIT 1"
        row = self._db.execute(latest, (key,)).fetchone()
        if row is None:
            return None
        status, request_id, request, reply, usage, model, nano, created = row
        if status in self._retry and (status == "failed" or created < self._since):
            return None
        used = None if usage is None else Usage(**json.loads(usage))
        cost = None if nano is None else nano / NANO
        return StoredCall(status, request_id, request, reply, used, model, cost, created)

    def _reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        self._write_off_the_dead()
        if (stored := self._standing(key)) is not None:
            return stored
        if self._db.execute("SELECT 1 FROM reservations WHERE key = ?", (key,)).fetchone():
            raise InFlight
        calls, nano, _, _, underestimated = self._purse()
        held, held_nano = self._held()
        guess = self._budget.at_most_nano(estimate)
        price = math.ceil(guess * underestimated)
        over = _over(self._budget, calls + held + 1, nano + held_nano + price)
        if over and held:
            raise InFlight  # what is held may turn out cheaper
        if over:
            raise BudgetStopped(f"{self.path}: {over}")
        row = (key, self._owner, price, guess, estimate.image_tokens, self._clock() + HOLD_S)
        self._db.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?)", row)
        return None

    def _settle(self, key: str, call: StoredCall) -> StoredCall:
        taken = "DELETE FROM reservations WHERE key = ? RETURNING nano_usd, estimate, image_tokens"
        price, guess, image_tokens = self._db.execute(taken, (key,)).fetchone() or (0, 0, 0)
        nano: int | None = 0
        if call.status != "failed":
            nano = self._budget.cost_nano(call.usage, image_tokens)
            if nano is None and self._budget.prices is not None:
                nano = price  # a server that does not count
            ratio = (nano or 0) / guess if guess else 1.0
            change = "calls = calls + 1, nano_usd = nano_usd + ?"
            worse = "underestimated = max(underestimated, min(?, 10.0))"
            self._db.execute(f"UPDATE purse SET {change}, {worse}", (nano or 0, ratio))
        self._db.execute("DELETE FROM calls WHERE key = ? AND status = 'failed'", (key,))
        (ask,) = self._db.execute("SELECT count(*) FROM calls WHERE key = ?", (key,)).fetchone()
        usage = None if call.usage is None else call.usage.model_dump_json()
        now = self._clock()
        values = (call.request_id, call.request, call.reply, usage, nano, call.model, now)
        insert = "INSERT INTO calls VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
        self._db.execute(insert, (key, ask, call.status, *values))
        return call._replace(cost_usd=None if nano is None else nano / NANO, created=now)

    def _release(self, key: str, maybe_paid: bool) -> None:
        taken = "DELETE FROM reservations WHERE key = ? AND owner = ? RETURNING nano_usd"
        row = self._db.execute(taken, (key, self._owner)).fetchone()
        if row is not None and maybe_paid:
            self._write_off(row[0])

    def _write_off(self, nano: int) -> None:
        self._db.execute(
            "UPDATE purse SET calls = calls + 1, nano_usd = nano_usd + :nano, "
            "lost_calls = lost_calls + 1, lost_nano_usd = lost_nano_usd + :nano",
            {"nano": nano},
        )

    def _write_off_the_dead(self) -> None:
        others = "SELECT key, owner, nano_usd, expires FROM reservations WHERE owner != ?"
        for key, owner, nano, expires in self._db.execute(others, (self._owner,)).fetchall():
            if not is_alive(owner) or self._clock() > expires:
                self._db.execute("DELETE FROM reservations WHERE key = ?", (key,))
                self._write_off(nano)

    def _purse(self) -> tuple[int, int, int, int, float]:
        columns = "calls, nano_usd, lost_calls, lost_nano_usd, underestimated"
        row: tuple[int, int, int, int, float]
        row = self._db.execute(f"SELECT {columns} FROM purse").fetchone()
        return row

    def _held(self) -> tuple[int, int]:
        every = "SELECT count(*), coalesce(sum(nano_usd), 0) FROM reservations"
        row: tuple[int, int] = self._db.execute(every).fetchone()
        return row


def _over(budget: Budget, calls: int, nano: int) -> str | None:
    """Which cap so many calls at so much would exceed, and what to do about it."""
    if budget.max_calls is not None and calls > budget.max_calls:
        return f"judge.max_calls={budget.max_calls} is reached; raise it to go on"
    if budget.max_nano is not None and nano > budget.max_nano:
        return f"judge.max_usd={budget.max_usd:g} is reached; raise it to go on"
    return None

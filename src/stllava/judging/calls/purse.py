"""What a ledger's statements do: which call stands, what is set aside, what was paid.

Every method runs inside a transaction of `database`, or with its lock held.
"""

from __future__ import annotations

import json
import math
import sqlite3
from collections.abc import Callable, Container
from pathlib import Path
from typing import NamedTuple

from stllava.errors import RunError
from stllava.generation.protocol import BudgetStopped, Estimate, InFlight, StoredCall
from stllava.judging.calls.budget import NANO, Budget, Totals
from stllava.judging.calls.owner import BATCH, is_alive
from stllava.records import Usage

HOLD_S = 3600.0  # a reservation of a machine that we cannot see is written off after so long


class _Held(NamedTuple):
    """What is set aside: in all, and of it for calls that a batch answers in hours."""

    calls: int
    nano: int
    in_batches: int


class Purse:
    """Calls, reservations and sums of one ledger, for one budget.

    `retry` names the stored states that do not stand: a failed call never costs twice, so it is
    asked again whenever it is needed; another one only if it was stored before `since` (Unix
    seconds), so that what is asked again by choice is asked again once. `owner` is who reserves.
    """

    def __init__(
        self,
        connection: sqlite3.Connection,
        path: Path,
        budget: Budget,
        *,
        owner: str,
        retry: Container[str],
        since: float,
        clock: Callable[[], float],
    ) -> None:
        self._db = connection
        self._path = path
        self._budget = budget
        self._owner = owner
        self._retry = retry
        self._since = since
        self._clock = clock

    def standing(self, key: str) -> StoredCall | None:
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

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        """Set the price aside, or the stored call. Raises BudgetStopped, InFlight, or RunError."""
        self._write_off_the_dead()
        if (stored := self.standing(key)) is not None:
            return stored
        if (owner := self.holder(key)) is not None:
            if owner.startswith(BATCH):
                raise RunError(
                    f"{self._path}: a call is with the provider in a batch; collect it first, "
                    "with --set judge.batch={}"
                )
            raise InFlight(f"{owner}, who asks the same")
        calls, nano, _, _, underestimated = self._sums()
        held = self._held()
        guess = self._budget.at_most_nano(estimate)
        price = math.ceil(guess * underestimated)
        over = _over(self._budget, calls + held.calls + 1, nano + held.nano + price)
        if over and held.calls > held.in_batches:
            # What is held may turn out cheaper; what a batch holds takes too long.
            raise InFlight("calls that hold what is left of the budget")
        if over:
            batches = f"; {held.in_batches} calls are in batches" if held.in_batches else ""
            raise BudgetStopped(f"{self._path}: {over}{batches}")
        row = (key, self._owner, price, guess, estimate.image_tokens, self._clock() + HOLD_S)
        self._db.execute("INSERT INTO reservations VALUES (?, ?, ?, ?, ?, ?)", row)
        return None

    def has_replied(self, host: str, model: str) -> bool:
        query = (
            "SELECT 1 FROM calls WHERE status != 'failed' "
            "AND json_extract(request, '$.host') = ? AND json_extract(request, '$.model') = ?"
        )
        return self._db.execute(f"{query} LIMIT 1", (host, model)).fetchone() is not None

    def holder(self, key: str) -> str | None:
        """Who has set money aside for the call."""
        row: tuple[str] | None
        row = self._db.execute("SELECT owner FROM reservations WHERE key = ?", (key,)).fetchone()
        return row[0] if row else None

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        """Keep a call; what was set aside beyond its cost is free again."""
        nano: int | None = 0
        if call.status != "failed":  # of that, the reservation was given back
            taken = (
                "DELETE FROM reservations WHERE key = ? AND owner = ? "
                "RETURNING nano_usd, estimate, image_tokens"
            )
            row = self._db.execute(taken, (key, self._owner)).fetchone()
            price, guess, image_tokens = row or (0, 0, 0)
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

    def release(self, key: str, *, maybe_paid: bool) -> None:
        """Give back what was set aside, or write it off; what others hold stays."""
        taken = "DELETE FROM reservations WHERE key = ? AND owner = ? RETURNING nano_usd"
        row = self._db.execute(taken, (key, self._owner)).fetchone()
        if row is not None and maybe_paid:
            self._write_off(row[0])

    def totals(self) -> Totals:
        calls, nano, lost, lost_nano, _ = self._sums()
        held = self._held()
        spent, written_off, aside = nano / NANO, lost_nano / NANO, held.nano / NANO
        return Totals(calls, spent, lost, written_off, held.calls, aside)

    def _write_off(self, nano: int) -> None:
        self._db.execute(
            "UPDATE purse SET calls = calls + 1, nano_usd = nano_usd + :nano, "
            "lost_calls = lost_calls + 1, lost_nano_usd = lost_nano_usd + :nano",
            {"nano": nano},
        )

    def _write_off_the_dead(self) -> None:
        """What died processes hold; a batch at the provider lives without us."""
        others = (
            "SELECT key, owner, nano_usd, expires FROM reservations "
            f"WHERE owner != ? AND owner NOT LIKE '{BATCH}%'"
        )
        for key, owner, nano, expires in self._db.execute(others, (self._owner,)).fetchall():
            if not is_alive(owner) or self._clock() > expires:
                self._db.execute("DELETE FROM reservations WHERE key = ?", (key,))
                self._write_off(nano)

    def _sums(self) -> tuple[int, int, int, int, float]:
        columns = "calls, nano_usd, lost_calls, lost_nano_usd, underestimated"
        row: tuple[int, int, int, int, float]
        row = self._db.execute(f"SELECT {columns} FROM purse").fetchone()
        return row

    def _held(self) -> _Held:
        every = (
            "SELECT count(*), coalesce(sum(nano_usd), 0), "
            f"coalesce(sum(owner LIKE '{BATCH}%'), 0) FROM reservations"
        )
        return _Held(*self._db.execute(every).fetchone())


def _over(budget: Budget, calls: int, nano: int) -> str | None:
    """Which cap so many calls at so much would exceed, and what to do about it."""
    if budget.max_calls is not None and calls > budget.max_calls:
        return f"{budget.where}.max_calls={budget.max_calls} is reached; raise it to go on"
    if budget.max_nano is not None and nano > budget.max_nano:
        return f"{budget.where}.max_usd={budget.max_usd:g} is reached; raise it to go on"
    return None

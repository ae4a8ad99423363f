"""The ledger's file: its tables, and commits that many threads share.

A commit waits for the disk, some milliseconds. Threads that want one at the same time get it
together: whoever holds the lock carries out what all others have queued, in one transaction.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from stllava.errors import RunError, StllavaError
from stllava.generation.protocol import InFlight

T = TypeVar("T")

SCHEMA = 2  # 1 had no batches
BUSY_S = 60.0  # how long another process may hold the file

_TABLES = """
CREATE TABLE IF NOT EXISTS calls (
    key TEXT NOT NULL,             -- sha256 of `request`
    ask INTEGER NOT NULL,          -- 0, and 1, 2, ... where the same was asked again by choice
    status TEXT NOT NULL CHECK (status IN ('ok', 'refused', 'filtered', 'unparsed', 'failed')),
    request_id TEXT NOT NULL,
    request TEXT NOT NULL,
    reply TEXT NOT NULL,
    usage TEXT,                    -- JSON, tokens as the provider counted them
    nano_usd INTEGER,              -- NULL where the price is unknown
    model_returned TEXT,
    created REAL NOT NULL,         -- Unix seconds
    PRIMARY KEY (key, ask)
) STRICT;
CREATE INDEX IF NOT EXISTS calls_request_id ON calls (request_id);
CREATE TABLE IF NOT EXISTS reservations (
    key TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    nano_usd INTEGER NOT NULL,     -- what is set aside
    estimate INTEGER NOT NULL,     -- of the same, before it was raised by `underestimated`
    image_tokens INTEGER NOT NULL,
    expires REAL NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS purse (
    one INTEGER PRIMARY KEY CHECK (one = 1),
    calls INTEGER NOT NULL DEFAULT 0,
    nano_usd INTEGER NOT NULL DEFAULT 0,
    lost_calls INTEGER NOT NULL DEFAULT 0,
    lost_nano_usd INTEGER NOT NULL DEFAULT 0,
    underestimated REAL NOT NULL DEFAULT 1  -- the most by which a cost exceeded its estimate
) STRICT;
CREATE TABLE IF NOT EXISTS batches (
    name TEXT PRIMARY KEY,
    host TEXT NOT NULL,
    owner TEXT NOT NULL,           -- the process that hands it in; see the module `owner`
    file_id TEXT,                  -- the provider's, of what was handed in
    batch_id TEXT,                 -- the provider's; from then on any process may collect it
    calls INTEGER NOT NULL DEFAULT 0,
    settled INTEGER NOT NULL DEFAULT 0,
    created REAL NOT NULL,         -- Unix seconds
    closed REAL                    -- all that came is among the calls
) STRICT;
CREATE TABLE IF NOT EXISTS batch_calls (  -- of batches that are not closed
    key TEXT PRIMARY KEY,
    batch TEXT NOT NULL,
    request_id TEXT NOT NULL,
    request TEXT NOT NULL
) STRICT;
INSERT OR IGNORE INTO purse (one) VALUES (1);
"""


class _Work:
    """One caller's part of a transaction."""

    def __init__(self, do: Callable[[], Any]) -> None:
        self.do = do
        self.done = False
        self.result: Any = None
        self.error: BaseException | None = None


class Database:
    """One SQLite file: WAL, synchronous FULL. Statements need `lock`, or run inside `commit`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lock = threading.Lock()
        self._queue: deque[_Work] = deque()
        try:
            self.connection = _open(path)
        except (OSError, sqlite3.Error) as error:
            raise _cannot(path, error) from error

    def close(self) -> None:
        with self.lock:
            self.connection.close()

    def read(self, do: Callable[[], T]) -> T:
        """The result of `do`, which writes nothing."""
        with self.lock:
            try:
                return do()
            except sqlite3.Error as error:
                raise _cannot(self.path, error) from error

    def commit(self, do: Callable[[], T]) -> T:
        """The result of `do`, whose writes are on disk when this returns.

        What it raises of StllavaError and InFlight is raised here; what it wrote before is kept.
        """
        work = _Work(do)
        self._queue.append(work)
        with self.lock:
            if not work.done:
                self._carry_out()
        if work.error is not None:
            raise work.error
        result: T = work.result
        return result

    def _carry_out(self) -> None:
        """Everything that is queued, in one transaction; all of it or nothing."""
        batch = [self._queue.popleft() for _ in range(len(self._queue))]
        try:
            self.connection.execute("BEGIN IMMEDIATE")
            for work in batch:
                try:
                    work.result = work.do()
                except (StllavaError, InFlight) as error:
                    work.error = error
            self.connection.execute("COMMIT")
        except sqlite3.Error as error:
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            for work in batch:
                work.error = _cannot(self.path, error)
        except BaseException as error:
            for work in batch:  # nobody may take what is rolled back for done
                work.error = _cannot(self.path, error)
            with suppress(sqlite3.Error):
                self.connection.execute("ROLLBACK")
            raise
        finally:
            for work in batch:
                work.done = True


def _open(path: Path) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    connection = sqlite3.connect(
        path, timeout=BUSY_S, isolation_level=None, check_same_thread=False
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema > SCHEMA:
            raise RunError(f"{path}: a ledger of schema {schema}, this version writes {SCHEMA}")
        if schema < SCHEMA:  # two processes may come here at once; every statement is repeatable
            connection.executescript(
                f"BEGIN IMMEDIATE; {_TABLES} PRAGMA user_version = {SCHEMA}; COMMIT;"
            )
    except BaseException:
        connection.close()
        raise
    return connection


def _cannot(path: Path, error: BaseException) -> RunError:
    return RunError(
        f"{path}: the ledger of calls cannot be used ({error}); it must lie on a local disk with "
        "free space, or be another file (`ledger` in its section of the recipe)"
    )

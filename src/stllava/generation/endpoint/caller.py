"""One call with all its tries: paid for before it is sent, paced, told from an outage."""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable
from threading import Event, Lock
from typing import Any, NamedTuple

from stllava.generation.asked import Asked
from stllava.generation.endpoint.access import Access
from stllava.generation.endpoint.pace import Pace, wait_s
from stllava.generation.endpoint.transport import Failure, Transport
from stllava.generation.protocol import CallBook, InFlight, StoredCall
from stllava.generation.wire import Reply

log = logging.getLogger(__name__)

LOOK_AGAIN_S = 0.05  # while somebody else asks the same
SAY_SO_S = 5.0  # after so long of that
IN_A_ROW = 4  # calls that find nobody, or are not taken: then it is no longer about one call
REJECTED = "rejected"  # begins what is kept of a call that was not taken


class Limits(NamedTuple):
    """Of one call."""

    timeout_s: float  # of one try
    call_limit_s: float  # of all its tries and waits
    max_tries: int


class Caller:
    """Calls to one endpoint, kept in `book`; safe to use from several threads.

    `sleep` and `now` (Unix seconds, for Retry-After dates) are for tests.
    """

    def __init__(
        self,
        access: Access,
        book: CallBook,
        pace: Pace,
        limits: Limits,
        *,
        sleep: Callable[[float], object] | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._access, self._book, self._pace, self._limits = access, book, pace, limits
        self._sleep, self._now = sleep, now
        self._lock = Lock()
        self._num_away = self._num_rejected = 0  # calls in a row
        self._has_replied = False

    def obtain(
        self, transport: Transport, asked: Asked, body: dict[str, Any], stop: Event
    ) -> StoredCall | None:
        """Ask until there is a reply; None where `stop` is set, for the reader has gone.

        Raises JudgeError for what every further call would meet too.
        """
        chance, limits = random.Random(asked.seed), self._limits
        started, failure = time.monotonic(), Failure("not sent")
        left_s = limits.call_limit_s
        for attempt in range(1, limits.max_tries + 1):
            outcome = self._try(transport, asked, body, min(limits.timeout_s, left_s), stop)
            if outcome is None:
                return None
            if not isinstance(outcome, Failure):
                self._num_away = self._num_rejected = 0
                self._has_replied = True
                return outcome
            failure = outcome
            if failure.rejected is not None:
                return self._rejected(asked, failure)
            said = f"{self._access.model} at {self._access.host}: {failure.reason}"
            log.warning(
                "%s; try %d of %d for %s", said, attempt, limits.max_tries, asked.request.id
            )
            wait = wait_s(attempt, failure.retry_after_s, chance)
            left_s = limits.call_limit_s - (time.monotonic() - started) - wait
            if attempt == limits.max_tries or left_s <= 0:
                break
            (self._sleep or stop.wait)(wait)  # a stop ends the waits of calls in flight
            if stop.is_set():
                return None
        lost = StoredCall("failed", asked.request.id, asked.record, failure.reason)
        settled = self._book.settle(asked.key, lost)
        if failure.is_away and self._note_away() >= IN_A_ROW:
            raise self._access.away(IN_A_ROW)
        return settled

    def _rejected(self, asked: Asked, failure: Failure) -> StoredCall:
        """One request that is not taken costs one item; where none is, the settings are wrong."""
        assert failure.rejected is not None
        access = self._access
        taken = self._has_replied or self._book.has_replied(access.host, access.model)
        with self._lock:
            self._num_rejected += 1
            several = self._num_rejected >= IN_A_ROW
        doubts = (not taken) + (not failure.is_too_long)  # that it is about this request alone
        if doubts == 2 or (doubts and several):
            raise failure.rejected
        log.warning("%s: %s", asked.request.id, failure.rejected)
        reply = f"{REJECTED}: {failure.rejected}"
        return self._book.settle(
            asked.key, StoredCall("failed", asked.request.id, asked.record, reply)
        )

    def _note_away(self) -> int:
        """How many calls in a row, of all threads, found nobody; one more than before."""
        with self._lock:
            self._num_away += 1
            return self._num_away

    def _try(
        self,
        transport: Transport,
        asked: Asked,
        body: dict[str, Any],
        timeout_s: float,
        stop: Event,
    ) -> StoredCall | Failure | None:
        """One try, paid for: reserved before it is sent, then settled or given back."""
        say_so = time.monotonic() + SAY_SO_S
        while True:
            if stop.is_set():
                return None
            try:
                stored = self._book.reserve(asked.key, asked.estimate)
                break
            except InFlight as other:
                if time.monotonic() > say_so:
                    log.warning("%s: waiting for %s", asked.request.id, other)
                    say_so = math.inf
                stop.wait(LOOK_AGAIN_S)
        if stored is not None:
            return stored
        try:
            with self._pace.slot() as slot:
                if stop.is_set():
                    self._book.release(asked.key)
                    return None
                outcome = transport.call(asked.request, body, timeout_s, self._now())
                slot.outcome = None if isinstance(outcome, Failure) else True
                if isinstance(outcome, Failure) and outcome.is_busy:
                    slot.outcome = False
        except BaseException:  # what stops everything was not charged; nothing is swallowed
            self._book.release(asked.key)
            raise
        if isinstance(outcome, Failure):
            self._book.release(asked.key, maybe_paid=outcome.maybe_paid)
            return outcome
        return self._book.settle(asked.key, _to_keep(asked, outcome))


def _to_keep(asked: Asked, reply: Reply) -> StoredCall:
    name = asked.request.id
    return StoredCall(reply.status, name, asked.record, reply.raw, reply.usage, reply.model)

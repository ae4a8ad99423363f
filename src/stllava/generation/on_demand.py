"""A generator that is made for its first request: what nobody asks is not loaded or started."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from itertools import chain

from stllava.generation.protocol import Generator, Sampling
from stllava.records import Draw, Request


class OnDemand:
    """The Generator that `make` returns, made once, let go of by `close`."""

    def __init__(self, name: str, make: Callable[[], Generator]) -> None:
        self.name = name
        self._make = make
        self._made: Generator | None = None

    def made(self) -> Generator:
        """The generator itself."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """As the protocol says; without a request nothing is made."""
        ahead = iter(requests)
        first = next(ahead, None)
        if first is not None:
            yield from self.made().generate(chain([first], ahead), sampling)

    def close(self) -> None:
        """Nothing of it stays in memory on this account."""
        self._made = None

"""A Generator whose words are given: the public fake for tests, demos and dry runs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from stllava.generation.protocol import Sampling, draw_seed
from stllava.records import Draw, Request

Replies = Callable[[Request, int], str] | Mapping[str, Sequence[str]]


class ScriptedGenerator:
    """Says `replies(request, index)`, or `replies[request.id][index]`; `asked` records requests."""

    def __init__(
        self,
        replies: Replies,
        *,
        name: str = "scripted",
        finish: Literal["stop", "length", "refused", "error"] = "stop",
    ) -> None:
        self.name = name
        self.asked: list[Request] = []
        self._replies = replies
        self._finish = finish

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """Draws in request order; a request that the script does not know is a KeyError."""
        for request in requests:
            self.asked.append(request)
            for index in range(request.num_draws):
                yield Draw(
                    request_id=request.id,
                    index=index,
                    text=self._say(request, index),
                    finish=self._finish,
                    seed=draw_seed(sampling.seed, request.id, index),
                )

    def _say(self, request: Request, index: int) -> str:
        if callable(self._replies):
            return self._replies(request, index)
        return self._replies[request.id][index]

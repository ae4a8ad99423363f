"""Any endpoint of a recipe that is paid from a ledger: its calls, their estimate, who agrees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from collections.abc import Generator as Generating
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from stllava.config import PaidSection
from stllava.errors import JudgeError
from stllava.generation.asked import Asker, Pictures
from stllava.generation.options import Options
from stllava.generation.protocol import BudgetStopped, CallBook, Generator, Sampling
from stllava.generation.wire import is_local
from stllava.judging.calls.budget import Plan, budget, called, caps
from stllava.judging.calls.estimate import CountingGenerator
from stllava.records import Draw, Request

if TYPE_CHECKING:
    from stllava.generation.endpoint import EndpointGenerator

Agree = Callable[[str], bool] | None  # asked before money is spent; None: nobody is there


class Shown(NamedTuple):
    """What is sent for an image id; see `generation.asked.Pictures`."""

    path: Callable[[str], Path] = Path
    uri: Callable[[str], str] | None = None
    pixels: Callable[[str], str] | None = None


def endpoint(
    section: PaidSection,
    shown: Shown,
    calls: CallBook,
    *,
    where: str = "judge",
    rubric: str = "",
    options: Options | None = None,
) -> EndpointGenerator:
    """The endpoint of a section, `where` in the recipe. `rubric`: name and version."""
    from stllava.generation.endpoint import EndpointGenerator  # its client loads slowly

    return EndpointGenerator(
        section.base_url,
        section.model,
        api_key_env=section.api_key_env,
        key_file=Path(section.key_file) if section.key_file else None,
        image_path=shown.path,
        image_uri=shown.uri,
        image_pixels=shown.pixels,
        section=where,
        timeout_s=section.timeout_s,
        call_limit_s=section.call_limit_s,
        max_tries=section.max_tries,
        concurrency=section.concurrency,
        calls=calls,
        options=options,
        rubric=rubric,
        tokens_per_image=section.image_tokens,
    )


def asker(section: PaidSection, shown: Shown, rubric: str = "") -> Asker:
    """What the same endpoint would be asked."""
    tokens = section.image_tokens
    pictures = Pictures(*shown)
    return Asker(section.base_url, section.model, pictures, rubric=rubric, tokens_per_image=tokens)


def counting(
    section: PaidSection,
    shown: Shown,
    calls: CallBook | None,
    *,
    where: str = "judge",
    rubric: str = "",
    repair: str | None = None,
) -> CountingGenerator:
    """The same endpoint, of which nothing is asked."""
    asked = asker(section, shown, rubric)
    return CountingGenerator(asked, calls, budget(section, where), repair=repair)


class UpToTheCap:
    """A Generator that ends with one line where the cap forbids a call.

    For readers to whom a call that was not sent must not look like a poor answer. `close` waits
    for the calls in flight, so that what they cost is kept.
    """

    def __init__(self, inner: Generator, section: PaidSection, where: str = "judge") -> None:
        self.name = inner.name
        self._inner = inner
        self._section, self._where = section, where
        self._open: set[Iterator[Draw]] = set()

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """Raises BudgetStopped."""
        draws = self._inner.generate(requests, sampling)
        self._open.add(draws)
        try:
            for draw in draws:
                if draw.reason == "budget":
                    raise BudgetStopped(
                        f"{called(self._section, self._where)}: the budget is used up; raise "
                        f"{caps(self._section, self._where)} and repeat the command"
                    )
                yield draw
        finally:
            _close(draws)
            self._open.discard(draws)

    def close(self) -> None:
        for draws in list(self._open):
            _close(draws)


def _close(draws: Iterator[Draw]) -> None:
    if isinstance(draws, Generating):
        draws.close()


def agree_to_pay(
    agree: Agree,
    section: PaidSection,
    count_calls: Callable[[], Plan],
    *,
    where: str = "judge",
    otherwise: str = ", or look first with --dry-run",
) -> None:
    """Nothing is sent to a remote host that nobody agreed to pay for. Raises JudgeError."""
    if is_local(section.base_url) or (plan := count_calls()).calls == 0:
        return
    who = called(section, where)
    said = f"{who}: " + "; ".join(plan.lines(where))
    if agree is None:
        raise JudgeError(f"{said}; add --yes to agree{otherwise}")
    if not agree(said):
        raise JudgeError(f"{who}: not agreed to; nothing was sent")

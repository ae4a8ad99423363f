"""What calls cost: prices, what a call may cost before it is sent, what it did cost after.

Money is counted in whole nano-dollars, rounded up: sums are exact, and a cap is a cap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stllava.config import PaidSection
from stllava.errors import JudgeError
from stllava.generation.protocol import Estimate
from stllava.generation.wire import is_local
from stllava.records import Usage

NANO = 1_000_000_000


class Prices(NamedTuple):
    """Dollars per million tokens; what is None costs as much as input."""

    input: float
    output: float
    cached_input: float | None = None
    image: float | None = None  # where a provider charges the tokens of an image differently


FREE = Prices(0.0, 0.0)


class Budget(NamedTuple):
    """What may be spent from one ledger, over all runs and processes that share it."""

    prices: Prices | None = None  # None: unknown
    max_usd: float | None = None
    max_calls: int | None = None
    where: str = "judge"  # the part of the recipe that says so

    @property
    def max_nano(self) -> int | None:
        return None if self.max_usd is None else math.floor(self.max_usd * NANO)

    def at(self, share: float) -> Budget:
        """The same caps where calls cost so much of the usual price."""
        if self.prices is None:
            return self
        given = {name: price for name, price in self.prices._asdict().items() if price is not None}
        return self._replace(prices=Prices(**{name: share * x for name, x in given.items()}))

    def at_most_nano(self, estimate: Estimate) -> int:
        """What a call may cost; 0 where the price is unknown."""
        if self.prices is None:
            return 0
        price = self.prices
        image = price.input if price.image is None else price.image
        return _nano(
            (estimate.text_tokens, price.input),
            (estimate.image_tokens, image),
            (estimate.output_tokens, price.output),
        )

    def cost_nano(self, usage: Usage | None, image_tokens: int = 0) -> int | None:
        """What a call did cost by the provider's count; None where price or count is unknown."""
        if self.prices is None or usage is None:
            return None
        price = self.prices
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        fresh = usage.prompt_tokens - cached
        images = min(image_tokens, fresh) if price.image is not None else 0
        return _nano(
            (fresh - images, price.input),
            (images, price.image or 0.0),
            (cached, price.input if price.cached_input is None else price.cached_input),
            (usage.completion_tokens, price.output),
        )


def budget(section: PaidSection, where: str = "judge") -> Budget:
    """The budget of a section, `where` in the recipe. JudgeError where a cap could not be held."""
    prices = None if section.prices is None else Prices(**section.prices.model_dump())
    if prices is None and is_local(section.base_url):
        prices = FREE
    if prices is None and section.max_usd is not None:
        raise JudgeError(
            f"{called(section, where)}: {where}.max_usd cannot be held without a price; add "
            f"--set {where}.prices='{{input: ..., output: ...}}' (dollars per million tokens), "
            f"or cap calls with {where}.max_calls"
        )
    return Budget(prices, section.max_usd, section.max_calls, where)


def called(section: PaidSection, where: str = "judge") -> str:
    """Who is paid, in words: "judge gpt-4o", "model gpt-4o (eval.endpoints.far)"."""
    return f"judge {section.model}" if where == "judge" else f"model {section.model} ({where})"


def caps(section: PaidSection, where: str = "judge") -> str:
    """The caps that a recipe sets, in words."""
    named = [name for name in ("max_usd", "max_calls") if getattr(section, name) is not None]
    return " or ".join(f"{where}.{name}" for name in named)


class Totals(NamedTuple):
    """What a ledger has paid, and what it has set aside."""

    calls: int = 0  # settled and written off
    spent_usd: float = 0.0  # of which `lost_usd` were written off
    lost_calls: int = 0  # tries without a reply that the provider may have charged
    lost_usd: float = 0.0
    reserved_calls: int = 0
    reserved_usd: float = 0.0


class Plan(NamedTuple):
    """What a stage would send, before it sends anything."""

    stored: int = 0  # calls whose reply is in the ledger already
    calls: int = 0
    text_tokens: int = 0
    image_tokens: int = 0
    output_tokens: int = 0
    usd: float | None = 0.0  # None: price unknown
    repairs: int = 0  # further calls, if none of the replies can be read; in no figure above
    repairs_usd: float = 0.0  # 0 where the price is unknown
    share: float = 1.0  # of the usual price, in batches; `usd` is what is paid then

    def in_batches(self, share: float) -> Plan:
        """The same calls at so much of the usual price; repairs are asked one by one."""
        return self._replace(share=share, usd=None if self.usd is None else share * self.usd)

    def plus(self, other: Plan) -> Plan:
        """Both together."""
        return Plan(
            stored=self.stored + other.stored,
            calls=self.calls + other.calls,
            text_tokens=self.text_tokens + other.text_tokens,
            image_tokens=self.image_tokens + other.image_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=None if self.usd is None or other.usd is None else self.usd + other.usd,
            repairs=self.repairs + other.repairs,
            repairs_usd=self.repairs_usd + other.repairs_usd,
            share=self.share,
        )

    def lines(self, where: str = "judge") -> Sequence[str]:
        """The plan in words; `where` its section is in the recipe."""
        unknown = f"price unknown ({where}.prices)"
        money = unknown if self.usd is None else f"at most {_dollars(self.usd)}"
        if self.share < 1:
            money += f" in batches, at {self.share:g} of the price"
        more = "price unknown" if self.usd is None else _dollars(self.repairs_usd)
        repairs = f"and at most {self.repairs} repairs, {more}, if replies cannot be read"
        return (
            f"{self.calls} calls to send, {self.stored} in the ledger already",
            f"at most {self.text_tokens + self.image_tokens} tokens in "
            f"({self.image_tokens} of images) and {self.output_tokens} out",
            money,
            *([f"{repairs} (counted in no figure above)"] if self.repairs else []),
        )


def _dollars(usd: float) -> str:
    """Up to the next cent: what is said is a bound."""
    return f"${math.ceil(round(usd * 100, 6)) / 100:.2f}"


def _nano(*parts: tuple[int, float]) -> int:
    """Tokens times dollars per million of them; rounded first, for a price is a decimal number."""
    return math.ceil(round(sum(tokens * price for tokens, price in parts) * 1000, 6))

"""What calls cost: prices, what a call may cost before it is sent, what it did cost after.

Money is counted in whole nano-dollars, rounded up: sums are exact, and a cap is a cap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from stllava.config import JudgeSection
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

    @property
    def max_nano(self) -> int | None:
        return None if self.max_usd is None else math.floor(self.max_usd * NANO)

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


def budget(section: JudgeSection) -> Budget:
    """The budget of a recipe's judge. Raises JudgeError where a cap could not be held."""
    prices = None if section.prices is None else Prices(**section.prices.model_dump())
    if prices is None and is_local(section.base_url):
        prices = FREE
    if prices is None and section.max_usd is not None:
        raise JudgeError(
            f"judge {section.model}: judge.max_usd cannot be held without a price; add "
            "--set judge.prices='{input: ..., output: ...}' (dollars per million tokens), "
            "or cap calls with judge.max_calls"
        )
    return Budget(prices, section.max_usd, section.max_calls)


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

    def plus(self, other: Plan) -> Plan:
        """Both together."""
        return Plan(
            stored=self.stored + other.stored,
            calls=self.calls + other.calls,
            text_tokens=self.text_tokens + other.text_tokens,
            image_tokens=self.image_tokens + other.image_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            usd=None if self.usd is None or other.usd is None else self.usd + other.usd,
        )

    def lines(self) -> Sequence[str]:
        """The plan in words."""
        money = "price unknown (judge.prices)" if self.usd is None else f"at most ${self.usd:.2f}"
        return (
            f"{self.calls} calls to send, {self.stored} in the ledger already",
            f"at most {self.text_tokens + self.image_tokens} tokens in "
            f"({self.image_tokens} of images) and {self.output_tokens} out",
            money,
        )


def _nano(*parts: tuple[int, float]) -> int:
    """Tokens times dollars per million of them; rounded first, for a price is a decimal number."""
    return math.ceil(round(sum(tokens * price for tokens, price in parts) * 1000, 6))

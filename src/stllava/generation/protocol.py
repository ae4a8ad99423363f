"""The one seam for everything that makes text: policy, endpoint, scripted fake."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Literal, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

from stllava.errors import StllavaError
from stllava.records import Draw, Request, Usage


class Sampling(BaseModel):
    """How tokens are drawn; temperature 0 is greedy, and then top_k and top_p have no effect."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    temperature: float = Field(default=0.0, ge=0.0)
    top_k: int | None = Field(default=None, ge=1)
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    seed: int = 0  # of the run; a draw's own seed is `draw_seed`

    @property
    def greedy(self) -> bool:
        return self.temperature == 0


class Generator(Protocol):
    """Answers requests. Draws come in request order, then index order, one per asked draw.

    `requests` is read lazily. A draw that a provider refused has finish "refused": `text` holds
    the model's own words of refusal and is empty where a content filter stopped it. A draw that
    could not be had has finish "error", text "" and a `reason`: "transport", "budget", or
    "rejected" where the provider takes others but not this one, as too long.
    """

    @property
    def name(self) -> str: ...

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]: ...


def draw_seed(run_seed: int, request_id: str, index: int) -> int:
    """A seed in 0..2**63-1 that depends on nothing but its arguments, on any machine."""
    identity = f"{run_seed}\0{request_id}\0{index}".encode()
    return int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") >> 1


CallStatus = Literal["ok", "refused", "filtered", "unparsed", "failed"]


class Estimate(NamedTuple):
    """Upper bounds of the tokens of a call that is still to be sent."""

    text_tokens: int
    image_tokens: int
    output_tokens: int


class StoredCall(NamedTuple):
    """One call as it is kept: what was asked, what came back, what it cost."""

    status: CallStatus
    request_id: str  # who asked first
    request: str  # JSON, hashes in the place of images; the key is its sha256
    reply: str  # the body as it came; our reason where status is "failed"
    usage: Usage | None = None
    model: str | None = None  # as the provider returned it
    cost_usd: float | None = None  # None: price unknown
    created: float = 0.0  # Unix seconds


class BudgetStopped(StllavaError):
    """The next call could cost more than what is left; nothing was sent."""


class InFlight(Exception):
    """Somebody is asking the same, or holds what is left of the budget; look again soon."""


class CallBook(Protocol):
    """Where calls are kept and paid from; safe to use from several threads.

    A try is `reserve`, then the call, then `settle` or `release`.
    """

    def fetch(self, key: str) -> StoredCall | None:
        """The stored call, if it stands."""

    def reserve(self, key: str, estimate: Estimate) -> StoredCall | None:
        """Set money aside before anything is sent; the stored call if there is one by now.

        Raises BudgetStopped or InFlight.
        """

    def settle(self, key: str, call: StoredCall) -> StoredCall:
        """Keep a call and give back what was set aside beyond its cost; with cost and time."""

    def has_replied(self, host: str, model: str) -> bool:
        """Whether a reply of this model at this host is kept: it takes what it is sent."""

    def release(self, key: str, *, maybe_paid: bool = False) -> None:
        """Give back what was set aside, or write it off where the provider may have charged it."""

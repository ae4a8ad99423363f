"""The one seam for everything that makes text: policy, endpoint, scripted fake."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from typing import Protocol

from pydantic import BaseModel, ConfigDict, Field

from stllava.records import Draw, Request


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
    could not be had has finish "error" and text "".
    """

    @property
    def name(self) -> str: ...

    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]: ...


def draw_seed(run_seed: int, request_id: str, index: int) -> int:
    """A seed in 0..2**63-1 that depends on nothing but its arguments, on any machine."""
    identity = f"{run_seed}\0{request_id}\0{index}".encode()
    return int.from_bytes(hashlib.sha256(identity).digest()[:8], "big") >> 1

"""What one call asks: its body, the key it is kept under, and the most tokens it can cost.

Equal keys are the same question to the same model: provider host, model, messages with hashes in
the place of images, parameters, rubric and sample number. Keys of access, timeouts and concurrency
are no part of it; nor is the seed of a greedy call.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from stllava.errors import JudgeError
from stllava.generation.options import wanted
from stllava.generation.protocol import Estimate, Sampling, draw_seed
from stllava.generation.wire import image_tokens, messages, text_tokens
from stllava.images import data_uri, open_image, pixels_sha256
from stllava.records import Request

OPENAI_URL = "https://api.openai.com/v1"
MAX_SIDE = 1024  # pixels of the longer side of what is sent; part of an image's hash here


def host_of(base_url: str | None) -> str:
    """Host and port, as keys and the ledger name a provider."""
    url = base_url or OPENAI_URL
    return urlsplit(url).netloc.rpartition("@")[2] or url


class Pictures:
    """Images as they are sent, and their hashes. A few are kept: calls about one come together.

    `path` turns an image id into its file. `uri`, in its stead, into what is sent ("": no image).
    `pixels` knows hashes of pixels without opening a file, or says "".
    """

    def __init__(
        self,
        path: Callable[[str], Path] = Path,
        uri: Callable[[str], str] | None = None,
        pixels: Callable[[str], str] | None = None,
    ) -> None:
        self.uri = lru_cache(maxsize=32)(uri or (lambda name: data_uri(path(name), MAX_SIDE)))
        self.label = lru_cache(maxsize=1024)(self._label)
        self._path, self._pixels = path, pixels
        self._is_given = uri is not None

    def _label(self, name: str) -> str:
        """Stands for the image in a key; "" where none is sent."""
        if (known := self._pixels(name) if self._pixels else "") == "":
            if self._is_given:
                uri = self.uri(name)
                return f"sha256:{hashlib.sha256(uri.encode()).hexdigest()}" if uri else ""
            known = pixels_sha256(open_image(self._path(name)))
        return f"pixels-sha256:{known}@{MAX_SIDE}"


class Asked(NamedTuple):
    """One call, before anything is sent."""

    request: Request
    sample: int  # the draw's index
    seed: int
    key: str
    record: str  # JSON whose sha256 is the key
    estimate: Estimate


class Asker:
    """Turns requests into calls to one model at one host."""

    def __init__(
        self,
        base_url: str | None,
        model: str,
        pictures: Pictures,
        *,
        rubric: str = "",
        tokens_per_image: int | None = None,
    ) -> None:
        self.url = base_url or OPENAI_URL
        self.host = host_of(base_url)
        self.model = model
        self._pictures = pictures
        self._rubric = rubric
        self._image_tokens = tokens_per_image

    def ask(self, request: Request, index: int, sampling: Sampling) -> Asked:
        """What the call is kept under. Opens the image only where its hash is not known."""
        if request.speaker != "assistant":
            raise JudgeError(f"{self.model}: an endpoint cannot be the asker; use a local policy")
        label = self._pictures.label(request.image)
        said = messages(request, label)
        identity = {
            "host": self.host,
            "model": self.model,
            "messages": said,
            "parameters": {**_parameters(request, sampling), **wanted(request)},
            "rubric": self._rubric,
            "seed": None if sampling.greedy else sampling.seed,
            "sample": index,
        }
        record = json.dumps(identity, sort_keys=True, separators=(",", ":"))
        one = image_tokens(MAX_SIDE) if self._image_tokens is None else self._image_tokens
        return Asked(
            request,
            index,
            draw_seed(sampling.seed, request.id, index),
            hashlib.sha256(record.encode()).hexdigest(),
            record,
            Estimate(text_tokens(said), one if label else 0, request.max_tokens),
        )

    def body(self, asked: Asked, sampling: Sampling) -> dict[str, Any]:
        """The call's arguments, image and all; `options` adds what the request asks for beyond."""
        uri = self._pictures.uri(asked.request.image)
        return {
            "model": self.model,
            "messages": messages(asked.request, uri),
            **_parameters(asked.request, sampling),
            "seed": asked.seed,
        }


def _parameters(request: Request, sampling: Sampling) -> dict[str, Any]:
    """A parameter without effect is not sent, for servers refuse some."""
    said: dict[str, Any] = {
        "max_tokens": request.max_tokens,
        "temperature": sampling.temperature,
    }
    if not sampling.greedy and sampling.top_p < 1:
        said["top_p"] = sampling.top_p
    if not sampling.greedy and sampling.top_k is not None:
        said["extra_body"] = {"top_k": sampling.top_k}  # not OpenAI's; vLLM and others know it
    return said


def one_by_one(requests: Iterable[Request]) -> Iterator[tuple[Request, int]]:
    """Each draw that is asked for: its request and its index."""
    for request in requests:
        for index in range(request.num_draws):
            yield request, index

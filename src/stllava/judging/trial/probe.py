"""What an endpoint can do, by what its replies show: some servers accept options and ignore them.

Some twenty short calls about drawn shapes. Nothing is kept: the answer holds for this process.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from stllava.errors import JudgeError
from stllava.generation.options import JSON_OBJECT
from stllava.generation.protocol import Generator, Sampling
from stllava.judging.trial.shapes import shape_ids
from stllava.prompts import PROBES, RESPONSES
from stllava.records import Draw, Request, Turn

NUM_PICTURES = 3
PICTURE = shape_ids(1)[0]
MAX_TOKENS = 120
REPEATS = 3
FEW_TOKENS = 8
EVERYTHING = ("json_schema", "json_object", "logprobs", "temperature", "seed", "max_tokens")
OF_A_POLICY = ("logprobs", "max_tokens")  # in this process: there is no server to refuse options
LOUD = 1.5  # a temperature at which a made-up name differs between draws


class Finding(NamedTuple):
    """One capability: whether a reply showed it, and what was seen."""

    name: str
    shown: bool
    seen: str


class Capabilities(NamedTuple):
    """All findings, by name, and the options that the endpoint refused while it was asked."""

    findings: Mapping[str, Finding]
    refused: frozenset[str]
    models: frozenset[str] = frozenset()  # as the replies name them

    def can(self, name: str) -> bool:
        return name in self.findings and self.findings[name].shown


class _Probe:
    """Asks one generator. A seed follows from a request's id, which the salt is a part of.

    `refused` tells which options the endpoint has refused so far.
    """

    def __init__(self, generator: Generator, refused: Callable[[], frozenset[str]]) -> None:
        self._generator = generator
        self.refused = refused
        self.models: set[str] = set()

    def ask(self, name: str, **fields: Any) -> Draw:
        """Greedy, about the first picture."""
        (draw,) = self.ask_all([_request(name, **fields)], Sampling())
        return draw

    def ask_all(self, requests: Sequence[Request], sampling: Sampling) -> list[Draw]:
        draws = list(self._generator.generate(requests, sampling))
        if any(draw.reason == "transport" for draw in draws):
            raise JudgeError(f"judge {self._generator.name}: no reply; is its server up?")
        self.models |= {draw.model for draw in draws if draw.model}
        return draws

    def names(self, temperature: float, salts: Iterable[int]) -> set[str]:
        """The different names that are made up; equal salts have equal seeds."""
        requests = [_request("sampling", salt=salt) for salt in salts]
        sampling = Sampling(temperature=temperature)
        return {draw.text.strip() for draw in self.ask_all(requests, sampling)}


def _request(name: str, image: str = PICTURE, *, salt: int = 0, **fields: Any) -> Request:
    return Request(
        id=f"probe/{name}/{image}/{salt}",
        image=image,
        turns=(Turn(question=PROBES[name]),),
        **{"max_tokens": MAX_TOKENS, **fields},
    )


def probe(
    generator: Generator,
    *,
    refused: Callable[[], frozenset[str]] = frozenset,
    names: Container[str] = EVERYTHING,
) -> Capabilities:
    """Try what a rubric may use. The generator's images are those of `judging.trial.shapes`.

    `refused` tells which options the endpoint has refused; `names`, which capabilities are tried
    beside `image`. Raises JudgeError where not even a picture and a question get through.
    """
    asker = _Probe(generator, refused)
    findings = [_image(asker)]  # an endpoint that takes no image, or no key, says so here
    for name, test in _TESTS.items():
        if name not in names:
            continue
        try:
            findings.append(test(asker))
        except JudgeError as error:
            findings.append(Finding(name, False, str(error)))
    found = {finding.name: finding for finding in findings}
    return Capabilities(found, refused(), frozenset(asker.models))


def _image(asker: _Probe) -> Finding:
    """Colour and shape of three pictures: one could be guessed."""
    names = shape_ids(NUM_PICTURES)
    draws = asker.ask_all([_request("image", name) for name in names], Sampling())
    right = sum(
        all(word in draw.text.lower() for word in name.split(" "))
        for name, draw in zip(names, draws, strict=True)
    )
    seen = f"{right} of {NUM_PICTURES} pictures named; said {_short(draws[-1].text)}"
    return Finding("image", right == NUM_PICTURES, seen)


def _json_schema(asker: _Probe) -> Finding:
    """A schema with odd fields, under a question that says nothing of JSON."""
    draw = asker.ask("json_schema", response="probe")
    if {"json_schema", "response_format"} & asker.refused():
        return Finding("json_schema", False, "refused")
    value = _json(draw.text)
    wanted = set(RESPONSES["probe"]["required"])
    shown = isinstance(value, dict) and set(value) == wanted
    return Finding("json_schema", shown, f"said {_short(draw.text)}")


def _json_object(asker: _Probe) -> Finding:
    """Nothing but an object, though a sentence before it was asked for too."""
    draw = asker.ask("json_object", response=JSON_OBJECT)
    if "response_format" in asker.refused():
        return Finding("json_object", False, "refused")
    shown = isinstance(_json(draw.text), dict)
    return Finding("json_object", shown, f"said {_short(draw.text)}")


def _logprobs(asker: _Probe) -> Finding:
    draw = asker.ask("logprobs", top_logprobs=5, max_tokens=FEW_TOKENS)
    told = draw.alternatives or ()
    if "logprobs" in asker.refused():
        return Finding("logprobs", False, "refused")
    most = max((len(token) for token in told), default=0)
    return Finding("logprobs", most > 1, f"{most} alternatives of a token told")


def _temperature(asker: _Probe) -> Finding:
    """At 0 all draws are equal, at a high one not."""
    cold, hot = asker.names(0, range(2)), asker.names(LOUD, range(REPEATS))
    if "temperature" in asker.refused():
        return Finding("temperature", False, "refused")
    shown = len(cold) == 1 and len(hot) > 1
    seen = f"{len(cold)} different replies of 2 at 0, {len(hot)} of {REPEATS} at {LOUD:g}"
    return Finding("temperature", shown, seen)


def _seed(asker: _Probe) -> Finding:
    """The same seed gives the same, others not."""
    same, others = asker.names(LOUD, [10] * REPEATS), asker.names(LOUD, range(20, 20 + REPEATS))
    if "seed" in asker.refused():
        return Finding("seed", False, "refused")
    seen = f"{len(same)} different of {REPEATS} with one seed, {len(others)} with {REPEATS} seeds"
    return Finding("seed", len(same) == 1 and len(others) > 1, seen)


def _max_tokens(asker: _Probe) -> Finding:
    draw = asker.ask("max_tokens", max_tokens=FEW_TOKENS)
    used = draw.usage.completion_tokens if draw.usage else None
    if draw.token_ids is not None:
        used = len(draw.token_ids)
    name = "max_completion_tokens" if "max_tokens" in asker.refused() else "max_tokens"
    shown = draw.finish == "length" and len(draw.text.split()) <= FEW_TOKENS
    return Finding("max_tokens", shown, f"{name}={FEW_TOKENS}: {draw.finish}, {used} tokens used")


_TESTS: dict[str, Callable[[_Probe], Finding]] = {
    "json_schema": _json_schema,
    "json_object": _json_object,
    "logprobs": _logprobs,
    "temperature": _temperature,
    "seed": _seed,
    "max_tokens": _max_tokens,
}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _short(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= 60 else line[:57] + "...")

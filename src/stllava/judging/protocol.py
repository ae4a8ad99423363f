"""The Judge protocol, and the judge that asks a model.

One call per pair and order. The judge that labels pairs should not be the only one that evaluates
the result, and nothing here knows which use its verdicts are put to.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

from stllava.files import utc_now
from stllava.generation.protocol import Generator, Sampling
from stllava.judging.pairing import IDENTICAL, Pair, normalise, unanswerable
from stllava.judging.parse import looks_refused, parse_scores
from stllava.prompts import RUBRICS, Rubric
from stllava.records import Answers, Draw, Request, Turn, Verdict

GREEDY = Sampling()


class Judge(Protocol):
    """Compares pairs of draws. Verdicts come in item order; ids in `done` are not judged again."""

    @property
    def name(self) -> str: ...

    def judge(
        self, items: Iterable[tuple[Answers, Pair]], *, done: Container[str] = ()
    ) -> Iterator[Verdict]: ...


class _Case(NamedTuple):
    """One ordered pair on its way to a verdict."""

    known: dict[str, Any]  # the fields of its Verdict that need no call
    request: Request | None  # None: `known` is the whole verdict


class ModelJudge:
    """A judge that is a Generator, a rubric and a parser.

    `name` identifies the model in verdict ids. `orders="one"` shows the pair's first draw first,
    as the paper does; "both" also swaps them, which is what tells a preference from a habit.
    The default is greedy (the released code sampled at 0.2 without a seed; not in the paper).
    """

    def __init__(
        self,
        generator: Generator,
        *,
        name: str,
        orders: Literal["one", "both"],
        rubric: str = "paper",
        clock: Callable[[], str] = utc_now,
        sampling: Sampling = GREEDY,
        max_tokens: int = 512,
    ) -> None:
        self.name = name
        self._generator = generator
        self._both = orders == "both"
        self._rubric = RUBRICS[rubric]
        self._clock = clock
        self._sampling = sampling
        self._max_tokens = max_tokens

    def judge(
        self, items: Iterable[tuple[Answers, Pair]], *, done: Container[str] = ()
    ) -> Iterator[Verdict]:
        """One verdict per item and order, in that order. Items are read as calls finish."""
        waiting: deque[_Case] = deque()

        def requests() -> Iterator[Request]:
            for case in self._cases(items):
                if case.known["id"] in done:
                    continue
                waiting.append(case)
                if case.request is not None:
                    yield case.request

        for reply in self._generator.generate(requests(), self._sampling):
            yield from self._settled(waiting)
            case = waiting.popleft()
            assert case.request is not None
            assert case.request.id == reply.request_id
            yield self._verdict(case.known, **_outcome(reply, case.known))
        yield from self._settled(waiting)

    def _settled(self, waiting: deque[_Case]) -> Iterator[Verdict]:
        """The verdicts at the head of the queue that need no call."""
        while waiting and waiting[0].request is None:
            yield self._verdict(waiting.popleft().known)

    def _verdict(self, known: dict[str, Any], **outcome: Any) -> Verdict:
        return Verdict(**known, **outcome, time=self._clock())

    def _cases(self, items: Iterable[tuple[Answers, Pair]]) -> Iterator[_Case]:
        for answers, pair in items:
            for order in (pair, pair[::-1]) if self._both else (pair,):
                yield self._case(answers, pair, order)

    def _case(self, answers: Answers, pair: Pair, order: Pair) -> _Case:
        draws = {draw.index: draw for draw in answers.draws}
        first, second = (draws[index] for index in order)
        known: dict[str, Any] = {
            "id": verdict_id(answers, order, judge=self.name, rubric=self._rubric),
            "answers_id": answers.id,
            "pair": pair,
            "order": order,
            "judge": self.name,
        }
        if (reason := unanswerable(first, second)) is not None:
            return _Case({**known, "state": "skipped", "reason": reason}, None)
        if normalise(first.text) == normalise(second.text):
            return _Case({**known, "state": "tie", "reason": IDENTICAL}, None)
        prompt = self._rubric.build(answers.question, first.text, second.text)
        request = Request(
            id=known["id"],
            image=answers.image,
            turns=(Turn(question=prompt),),
            max_tokens=self._max_tokens,
        )
        return _Case(known, request)


def verdict_id(
    answers: Answers,
    order: Pair,
    *,
    judge: str,
    rubric: Rubric,
    view: str = "image",
    sample: int = 0,
) -> str:
    """16 hex digits of the sha256 of what was asked: equal ids are the same call.

    The texts are part of it, because a stage that was redone reuses the readable ids.
    """
    texts = {draw.index: draw.text for draw in answers.draws}
    shown = [[index, texts[index]] for index in order]
    asked = [answers.id, answers.image, answers.question, shown]
    identity = [*asked, view, sample, judge, rubric.name, rubric.version]
    return hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]


def _outcome(reply: Draw, known: dict[str, Any]) -> dict[str, Any]:
    """What a reply adds to its verdict: always a state, and a winner only when there is one."""
    said: dict[str, Any] = {
        "reply": reply.text,
        "usage": reply.usage,
        "model_returned": reply.model,
    }
    if reply.finish == "error":
        return {**said, "state": "transport_failed", "reason": "no reply after all tries"}
    if reply.finish == "refused":
        if not reply.text:
            return {**said, "state": "filtered", "reason": "stopped by a content filter"}
        return {**said, "state": "refused", "reason": "the model refused"}
    parsed = parse_scores(reply.text, cut=reply.finish == "length")
    if parsed.scores is None:
        if looks_refused(reply.text):
            return {**said, "state": "refused", "reason": "the reply reads as a refusal"}
        return {**said, "state": "unparsed", "reason": parsed.reason}
    first, second = parsed.scores
    swapped = known["order"] != known["pair"]
    said["scores"] = (second, first) if swapped else (first, second)
    if first == second:
        return {**said, "state": "tie", "reason": "equal scores"}
    return {**said, "state": "ok", "winner": known["order"][0 if first > second else 1]}

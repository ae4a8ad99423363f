"""The Judge protocol, and the judge that asks a model.

One request per pair and order, with as many draws as samples. The judge that labels pairs should
not be the only one that evaluates the result; nothing here knows what its verdicts are used for.
"""

from __future__ import annotations

import hashlib
import json
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator
from typing import Any, Literal, NamedTuple, Protocol

from stllava.files import utc_now
from stllava.generation.protocol import CallStatus, Generator, Sampling
from stllava.judging.outcome import needs_repair, outcome, repair_request, unread_calls
from stllava.judging.pairing import IDENTICAL, Pair, normalise, unanswerable
from stllava.judging.rubrics import load_rubric
from stllava.prompts import Rubric
from stllava.records import Answers, Draw, Request, Turn, Verdict

GREEDY = Sampling()
MAX_REPAIRS = 16  # asked together; until then what comes after the first of them is held back
MAX_HELD = 256
CHOICE_TOKENS = 16  # of a reply that is one letter
TOP_LOGPROBS = 10


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
    reply: Draw | None = None


class ModelJudge:
    """A judge that is a Generator, a rubric and a parser.

    `name` identifies the judge in verdict ids, `model` is the model id that is asked for. `rubric`
    is a name, a file or a Rubric. `orders="one"` shows the pair's first draw first, as the paper
    does; "both" also swaps them, which is what tells a preference from a habit. `samples` repeats
    each call. `repair` asks once more, quoting the form, where a reply cannot be read. `view` goes
    into the verdicts; what is shown for an image is the generator's business. `mark` is told the
    key of every kept call whose reply is refused or unread, before its verdict is given.
    The default is greedy (the released code sampled at 0.2 without a seed; not in the paper).
    """

    def __init__(
        self,
        generator: Generator,
        *,
        name: str,
        orders: Literal["one", "both"],
        rubric: str | Rubric = "paper",
        view: Literal["image", "blank"] = "image",
        samples: int = 1,
        repair: bool = False,
        model: str | None = None,
        mark: Callable[[str, CallStatus], None] | None = None,
        clock: Callable[[], str] = utc_now,
        sampling: Sampling = GREEDY,
        max_tokens: int = 512,
    ) -> None:
        self.name = name
        self._generator = generator
        self._both = orders == "both"
        self._rubric = load_rubric(rubric) if isinstance(rubric, str) else rubric
        self._view = view
        self._samples = samples
        self._repair = repair
        self._model = model
        self._mark = mark
        self._clock = clock
        self._sampling = sampling
        choice = self._rubric.output == "choice"
        self._max_tokens = min(max_tokens, CHOICE_TOKENS) if choice else max_tokens
        self._top_logprobs = TOP_LOGPROBS if choice else None

    def judge(
        self, items: Iterable[tuple[Answers, Pair]], *, done: Container[str] = ()
    ) -> Iterator[Verdict]:
        """One verdict per item, order and sample, in that order. Items are read as calls finish."""
        held: list[_Case] = []
        num_repairs = 0
        for case in self._replied(items, done):
            held.append(case)
            num_repairs += self._repair and self._is_unread(case)
            if not num_repairs or num_repairs == MAX_REPAIRS or len(held) == MAX_HELD:
                yield from self._verdicts(held)
                held, num_repairs = [], 0
        yield from self._verdicts(held)

    def _replied(
        self, items: Iterable[tuple[Answers, Pair]], done: Container[str]
    ) -> Iterator[_Case]:
        """Cases in order, with their replies where they need one."""
        waiting: deque[_Case] = deque()

        def requests() -> Iterator[Request]:
            for answers, pair in items:
                for order in (pair, pair[::-1]) if self._both else (pair,):
                    cases = self._cases(answers, pair, order)
                    if all(case.known["id"] in done for case in cases):
                        continue
                    waiting.extend(cases)
                    if (request := cases[0].request) is not None:
                        yield request

        for reply in self._generator.generate(requests(), self._sampling):
            while (case := waiting.popleft()).request is None:
                if case.known["id"] not in done:
                    yield case
            assert case.request.id == reply.request_id
            if case.known["id"] not in done:
                yield case._replace(reply=reply)
        yield from (case for case in waiting if case.known["id"] not in done)

    def _is_unread(self, case: _Case) -> bool:
        return case.reply is not None and needs_repair(case.reply, self._rubric)

    def _verdicts(self, cases: list[_Case]) -> Iterator[Verdict]:
        """Verdicts of cases whose calls are done; what cannot be read is asked for once more."""
        unread = [case for case in cases if self._repair and self._is_unread(case)]
        repairs: dict[str, Draw] = {}
        if unread:
            asked = map(self._repair_request, unread)
            for draw in self._generator.generate(asked, self._sampling):
                repairs[draw.request_id] = draw
        for case in cases:
            known, reply = case.known, case.reply
            if reply is None:
                yield Verdict(**known, time=self._clock())
                continue
            repair = repairs.get(_repair_id(known["id"]))
            fields = outcome(
                reply, self._rubric, pair=known["pair"], order=known["order"], repair=repair
            )
            if self._mark is not None:
                for key, status in unread_calls(fields["state"], reply, repair):
                    self._mark(key, status)
            yield Verdict(**known, **fields, model=self._model, time=reply.time or self._clock())

    def _repair_request(self, case: _Case) -> Request:
        assert case.request is not None
        assert case.reply is not None
        again = repair_request(case.request, case.reply.text, self._rubric.repair)
        return again.model_copy(update={"id": _repair_id(case.known["id"])})

    def _cases(self, answers: Answers, pair: Pair, order: Pair) -> list[_Case]:
        """One case per sample; they share the request, whose draws they are."""
        draws = {draw.index: draw for draw in answers.draws}
        first, second = (draws[index] for index in order)
        rubric = self._rubric
        common: dict[str, Any] = {"view": self._view, "judge": self.name}
        ids = [
            verdict_id(answers, order, rubric=rubric, sample=n, **common)
            for n in range(self._samples)
        ]
        common |= {"answers_id": answers.id, "pair": pair, "order": order}
        common |= {"rubric": rubric.name, "rubric_version": rubric.version}
        request = None
        if (reason := unanswerable(first, second)) is not None:
            common |= {"state": "skipped", "reason": reason}
        elif normalise(first.text) == normalise(second.text):
            common |= {"state": "tie", "reason": IDENTICAL}
        else:
            prompt = rubric.build(answers.question, first.text, second.text, nonce(ids[0]))
            request = Request(
                id=ids[0],
                image=answers.image,
                turns=(Turn(question=prompt),),
                num_draws=self._samples,
                max_tokens=self._max_tokens,
                image_last=rubric.image_last,
                response=rubric.response,
                top_logprobs=self._top_logprobs,
            )
        return [_Case({"id": name, "sample": n, **common}, request) for n, name in enumerate(ids)]


def nonce(verdict: str) -> str:
    """Eight hex digits that no candidate can know: they follow from both texts and the order."""
    return hashlib.sha256(f"nonce/{verdict}".encode()).hexdigest()[:8]


def _repair_id(verdict: str) -> str:
    return f"{verdict}/repair"


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

"""From a judge's reply to the fields of its verdict: always a state, a winner only if there is one.

A reply speaks of the first and the second answer it was shown; a verdict of draws by their index.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stllava.generation.protocol import CallStatus
from stllava.judging.pairing import Pair
from stllava.judging.replies.parse import Parsed, looks_refused, read_reply
from stllava.prompts import Rubric
from stllava.records import Draw, Request, Turn, Usage, VerdictState


def needs_repair(reply: Draw, rubric: Rubric) -> bool:
    """Whether a reply came and is no refusal, and still nothing can be read in it."""
    if reply.finish not in ("stop", "length") or not reply.text.strip():
        return False
    return not (_read(reply, rubric).found or looks_refused(reply.text))


def repair_request(request: Request, reply: str, form: str) -> Request:
    """The same request, the reply to it, and the form once more."""
    (turn,) = request.turns
    turns = (turn.model_copy(update={"answer": reply}), Turn(question=form))
    return request.model_copy(update={"turns": turns, "num_draws": 1})


def outcome(
    reply: Draw, rubric: Rubric, *, pair: Pair, order: Pair, repair: Draw | None = None
) -> dict[str, Any]:
    """Fields of the Verdict that the reply decides; `repair` is the reply to being asked again."""
    said: dict[str, Any] = {
        "reply": reply.text,
        "usage": _added(reply.usage, repair.usage if repair else None),
        "cost_usd": _cost(reply, repair),
        "model_returned": reply.model,
    }
    for draw in (reply, repair):
        if draw is not None and draw.finish == "error" and (draw is reply or not _is_final(draw)):
            return {**said, **_unsaid(draw)}  # asked again, what was paid comes from the ledger
    if reply.finish == "refused":
        if not reply.text:
            return {**said, "state": "filtered", "reason": "stopped by a content filter"}
        return {**said, "state": "refused", "reason": "the model refused"}
    read = _read(reply, rubric)
    if repair is not None:
        said["repair"] = repair.text
        if repair.finish in ("stop", "length"):
            read = _read(repair, rubric)
            read = read._replace(rung=f"repair:{read.rung}" if read.rung else "")
    if not read.found:
        if looks_refused(reply.text):
            return {**said, "state": "refused", "reason": "the reply reads as a refusal"}
        return {**said, "state": "unparsed", "reason": read.reason}
    return {**said, **_decided(read, order, swapped=order != pair)}


def unread_calls(
    state: VerdictState, reply: Draw, repair: Draw | None = None
) -> Iterator[tuple[str, CallStatus]]:
    """Keys of the calls that a verdict without a winner was read from, and what they are."""
    if state not in ("refused", "unparsed"):
        return
    for draw in (reply, repair):
        if draw is not None and draw.call and draw.finish in ("stop", "length"):
            yield draw.call, "refused" if looks_refused(draw.text) else "unparsed"


def _is_final(draw: Draw) -> bool:
    return draw.reason == "rejected"


def _unsaid(draw: Draw) -> dict[str, Any]:
    if draw.reason == "budget":
        return {"state": "budget_stopped", "reason": "the budget would not cover it"}
    if _is_final(draw):
        return {"state": "skipped", "reason": "the judge's server does not take this request"}
    return {"state": "transport_failed", "reason": "no reply after all tries"}


def _decided(read: Parsed, order: Pair, *, swapped: bool) -> dict[str, Any]:
    """What was read, told of draws: scores, faults and preference in the order of the pair."""
    step = -1 if swapped else 1
    found: dict[str, Any] = {"rung": read.rung, "reason": read.reason}
    if read.scores is not None:
        found["scores"] = read.scores[::step]
    if read.faults is not None:
        found["faults"] = read.faults[::step]
    if read.preference is not None:
        found["preference"] = 1 - read.preference if swapped else read.preference
    if read.choice:
        return {**found, "state": "ok", "winner": order[read.choice - 1]}
    tied = "equal scores" if read.scores is not None else "neither is better"
    return {**found, "state": "tie", "reason": "; ".join(filter(None, (tied, read.reason)))}


def _read(reply: Draw, rubric: Rubric) -> Parsed:
    return read_reply(
        reply.text,
        rubric.output,
        cut=reply.finish == "length",
        alternatives=reply.alternatives,
    )


def _cost(reply: Draw, repair: Draw | None) -> float | None:
    """Of both calls; None if one of them has no known price. What was not sent costs nothing."""
    sent = [draw for draw in (reply, repair) if draw is not None and draw.finish != "error"]
    known = [draw.cost_usd for draw in sent if draw.cost_usd is not None]
    # Costs are whole nano-dollars.
    return round(sum(known), 9) if sent and len(known) == len(sent) else None


def _added(one: Usage | None, other: Usage | None) -> Usage | None:
    if one is None or other is None:
        return one or other
    mine, theirs = one.model_dump(), other.model_dump()
    return Usage(**{name: mine[name] + theirs[name] for name in mine})

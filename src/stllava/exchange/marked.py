"""Forms made of LLaVA's conversations: released, MMedPO, LLaMA-Factory; and ms-swift's messages.

In each the question carries an image mark, and nothing else may: their loaders count marks.
Fields: heliossun/STLLaVA-Med (`train_dpo.py`), aiming-lab/MMedPO (its data files), LLaMA-Factory
(`data/README.md`), ms-swift (documentation of custom datasets).
"""

from __future__ import annotations

from collections import Counter

from stllava.exchange.pair import (
    Pair,
    harmless,
    id_of,
    message_of,
    messages_of,
    number_of,
    one_turn,
    only_image,
    without_mark,
)
from stllava.records import JSONObject
from stllava.sources.store import UnusableError

LLAVA_MARK = "<image>\n"
SWIFT_MARK = "<image>"


def parse_released(row: JSONObject, count: Counter[str]) -> Pair:
    """Input of the released DPO code; `reject_`, not `rejected_`."""
    return _parse_two(row, "chosen_conversations", "reject_conversations", "released", count)


def build_released(pair: Pair) -> JSONObject:
    return {
        "id": pair.id,
        "image": pair.image,
        "chosen_conversations": _turn(pair, pair.chosen),
        "reject_conversations": _turn(pair, pair.rejected),
    }


def parse_mmedpo(row: JSONObject, count: Counter[str]) -> Pair:
    """Answers begin with a blank there, which is not part of them."""
    pair = _parse_two(row, "conversations", "rejected_conversations", "mmedpo", count)
    weight = number_of(row, "weighted_score", 1.0)
    chosen, rejected = pair.chosen.removeprefix(" "), pair.rejected.removeprefix(" ")
    if (chosen, rejected) != (pair.chosen, pair.rejected):
        count["blank before an answer removed"] += 1
    return pair._replace(chosen=chosen, rejected=rejected, weight=weight)


def build_mmedpo(pair: Pair) -> JSONObject:
    return {
        "id": pair.id,
        "image": pair.image,
        "conversations": _turn(pair, f" {pair.chosen}"),
        "rejected_conversations": _turn(pair, f" {pair.rejected}"),
        "weighted_score": pair.weight,
    }


def _parse_two(row: JSONObject, chosen: str, rejected: str, form: str, count: Counter[str]) -> Pair:
    question, better = one_turn(messages_of(row.get(chosen), chosen, count), chosen)
    other, worse = one_turn(messages_of(row.get(rejected), rejected, count), rejected)
    if question.strip() != other.strip():
        raise UnusableError("chosen and rejected answer different questions")
    return Pair(
        image=only_image(row, "image"),
        question=without_mark(question, LLAVA_MARK, count),
        chosen=better,
        rejected=worse,
        id=id_of(row, "id", form),
    )


def _turn(pair: Pair, answer: str) -> list[dict[str, str]]:
    return [
        {"from": "human", "value": LLAVA_MARK + harmless(pair.question)},
        {"from": "gpt", "value": harmless(answer)},
    ]


def parse_llama_factory(row: JSONObject, count: Counter[str]) -> Pair:
    """Ranking data of the ShareGPT kind, or with {role, content} and `messages`."""
    key = "messages" if "messages" in row else "conversations"
    asked = messages_of(row.get(key), key, count)
    chosen, rejected = (message_of(row.get(name), name) for name in ("chosen", "rejected"))
    question, better = one_turn([*asked, chosen], "chosen")
    _, worse = one_turn([*asked, rejected], "rejected")
    return Pair(
        image=only_image(row, "images", "image"),
        question=without_mark(question, LLAVA_MARK, count),
        chosen=better,
        rejected=worse,
        id=id_of(row, "id", "llama-factory"),
    )


def build_llama_factory(pair: Pair) -> JSONObject:
    return {
        "id": pair.id,
        "conversations": _turn(pair, "")[:1],
        "chosen": {"from": "gpt", "value": harmless(pair.chosen)},
        "rejected": {"from": "gpt", "value": harmless(pair.rejected)},
        "images": [pair.image],
    }


def parse_ms_swift(row: JSONObject, count: Counter[str]) -> Pair:
    """The worse answer is `rejected_response`, or the last of `rejected_messages`."""
    question, better = one_turn(messages_of(row.get("messages"), "messages", count), "messages")
    worse = row.get("rejected_response")
    if worse is None:
        messages = messages_of(row.get("rejected_messages"), "rejected_messages", count)
        other, worse = one_turn(messages, "rejected_messages")
        if other.strip() != question.strip():
            raise UnusableError("chosen and rejected answer different questions")
    if not isinstance(worse, str):
        raise UnusableError("rejected_response is not one text")
    return Pair(
        image=only_image(row, "images", "image"),
        question=without_mark(question, SWIFT_MARK, count),
        chosen=better,
        rejected=worse,
        id=id_of(row, "id", "ms-swift"),
        margin=number_of(row, "margin", 0.0),
    )


def build_ms_swift(pair: Pair) -> JSONObject:
    return {
        "id": pair.id,
        "messages": [
            {"role": "user", "content": SWIFT_MARK + harmless(pair.question)},
            {"role": "assistant", "content": harmless(pair.chosen)},
        ],
        "rejected_response": harmless(pair.rejected),
        "images": [pair.image],
        "margin": pair.margin,
    }

"""What every form of preference data has in common: an image, a question, two answers.

A form parses its rows into `Pair`s and builds rows from them. What one row lacks or holds too much
of is an UnusableError, which becomes a Dropped record.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

from stllava.records import Draw, JSONObject, Preference
from stllava.sources.store import UnusableError

IMAGE_MARK = "<image>"
HARMLESS_MARK = "< image >"  # for a mark inside a text: loaders count marks and join by them
QUESTION_ROLES = frozenset({"human", "user"})
ANSWER_ROLES = frozenset({"gpt", "assistant"})
SYSTEM_LEFT_OUT = "system message left out"

_OWN_ID = re.compile(r"(.+)/d(\d{1,6})>d(\d{1,6})")  # answers, chosen draw, rejected draw


class Pair(NamedTuple):
    """One row, whatever its form."""

    image: str  # path below the image root
    question: str
    chosen: str
    rejected: str
    id: str | None = None
    weight: float = 1.0
    margin: float = 0.0
    source: str | None = None
    edited: bool = False


def to_pair(preference: Preference, image_path: str) -> Pair:
    """What forms other than our own can be given of a preference."""
    return Pair(
        image=image_path,
        question=preference.question,
        chosen=preference.chosen.text,
        rejected=preference.rejected.text,
        id=preference.id,
        weight=preference.weight,
        margin=preference.margin,
        source=preference.source,
        edited=preference.edited,
    )


def to_preference(pair: Pair, *, id: str, image: str, source: str) -> Preference:  # noqa: A002
    """The record. An id that we once wrote says again which draws it was made of.

    Of any other pair the draws are 0 and 1 of a question of its own.
    """
    own = _OWN_ID.fullmatch(id)
    answers, chosen, rejected = (own[1], int(own[2]), int(own[3])) if own else (id, 0, 1)
    return Preference(
        id=id,
        answers_id=answers,
        image=image,
        question=pair.question,
        chosen=Draw(request_id=answers, index=chosen, text=pair.chosen),
        rejected=Draw(request_id=answers, index=rejected, text=pair.rejected),
        margin=pair.margin,
        weight=pair.weight,
        source=pair.source or source,
        edited=pair.edited,
    )


def check(pair: Pair) -> Pair:
    """The pair if it can be trained on. Raises UnusableError."""
    texts = {"question": pair.question, "chosen": pair.chosen, "rejected": pair.rejected}
    for name, text in texts.items():
        if not text.strip():
            raise UnusableError(f"{name} is empty")
    for text in (*texts.values(), pair.image, pair.id or "", pair.source or ""):
        if any("\ud800" <= character <= "\udfff" for character in text):
            raise UnusableError("half a surrogate pair in its text")
    if pair.chosen.strip() == pair.rejected.strip():
        raise UnusableError("chosen and rejected are the same text")
    for name, value in (("weight", pair.weight), ("margin", pair.margin)):
        if not math.isfinite(value) or value < 0:
            raise UnusableError(f"{name} is {value}, not a number from 0 on")
    return pair


def text_of(row: JSONObject, key: str) -> str:
    value = row.get(key)
    if not isinstance(value, str):
        raise UnusableError(f"no text in {key!r}")
    return value


def id_of(row: JSONObject, key: str, form: str) -> str | None:
    """A row's own id; a number gets the form's name, since ids are shared by all sources."""
    value = row.get(key)
    if isinstance(value, bool) or value is None or not str(value).strip():
        return None
    return f"{form}-{value}" if isinstance(value, int) else str(value)


def number_of(row: JSONObject, key: str, default: float) -> float:
    value = row.get(key)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UnusableError(f"{key!r} is not a number")
    return float(value)


def only_image(row: JSONObject, *keys: str) -> str:
    """The path of a row's one image: text, {"path": text}, or a list of one of these."""
    value = next((row[key] for key in keys if row.get(key) not in (None, "", [])), None)
    if isinstance(value, list):
        if len(value) != 1:
            raise UnusableError(f"{len(value)} images; pairs about one image are used")
        value = value[0]
    if isinstance(value, dict):
        value = value.get("path")
    if not isinstance(value, str) or not value.strip():
        raise UnusableError(f"no image path in {' or '.join(map(repr, keys))}")
    return value


def without_mark(value: str, mark: str, count: Counter[str]) -> str:
    """A question without its image mark; text that follows `mark` comes back exactly as it was."""
    found = value.count(IMAGE_MARK)
    if found > 1:
        raise UnusableError(f"{found} image marks for one image")
    if value.startswith(mark):
        return value.removeprefix(mark)
    if found:
        count["image mark in another place than before the question"] += 1
        return value.replace(IMAGE_MARK, "").strip()
    return value


def harmless(text: str) -> str:
    """The text with image marks made unreadable to loaders that count them."""
    return text.replace(IMAGE_MARK, HARMLESS_MARK)


def one_turn(messages: Sequence[tuple[str, str]], what: str) -> tuple[str, str]:
    """Question and answer of the only turn of a conversation of (role, text)."""
    if len(messages) != 2:
        raise UnusableError(f"{what}: {len(messages)} messages, not a question and its answer")
    (asker, question), (speaker, answer) = messages
    if asker not in QUESTION_ROLES or speaker not in ANSWER_ROLES:
        raise UnusableError(f"{what}: from {asker!r} and {speaker!r}, not user and assistant")
    return question, answer


def messages_of(value: object, what: str, count: Counter[str]) -> list[tuple[str, str]]:
    """(role, text) of each message, {from, value} or {role, content}; system messages left out."""
    if not isinstance(value, list) or not value:
        raise UnusableError(f"no list of messages in {what!r}")
    found = [message_of(message, what) for message in value]
    kept = [(role, text) for role, text in found if role != "system"]
    if len(kept) < len(found):
        count[SYSTEM_LEFT_OUT] += 1
    return kept


def message_of(value: object, what: str) -> tuple[str, str]:
    """(role, text) of one message; of content in parts, the text parts one after another."""
    if not isinstance(value, dict):
        raise UnusableError(f"{what}: a message is not an object")
    role = value.get("from") or value.get("role")
    content = value["value"] if value.get("value") is not None else value.get("content")
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        content = "".join(part for part in parts if isinstance(part, str))
    if not isinstance(role, str) or not isinstance(content, str):
        raise UnusableError(f"{what}: a message without role or text")
    return role, content

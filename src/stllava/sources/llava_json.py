"""LLaVA's instruction format: a JSON list, or JSONL, of {"id", "image", "conversations"}.

`conversations` (LLaVA-Med's files also say `conversatons`) alternates {"from": "human" | "vuser",
"value": "<image>\\nquestion"} and {"from": "gpt", "value": answer}. A record that cannot be used is
a Dropped with its reason; only a file without any usable record is an error.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from stllava.errors import DataError
from stllava.images import resolve
from stllava.records import Conversation, Dropped, JSONObject, Turn
from stllava.sources import STAGE, SourceData, SourceImage, image_ids

IMAGE_MARK = "<image>"
QUESTION_ROLES = frozenset({"human", "user", "vuser"})
ANSWER_ROLES = frozenset({"gpt", "assistant"})


class UnusableError(ValueError):
    """Why one record is dropped; never leaves this module."""


class Parsed(NamedTuple):
    id: str
    path: str
    turns: tuple[Turn, ...]


def read(path: Path, image_root: Path) -> SourceData:
    """Read conversations; images are looked for below `image_root`, each its own group."""
    repairs: Counter[str] = Counter()
    dropped: list[Dropped] = []
    parsed: list[Parsed] = []
    for name, value in _records(path):
        try:
            record = _parse(name, value, repairs)
            _check_image(image_root, record.path)
            parsed.append(record)
        except UnusableError as error:
            dropped.append(Dropped(id=name, stage=STAGE, reason=str(error)))
    if not parsed:
        first = dropped[0].reason if dropped else "it is empty"
        raise DataError(f"{path}: no usable record ({first}); see LLaVA's conversation format")
    ids = image_ids(record.path for record in parsed)
    images = (SourceImage(image, image_path, image) for image_path, image in ids.items())
    conversations = tuple(
        Conversation(id=unique, image=ids[record.path], turns=record.turns)
        for unique, record in zip(_unique_ids(parsed, repairs), parsed, strict=True)
    )
    return SourceData(tuple(images), conversations, (), dict(+repairs), tuple(dropped))


def _records(path: Path) -> Iterator[tuple[str, object]]:
    """Yield (place, value); the value of an undecodable JSONL line is an UnusableError."""
    try:
        data = path.read_bytes().removeprefix(b"\xef\xbb\xbf")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if data.lstrip().startswith(b"["):
        try:
            records = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise DataError(f"{path}: not JSON ({error}); a list of records was begun") from None
        yield from ((f"{path.name}[{index}]", record) for index, record in enumerate(records))
        return
    for number, line in enumerate(data.split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            yield f"{path.name}:{number}", json.loads(line)
        except (ValueError, RecursionError) as error:
            yield f"{path.name}:{number}", UnusableError(f"not JSON ({error})")


def _parse(name: str, value: object, repairs: Counter[str]) -> Parsed:
    if isinstance(value, UnusableError):
        raise value
    if not isinstance(value, dict):
        raise UnusableError("not an object")
    image = value.get("image")
    if not image:
        raise UnusableError("no image; text-only records are not used")
    if not isinstance(image, str):
        raise UnusableError("image is not a path; records about several images are not used")
    turns = _turns(_messages(value, repairs), repairs)
    record_id = value.get("id", name)
    if not isinstance(record_id, str | int) or not str(record_id).strip():
        raise UnusableError("id is neither text nor a number")
    texts = [str(record_id), image, *(f"{turn.question}{turn.answer}" for turn in turns)]
    if any("\ud800" <= character <= "\udfff" for text in texts for character in text):
        raise UnusableError("half a surrogate pair in its text")
    return Parsed(str(record_id), image, turns)


def _messages(value: JSONObject, repairs: Counter[str]) -> list[tuple[str, str]]:
    """Return (role, text) of every message."""
    messages = value.get("conversations")
    if messages is None and "conversatons" in value:
        repairs["key spelt 'conversatons'"] += 1
        messages = value["conversatons"]
    if not isinstance(messages, list) or not messages:
        raise UnusableError("no list of conversations")
    found: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        role, text = (
            (message.get("from"), message.get("value"))
            if isinstance(message, dict)
            else (None, None)
        )
        if not isinstance(role, str) or not isinstance(text, str):
            raise UnusableError(f"message {index}: 'from' and 'value' must be text")
        if role == "system":
            repairs["system message left out"] += 1
        else:
            found.append((role, text))
    return found


def _turns(messages: list[tuple[str, str]], repairs: Counter[str]) -> tuple[Turn, ...]:
    if len(messages) % 2 and messages[-1][0] in QUESTION_ROLES:
        repairs["last question without an answer left out"] += 1
        messages = messages[:-1]
    if not messages:
        raise UnusableError("no answered question")
    num_marks = sum(text.count(IMAGE_MARK) for _, text in messages)
    if num_marks > 1:
        raise UnusableError(f"{num_marks} image marks for one image")
    turns: list[Turn] = []
    for index, (role, text) in enumerate(messages):
        expected = ANSWER_ROLES if index % 2 else QUESTION_ROLES
        if role not in expected:
            raise UnusableError(
                f"message {index}: from {role!r}, not {' or '.join(sorted(expected))}"
            )
        text = text.replace(IMAGE_MARK, "").strip()
        if not text:
            raise UnusableError(f"message {index}: empty")
        if index % 2:
            turns[-1] = Turn(question=turns[-1].question, answer=text)
        else:
            turns.append(Turn(question=text))
    return tuple(turns)


def _check_image(image_root: Path, path: str) -> None:
    try:
        is_there = resolve(image_root, path).is_file()
    except DataError as error:
        raise UnusableError(str(error)) from None
    if not is_there:
        raise UnusableError(f"image file {path!r} not found under {image_root}")


def _unique_ids(parsed: list[Parsed], repairs: Counter[str]) -> Iterator[str]:
    """LLaVA's files repeat ids; a repeated one gets "#2", "#3", ... that no record has."""
    taken = {record.id for record in parsed}
    seen: set[str] = set()
    for record in parsed:
        unique, number = record.id, 1
        while unique in seen or (number > 1 and unique in taken):
            number += 1
            unique = f"{record.id}#{number}"
        repairs["repeated id numbered"] += number > 1
        seen.add(unique)
        yield unique

"""LLaVA's instruction format: a JSON list, or JSONL, of {"id", "image", "conversations"}.

`conversations` (LLaVA-Med's files also say `conversatons`) alternates {"from": "human" | "vuser",
"value": "<image>\\nquestion"} and {"from": "gpt", "value": answer}. A record that cannot be used,
for example because its image is not on disk as for parts of LLaVA-Med, is a Dropped with its
reason; only a file without any usable record is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stllava.reading import Entry
from stllava.reading.json import read_entries
from stllava.sources import SourceData
from stllava.sources.conversations import Parsed, collect, image_of, record_id, record_of
from stllava.sources.dialogue import turns_of
from stllava.sources.store import ImageStore, UnusableError


def read(path: Path, image_root: Path) -> SourceData:
    """Read conversations; images are looked for below `image_root`, each its own group."""
    return collect(path, read_entries(path), parse, ImageStore(image_root))


def parse(entry: Entry, repairs: Counter[str]) -> Parsed:
    """One record. Raises UnusableError with the reason."""
    record = record_of(entry)
    image = image_of(record)
    turns = turns_of(messages_of(record, repairs), repairs)
    return Parsed(record_id(record, entry), image, turns)


def messages_of(record: Mapping[str, Any], repairs: Counter[str]) -> list[tuple[str, str]]:
    """Return (role, text) of every message."""
    messages = record.get("conversations")
    if messages is None and "conversatons" in record:
        repairs["key spelt 'conversatons'"] += 1
        messages = record["conversatons"]
    if not isinstance(messages, list) or not messages:
        raise UnusableError("no list of conversations")
    found: list[tuple[str, str]] = []
    for index, message in enumerate(messages):
        said = message if isinstance(message, Mapping) else {}
        role, text = said.get("from"), said.get("value")
        if not isinstance(role, str) or not isinstance(text, str):
            raise UnusableError(f"message {index}: 'from' and 'value' must be text")
        found.append((role, text))
    return found

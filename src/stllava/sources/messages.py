"""Chat form: {"messages": [{"role", "content"}], "images": [path]}, as OpenAI, TRL and others have.

`content` is text, or a list of parts: {"type": "text", "text"}, {"type": "image", "image"} (or
"path"), {"type": "image_url", "image_url": {"url"}} where the URL holds the image itself
(data:image/png;base64,...) or is a path. The image may also stand in `image` or `images`.
"""

from __future__ import annotations

import base64
import binascii
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stllava.reading import Entry
from stllava.reading.json import read_entries
from stllava.sources import SourceData
from stllava.sources.conversations import Parsed, collect, image_of, record_id, record_of
from stllava.sources.dialogue import IMAGE_MARK, turns_of
from stllava.sources.store import ImageStore, UnusableError


def read(path: Path, image_root: Path, extract_to: Path | None = None) -> SourceData:
    """Read conversations; embedded images are written to `extract_to`."""
    return collect(path, read_entries(path), parse, ImageStore(image_root, extract_to=extract_to))


def parse(entry: Entry, repairs: Counter[str]) -> Parsed:
    """One record. Raises UnusableError with the reason."""
    record = record_of(entry)
    messages = record.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UnusableError("no list of messages")
    found: list[tuple[str, str]] = []
    images: list[object] = []
    for index, message in enumerate(messages):
        said = message if isinstance(message, Mapping) else {}
        role, content = said.get("role"), said.get("content")
        if not isinstance(role, str) or not isinstance(content, str | list):
            raise UnusableError(f"message {index}: 'role' must be text, 'content' text or parts")
        text, shown = (content, []) if isinstance(content, str) else _parts(content, index)
        found.append((role, text))
        images += shown
    if len(images) > 1 or (images and (record.get("image") or record.get("images"))):
        raise UnusableError("records about several images are not used")
    turns = turns_of(found, repairs)
    image = _embedded(images[0] if images else image_of(record))
    return Parsed(record_id(record, entry), image, turns)


def _parts(parts: list[Any], index: int) -> tuple[str, list[object]]:
    """Text of a message, and the images that it names itself."""
    texts: list[str] = []
    images: list[object] = []
    for part in parts:
        kind = part.get("type") if isinstance(part, Mapping) else None
        if kind == "text" and isinstance(part.get("text"), str):
            texts.append(part["text"])
        elif kind == "image":
            named = next((part[key] for key in ("image", "path", "url") if part.get(key)), None)
            images += [] if named is None else [named]
        elif kind == "image_url":
            url = part.get("image_url")
            images.append(url.get("url") if isinstance(url, Mapping) else url)
        else:
            raise UnusableError(f"message {index}: a part of type {kind!r} is not used")
    return "\n".join(text for text in texts if text.strip() != IMAGE_MARK), images


def _embedded(image: object) -> object:
    """The bytes of a data URI; anything else as it is."""
    if not isinstance(image, str) or ":" not in image:
        return image
    if image.startswith(("http:", "https:")):
        raise UnusableError("image is a web address; save the file and name its path")
    head, _, data = image.partition(",")
    if not (head.startswith("data:") and head.endswith(";base64")):
        return image
    try:
        return base64.b64decode(data, validate=True)
    except (binascii.Error, ValueError):
        raise UnusableError("image is not base64") from None

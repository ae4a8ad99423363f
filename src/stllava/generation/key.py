"""The key of access: read from a file or the environment, shown nowhere."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from stllava.config import EndpointSection
from stllava.errors import JudgeError

MIN_SECRET = 8  # characters; shorter ones ("EMPTY", "none") are placeholders, and words of replies


def read_key(key_file: Path | None, api_key_env: str, section: str) -> str:
    """The key, or "" where the variable is not set. Raises JudgeError, without the key in it."""
    if key_file is None:
        key, source = os.environ.get(api_key_env, ""), api_key_env
    else:
        source = str(key_file)
        try:
            key = key_file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError):
            raise JudgeError(
                f"{source}: cannot be read as a key file; see {section}.key_file"
            ) from None
    key = key.strip()
    if key_file is not None and not key:
        raise JudgeError(f"{source}: the key file is empty; see {section}.key_file")
    if re.match(r"(export\s+)?[A-Z][A-Z0-9_]*=", key):
        raise JudgeError(f"{source}: holds an assignment; leave the key alone in it")
    # A line break inside would surface later, and with the key, as an illegal header.
    if not re.fullmatch(r"[!-~]*", key):
        raise JudgeError(f"{source}: a key is one word of plain characters; correct it")
    return key


def access_key(section: EndpointSection, where: str = "judge") -> str:
    """The key of a recipe's endpoint, `where` in the recipe; see `read_key`."""
    file = Path(section.key_file) if section.key_file else None
    return read_key(file, section.api_key_env, where)


def without(key: str, text: str) -> str:
    """The text with the key blotted out: some servers quote the request they were sent."""
    return text.replace(key, "***") if len(key) >= MIN_SECRET else text


def reply_without(key: str, body: str) -> str:
    """A JSON body with the key blotted out of all its strings, however they are written.

    A body that does not hold the key comes back as it is; one that is no JSON is taken as a text.
    """
    if len(key) < MIN_SECRET or not (key in body or "\\" in body):
        return body
    try:
        said = json.loads(body)
        clean = _clean(key, said)
    except (ValueError, RecursionError):
        return without(key, body)
    return body if clean == said else json.dumps(clean)


def _clean(key: str, value: Any) -> Any:
    if isinstance(value, str):
        return without(key, value)
    if isinstance(value, list):
        return [_clean(key, one) for one in value]
    if isinstance(value, dict):
        return {without(key, name): _clean(key, one) for name, one in value.items()}
    return value

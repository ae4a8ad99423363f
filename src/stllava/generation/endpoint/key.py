"""The key of access: read from a file or the environment, shown nowhere."""

from __future__ import annotations

import os
import re
from pathlib import Path

from stllava.errors import JudgeError


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
    # A line break inside would surface later, and with the key, as an illegal header.
    if not re.fullmatch(r"[!-~]*", key):
        raise JudgeError(f"{source}: a key is one word of plain characters; correct it")
    return key


def without(key: str, text: str) -> str:
    """The text with the key blotted out: some servers quote the request they were sent."""
    return text.replace(key, "***") if key else text

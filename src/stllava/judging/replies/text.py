"""What a judge says at last: its reply without thoughts, marks and what nobody sees."""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

MAX_REPLY_CHARS = 20_000

_INVISIBLE = re.compile("[\u00ad\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]")
_THOUGHT = re.compile(r"<(/?)(think|thinking|thought|reasoning)>", re.IGNORECASE)
_END_TOKEN = re.compile(r"</s>|<\|\w{1,30}\|>|<end_of_turn>|<eos>", re.IGNORECASE)
_OUT_OF_TEN = re.compile(r"(?<=[0-9])\s*(?:/|\bout of\b)\s*10(?![0-9]|\.[0-9])", re.IGNORECASE)


class Spoken(NamedTuple):
    """A reply without its thoughts."""

    text: str
    before: str = ""  # what stands before a lone closing tag; as a rule a thought


def spoken(reply: str) -> Spoken | None:
    """The reply behind its thoughts, or None where they do not end or are not told apart.

    A tag further down may be quoted from a candidate, and so may what stands behind it. Templates
    that open the block themselves leave its closing tag alone in the reply.
    """
    rest = _INVISIBLE.sub("", reply).lstrip()
    tags = list(_THOUGHT.finditer(rest))
    if len(tags) == 1 and tags[0].group(1):
        return Spoken(rest[tags[0].end() :], rest[: tags[0].start()])
    while (opened := _THOUGHT.match(rest)) is not None and not opened.group(1):
        ends = (tag for tag in _THOUGHT.finditer(rest, opened.end()) if _closes(tag, opened))
        if (closed := next(ends, None)) is None:
            return None
        rest = rest[closed.end() :].lstrip()
    return None if _THOUGHT.search(rest) else Spoken(rest)


def readable(text: str, *, cut: bool = False) -> str:
    """Without end tokens, fence, stars and "out of 10"; `cut`: without its last word."""
    kept = text[:MAX_REPLY_CHARS].strip()
    while (start := kept.rfind("<")) >= 0 and _END_TOKEN.fullmatch(kept, start):
        kept = kept[:start].rstrip()
    if cut or len(text) > MAX_REPLY_CHARS:
        kept = re.sub(r"\S+\Z", "", kept).rstrip()
    fenced = re.fullmatch(r"```\w*\s*\n(.*?)\n?```", kept, re.DOTALL)
    return _unmarked("\n".join((fenced.group(1).strip() if fenced else kept).splitlines()))


def plain(text: str) -> str:
    """In ordinary letters, digits and blanks. Not for JSON, whose quotes it would make more."""
    return _unmarked(unicodedata.normalize("NFKC", text))


def _closes(tag: re.Match[str], opened: re.Match[str]) -> bool:
    return bool(tag.group(1)) and tag.group(2).lower() == opened.group(2).lower()


def _unmarked(text: str) -> str:
    return _OUT_OF_TEN.sub("", re.sub(r"[*`#]", "", text))

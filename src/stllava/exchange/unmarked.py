"""Forms whose texts carry no image mark: the released judge's output, RLAIF-V and TRL.

Fields: heliossun/STLLaVA-Med (`eval_gpt4v_review.py`), openbmb/RLAIF-V-Dataset (its card), TRL
(documentation of DPOTrainer).
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

from stllava.exchange.pair import (
    Pair,
    id_of,
    messages_of,
    number_of,
    one_turn,
    only_image,
    text_of,
)
from stllava.records import JSONObject
from stllava.sources.store import UnusableError


def parse_judge_output(row: JSONObject, count: Counter[str]) -> Pair:
    """What the released judging script writes: question, image, preferred, rejected."""
    return Pair(only_image(row, "img"), text_of(row, "q"), text_of(row, "p"), text_of(row, "r"))


def build_judge_output(pair: Pair) -> JSONObject:
    return {"q": pair.question, "img": pair.image, "p": pair.chosen, "r": pair.rejected}


def parse_rlaif_v(row: JSONObject, count: Counter[str]) -> Pair:
    """`image` embeds the bytes in the published files; `image_path` names the file."""
    meta = _meta(row.get("origin_split"))
    origin = row.get("origin_dataset")
    labeller = meta.get("labeling_model")
    source = labeller if isinstance(labeller, str) else origin if isinstance(origin, str) else None
    return Pair(
        image=only_image(row, "image", "image_path"),
        question=text_of(row, "question"),
        chosen=text_of(row, "chosen"),
        rejected=text_of(row, "rejected"),
        id=id_of(row, "idx", "rlaif-v"),
        weight=number_of(meta, "weight", 1.0),
        margin=number_of(meta, "margin", 0.0),
        source=source or None,
        edited=meta.get("edited") is True,
    )


def _meta(text: object) -> JSONObject:
    """`origin_split` is a JSON object in a text, or a text."""
    try:
        value = json.loads(text) if isinstance(text, str) else None
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}


def build_rlaif_v(pair: Pair) -> JSONObject:
    """`origin_split` is their place for what is known of an item beside its texts."""
    meta = {
        "labeling_model": pair.source,
        "weight": pair.weight,
        "margin": pair.margin,
        "edited": pair.edited,
    }
    return {
        "ds_name": "stllava",
        "image": pair.image,
        "question": pair.question,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "origin_dataset": "stllava",
        "origin_split": json.dumps(meta, ensure_ascii=False, allow_nan=False),
        "idx": pair.id,
        "image_path": pair.image,
    }


def parse_trl(row: JSONObject, count: Counter[str]) -> Pair:
    """Conversational or plain; with a prompt, or with the question repeated in both answers."""
    chosen, rejected = row.get("chosen"), row.get("rejected")
    prompt = row.get("prompt")
    if prompt is None and isinstance(chosen, list) and isinstance(rejected, list):
        if chosen[:-1] != rejected[:-1]:
            raise UnusableError("chosen and rejected answer different questions")
        prompt, chosen, rejected = chosen[:-1], chosen[-1:], rejected[-1:]
    asked = _plain(prompt, "user", "prompt", count)
    question, better = one_turn([*asked, *_plain(chosen, "assistant", "chosen", count)], "chosen")
    _, worse = one_turn([*asked, *_plain(rejected, "assistant", "rejected", count)], "rejected")
    return Pair(
        image=only_image(row, "images", "image"),
        question=question,
        chosen=better,
        rejected=worse,
        id=id_of(row, "id", "trl"),
    )


def _plain(value: object, role: str, what: str, count: Counter[str]) -> list[tuple[str, str]]:
    return [(role, value)] if isinstance(value, str) else messages_of(value, what, count)


def build_trl(pair: Pair) -> JSONObject:
    asked = [{"type": "image"}, {"type": "text", "text": pair.question}]
    return {
        "id": pair.id,
        "images": [pair.image],
        "prompt": [{"role": "user", "content": asked}],
        "chosen": _said(pair.chosen),
        "rejected": _said(pair.rejected),
    }


def _said(text: str) -> list[dict[str, Any]]:
    return [{"role": "assistant", "content": [{"type": "text", "text": text}]}]

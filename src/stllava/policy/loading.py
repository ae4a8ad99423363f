"""A checkpoint folder as a policy: ours, or any vision-language model that transformers can load.

Our own folders carry a card (stllava.json) that says how conversations are written. Of others the
format is read off the chat template, the image's layout off the processor and the model itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage
from transformers import AutoImageProcessor, AutoModelForImageTextToText, AutoTokenizer

from stllava.chat import FORMATS, IMAGE, V1, ChatFormat
from stllava.errors import PolicyError
from stllava.policy.families import Family, family_of
from stllava.policy.policy import CARD, Policy
from stllava.policy.published.asker import add_asker_token
from stllava.policy.published.layout import recognise
from stllava.policy.template import Message, format_from_template
from stllava.tree import rules_of

log = logging.getLogger(__name__)

UNSUPPORTED = {"paligemma": "its attention sees the whole prompt both ways"}


def load_policy(
    path: str | Path,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    image_side: int | None = None,
) -> Policy:
    """Load a checkpoint folder. `image_side`: pixels, for families that take any size.

    Raises PolicyError if the folder is missing, not such a checkpoint, or its way of writing
    conversations cannot be told.
    """
    path = Path(path)
    if foreign := recognise(path):
        raise PolicyError(foreign.remedy)
    if not (path / "config.json").is_file():
        raise PolicyError(f"{path}: no config.json; give the folder of a saved checkpoint")
    card = _read_card(path)
    model, tokenizer, processor = _load_parts(path, dtype)
    if reason := UNSUPPORTED.get(model.config.model_type):
        raise PolicyError(f"{path}: {model.config.model_type} is not supported: {reason}")
    family = family_of(model)
    if family.inferred:
        kind = model.config.model_type
        log.warning("%s: family %s is not listed; inferred: %s", path, kind, family)
    form = _format_of(card, tokenizer, path, family)
    policy = Policy(
        model.to(device).eval(), tokenizer, processor, form, card or {}, rules_of(model.config)
    )
    policy.image_side = image_side or (card or {}).get("image_side") or family.image_side
    policy.image_text, policy.num_image_tokens = image_layout(policy)
    if card is None and form.asked_by == "token":
        add_asker_token(policy)
    return policy


def _load_parts(path: Path, dtype: str) -> tuple[Any, Any, Any]:
    try:
        model = AutoModelForImageTextToText.from_pretrained(
            path, dtype=getattr(torch, dtype), use_safetensors=True, local_files_only=True
        )
        tokenizer = AutoTokenizer.from_pretrained(path, local_files_only=True)
        processor = AutoImageProcessor.from_pretrained(path, backend="pil", local_files_only=True)
    except (OSError, ValueError, RuntimeError) as error:
        first_line = str(error).strip().splitlines()[0]
        raise PolicyError(f"{path}: cannot be loaded as a policy: {first_line}") from error
    return model, tokenizer, processor


def _read_card(path: Path) -> dict[str, Any] | None:
    file = path / CARD
    if not file.is_file():
        return None
    card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if card.get("chat_format") not in FORMATS and "chat" not in card:
        known = ", ".join(sorted(FORMATS))
        raise PolicyError(f"{file}: chat_format {card.get('chat_format')!r} is not one of {known}")
    return card


def _format_of(
    card: dict[str, Any] | None, tokenizer: Any, path: Path, family: Family
) -> ChatFormat:
    if card is not None:
        return ChatFormat(**card["chat"]) if "chat" in card else FORMATS[card["chat_format"]]
    if not tokenizer.chat_template:
        file = path / "chat_template.jinja"
        raise PolicyError(
            f"{path}: no chat template and no {CARD}, so how a conversation is written is not "
            f"known; put the model's template into {file.name}"
        )

    def render(messages: Sequence[Message], open_answer: bool) -> str:
        text: str = tokenizer.apply_chat_template(
            list(messages), tokenize=False, add_generation_prompt=open_answer
        )
        return text

    try:
        return format_from_template(
            render,
            specials=tokenizer.all_special_tokens,
            image=family.template_image,
            where=str(path),
        )
    except PolicyError:
        # llava-hf's template of LLaVA 1.5 closes answers with a blank; the model learned `</s>`.
        if family_is_vicuna(tokenizer):
            return V1
        raise


def family_is_vicuna(tokenizer: Any) -> bool:
    """Whether the template writes `USER:` and `ASSISTANT:` and the tokenizer closes with `</s>`."""
    template = str(tokenizer.chat_template)
    return "ASSISTANT:" in template and tokenizer.eos_token == V1.end


@torch.no_grad()
def image_layout(policy: Policy) -> tuple[str, int]:
    """What an image is in a text, and how many tokens the model puts there.

    Counted by the model itself on a blank picture: every picture is padded to a square and brought
    to one size, so all take as many.
    """
    core, family = policy.core, family_of(policy.core)
    if core.config.model_type in ("llava", "sqllava"):
        return IMAGE, int(core.config.image_seq_length)
    side = policy.image_side or 64
    found = policy.processed([PILImage.new("RGB", (side, side))])
    text = family.image_text
    if family.crops:
        token = policy.tokenizer.convert_ids_to_tokens(core.config.image_token_id)
        text = _crops_text(token, int(found["rows"][0][0]), int(found["cols"][0][0]))
    vision = policy.asked_for(found)
    features = core.get_image_features(
        **{name: value.to(policy.device) for name, value in vision.items()}
    ).pooler_output
    parts = features if isinstance(features, (list, tuple)) else [features]
    return text, sum(part.reshape(-1, part.shape[-1]).shape[0] for part in parts)


def _crops_text(token: str, rows: int, columns: int) -> str:
    """Crops with their place, line by line, and the whole picture after an empty line."""
    fake, whole = "<fake_token_around_image>", f"<global-img>{token}"
    if not rows:
        return f"{fake}{whole}{fake}"
    lines = [
        "".join(f"{fake}<row_{r + 1}_col_{c + 1}>{token}" for c in range(columns)) + "\n"
        for r in range(rows)
    ]
    return "".join(lines) + f"\n{fake}{whole}{fake}"

"""A checkpoint folder as a policy: ours, or any vision-language model that transformers can load.

Our own folders carry a card (stllava.json) that says how conversations are written. Of others the
format is read off the chat template, the image's layout off the processor and the model itself.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image as PILImage

from stllava.errors import PolicyError
from stllava.formats import FORMATS, IMAGE, V1, ChatFormat
from stllava.policy.families import Family, family_of
from stllava.policy.parts import load_parts
from stllava.policy.policy import CARD, Policy
from stllava.policy.published.asker import add_asker_token
from stllava.policy.published.layout import read_config, recognise
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
    foreign = recognise(path)
    if foreign and foreign.kind != "hf":
        raise PolicyError(foreign.remedy)
    if not (path / "config.json").is_file():
        raise PolicyError(f"{path}: no config.json; give the folder of a saved checkpoint")
    kind = str(read_config(path).get("model_type"))
    if reason := UNSUPPORTED.get(kind):
        raise PolicyError(f"{path}: {kind} is not supported: {reason}")
    card = _read_card(path)
    model, tokenizer, processor = load_parts(path, dtype)
    tokenizer.chat_template = _template(path) or tokenizer.chat_template
    family = family_of(model)
    if family.inferred:  # its chat template is taken to write the image token itself
        token = tokenizer.convert_ids_to_tokens(model.config.image_token_id)
        family = replace(family, template_image=token, image_text=token)
        log.warning("%s: family %s is not listed; inferred: %s", path, kind, family)
    form = _format_of(card, tokenizer, path, family)
    policy = Policy(
        model.to(device).eval(), tokenizer, processor, form, card or {}, rules_of(model.config)
    )
    policy.image_side = image_side or (card or {}).get("image_side") or family.image_side
    policy.image_text, policy.num_image_tokens = image_layout(policy, family)
    if card is None and form.asked_by == "token":
        add_asker_token(policy)
    return policy


def _read_card(path: Path) -> dict[str, Any] | None:
    file = path / CARD
    if not file.is_file():
        return None
    card: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    if card.get("chat_format") not in FORMATS and "chat" not in card:
        known = ", ".join(sorted(FORMATS))
        raise PolicyError(f"{file}: chat_format {card.get('chat_format')!r} is not one of {known}")
    return card


def _template(path: Path) -> str | None:
    """The processor's, where it has its own: the tokenizer's may not know images."""
    if (path / "chat_template.jinja").is_file():
        return None  # the tokenizer has read it
    files = ("chat_template.json", "processor_config.json")
    found = (read_config(path, name).get("chat_template") for name in files)
    return next((str(template) for template in found if template), None)


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

    added = tokenizer.added_tokens_decoder.values()
    specials = [*tokenizer.all_special_tokens, *(t.content for t in added if t.special)]
    try:
        form = format_from_template(
            render, specials=specials, image=family.template_image, where=str(path)
        )
    except PolicyError:
        # llava-hf's template of LLaVA 1.5 closes answers with a blank; the model learned `</s>`.
        if _is_vicuna(tokenizer):
            return V1
        raise
    return _begun(form, tokenizer)


def _begun(form: ChatFormat, tokenizer: Any) -> ChatFormat:
    """With the token that the tokenizer puts before every text, if the template does not."""
    begin = tokenizer.bos_token
    adds = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    if not (begin and adds) or form.system.startswith(begin):
        return form
    return replace(form, system=begin + form.system)


def _is_vicuna(tokenizer: Any) -> bool:
    """Whether the template writes `USER:` and `ASSISTANT:` and the tokenizer closes with `</s>`."""
    template = str(tokenizer.chat_template)
    return "ASSISTANT:" in template and tokenizer.eos_token == V1.end


@torch.no_grad()
def image_layout(policy: Policy, family: Family) -> tuple[str, int]:
    """What an image is in a text, and how many tokens the model puts there.

    Counted by the model itself on a blank picture: every picture is padded to a square and brought
    to one size, so all take as many.
    """
    core = policy.core
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

"""How checkpoints write a conversation: roles, image, ends. A name stands for one way to write."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Literal

from stllava.errors import RecipeError

Asker = Literal["auto", "token", "text"]

IMAGE = "<image>"
VUSR = "<vusr>"  # the asker's role as one token; the text role of published files is `VUSER:`
SPECIAL = re.compile(r"<[^<>\s]+>")  # what special tokens look like


@dataclass(frozen=True)
class ChatFormat:
    """How one checkpoint writes a conversation. Text of the roles is never learned, `end` is."""

    name: str
    system: str  # everything before the first turn
    user: str  # opens a question that somebody asks
    asker: str  # opens a question that the policy asks itself: the <vusr> role
    assistant: str  # opens an answer
    end: str  # closes what the policy says
    image_first: bool = False  # image before the first role, not inside the first question
    gap: str = ""  # between what the policy says and `end`; learned with them
    between: str = ""  # after `end`, before the next turn
    image: str = f" {IMAGE}\n"  # opens the first question, in place of `blank`
    blank: str = " "  # between a role and what it says; learned with what the policy says
    lead: str | None = None  # a question's, where it is another than an answer's `blank`
    apart: bool = False  # text before and after <s> and the image tokenized apart, as LLaVA does

    @property
    def control(self) -> tuple[str, ...]:
        """Tokens of this format that no text may spell, such as `</s>` and `<vusr>`."""
        roles = self.system + self.user + self.asker + self.assistant + self.end
        return tuple(dict.fromkeys(SPECIAL.findall(roles)))

    @property
    def before_question(self) -> str:
        """What stands between a role and the question, if no image does."""
        return self.blank if self.lead is None else self.lead

    @property
    def asked_by(self) -> Literal["token", "text"]:
        """Whether the asker's role is the added token or plain text."""
        return "token" if VUSR in self.asker else "text"


# The format of checkpoints made by this project. The image stands first, so that everything asked
# about it, in whichever role, shares the same beginning.
STLLAVA = ChatFormat(
    name="stllava",
    system="",
    user="USER:",
    asker=VUSR,
    assistant=" ASSISTANT:",
    end="</s>",
    image_first=True,
)

# Vicuna as LLaVA 1.5 writes it. https://github.com/haotian-liu/LLaVA, llava/conversation.py,
# `vicuna_v1`. It has no third role, so the asker is a user whose turn <vusr> opens.
_VICUNA = (
    "<s>A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
V1 = ChatFormat(
    name="v1",
    system=f"{_VICUNA} ",
    user="USER:",
    asker=f"USER: {VUSR}",
    assistant=" ASSISTANT:",
    end="</s>",
    apart=True,
)

# SQ-LLaVA and STLLaVA-Med. https://github.com/heliossun/STLLaVA-Med, llava/conversation.py,
# `v1_sq`. The blank missing before "Also" is missing there, too.
V1_SQ = ChatFormat(
    name="v1_sq",
    system=f"{_VICUNA}"
    "Also, the artificial intelligence assistant is a curious virtual user. "
    "The virtual user asks complex questions that are relevant to the content in the image, "
    "for example, asking about background knowledge of the objects in the image, "
    "asking to discuss about events happening in the image, etc. "
    "Again, do not ask about uncertain details. ",
    user="USER:",
    asker="VUSER:",
    assistant=" ASSISTANT:",
    end="</s>",
    apart=True,
)
V1_SQ_TOKEN = replace(V1_SQ, name="v1_sq_token", asker=f"USER: {VUSR}")

# LLaVA-Med 1.5. https://github.com/microsoft/LLaVA-Med, llava/conversation.py,
# `mistral_instruct`: a blank on both sides of an answer, no system text.
MISTRAL = ChatFormat(
    name="mistral_instruct",
    system="<s>",
    user="[INST]",
    asker=f"[INST] {VUSR}",
    assistant=" [/INST]",
    end="</s>",
    gap=" ",
    apart=True,
)

# A name stands for one way to write, the asker's role included, so a card needs no more.
FORMATS = {form.name: form for form in (STLLAVA, V1, V1_SQ, V1_SQ_TOKEN, MISTRAL)}


def with_asker(form: ChatFormat, asker: Asker) -> ChatFormat:
    """The format in which the asker speaks as asked; "auto" is as the format has it.

    Raises RecipeError if there is no such format: only the Vicuna ones know a text role.
    """
    if asker in ("auto", form.asked_by):
        return form
    twin = {V1.name: V1_SQ, V1_SQ.name: V1_SQ_TOKEN, V1_SQ_TOKEN.name: V1_SQ}.get(form.name)
    if twin is None:
        raise RecipeError(f"model.asker: {asker}: chat format {form.name} has no text role for it")
    return twin

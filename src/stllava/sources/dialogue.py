"""Messages of a conversation become turns: roles, image marks, template markup.

What chat templates leave behind in texts ("[INST] ... [/INST]", "<|im_end|>", a leading
"ASSISTANT:") is taken off and counted; anything that could be the author's own words stays.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from stllava.records import Turn
from stllava.sources.store import UnusableError

IMAGE_MARK = "<image>"
QUESTION_ROLES = frozenset({"human", "user", "vuser"})
ANSWER_ROLES = frozenset({"gpt", "assistant"})
MARKUP = re.compile(  # at either end of a text
    r"\A(?:\s*(?:<s>|\[INST\]|<<SYS>>.*?<</SYS>>|"
    r"<\|im_start\|>(?:user|assistant)\b|<start_of_turn>(?:user|model)\b|<\|begin_of_text\|>|"
    r"<\|start_header_id\|>(?:user|assistant)<\|end_header_id\|>))+\s*"
    r"|\s*(?:(?:</s>|\[/INST\]|<\|im_end\|>|<end_of_turn>|<\|eot_id\|>|<\|endoftext\|>)\s*)+\Z",
    re.DOTALL,
)
QUESTION_LABEL = re.compile(r"\A(?:###\s*(?:Human|User):|(?:USER|HUMAN|VUSER):)\s*")
ANSWER_LABEL = re.compile(r"\A(?:###\s*(?:Assistant|GPT):|(?:ASSISTANT|GPT):)\s*")


def turns_of(messages: Sequence[tuple[str, str]], repairs: Counter[str]) -> tuple[Turn, ...]:
    """Turns of (role, text) messages that ask and answer in alternation; system ones are left out.

    Raises UnusableError that names the message.
    """
    num_system = sum(role == "system" for role, _ in messages)
    repairs["system message left out"] += num_system
    messages = [message for message in messages if message[0] != "system"]
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
        text = _plain(text, is_answer=bool(index % 2), repairs=repairs)
        if not text:
            raise UnusableError(f"message {index}: empty")
        if index % 2:
            turns[-1] = Turn(question=turns[-1].question, answer=text)
        else:
            turns.append(Turn(question=text))
    return tuple(turns)


def _plain(text: str, *, is_answer: bool, repairs: Counter[str]) -> str:
    text = text.replace(IMAGE_MARK, "").strip()
    label = ANSWER_LABEL if is_answer else QUESTION_LABEL
    plain = label.sub("", MARKUP.sub("", text)).strip()
    repairs["template markup taken off"] += plain != text
    return plain

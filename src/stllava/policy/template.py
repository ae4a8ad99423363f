"""A ChatFormat read off a tokenizer's chat template, by rendering it and looking at the result.

Only templates that write a conversation as `system, (user, question, assistant, answer, end)*` can
be expressed; the rendering is repeated by our own rules and compared, so that nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import takewhile
from typing import Any

from stllava.errors import PolicyError
from stllava.formats import IMAGE, VUSR, ChatFormat

Message = dict[str, Any]
Render = Callable[[Sequence[Message], bool], str]  # messages, whether to open the answer
FIRST, SECOND = ("Question-One", "Answer-One"), ("Question-Two", "Answer-Two")


def format_from_template(
    render: Render, *, specials: Sequence[str], image: str, where: str
) -> ChatFormat:
    """The format that a chat template writes.

    `render` applies the template; `specials` are the tokenizer's special tokens, one of which must
    close an answer; `image` is what the template writes for an image. Raises PolicyError, in one
    line, if the template cannot be expressed.
    """
    try:
        bare = render([_user(FIRST[0])], False)
        with_image = render([_user(FIRST[0], image=True)], False)
        whole = render(_dialogue(), False)
        opened = render([_user(FIRST[0])], True)
    except Exception as error:  # a template may raise anything
        raise PolicyError(f"{where}: its chat template fails: {error}") from error
    before, answered = bare.partition(FIRST[0])[0], _inside(whole, FIRST[0], FIRST[1])
    after = _inside(whole, FIRST[1], SECOND[0])  # end, and the next question
    assistant = opened.partition(FIRST[0])[2]
    if answered.split() == assistant.split() and not answered.startswith(assistant):
        # llava-hf's OneVision: `assistant \n` before a given answer, `assistant\n` before a new one
        whole, answered = whole.replace(answered, assistant), assistant
    end = next((token for token in specials if token and after.startswith(token)), "")
    if not end:
        raise PolicyError(
            f"{where}: its chat template closes an answer with {after[:20]!r} instead of a special "
            "token; such a policy would never learn to stop; correct the template"
        )
    image_before = with_image.partition(FIRST[0])[0]
    start = _common_start(before, image_before)
    lead = before[len(start) :]
    turn = after[len(end) :].removesuffix(lead)
    user = _common_end(start, turn)
    form = ChatFormat(
        name="template",
        system=start.removesuffix(user),
        user=user,
        asker=user + VUSR,
        assistant=assistant,
        end=end,
        between=turn.removesuffix(user),
        image=image_before[len(start) :].replace(image, IMAGE),
        blank=answered.removeprefix(assistant),
        lead=lead,
    )
    same = written(form) == whole.partition(SECOND[1])[0]
    if not (same and assistant and form.image.count(IMAGE) == 1):
        raise PolicyError(f"{where}: its chat template cannot be expressed as a chat format")
    return form


def written(form: ChatFormat) -> str:
    """The two sentinel turns as the format writes them, up to the second answer."""
    ask, answer = form.user + form.before_question, form.assistant + form.blank
    return (
        f"{form.system}{ask}{FIRST[0]}{answer}{FIRST[1]}{form.end}"
        f"{form.between}{ask}{SECOND[0]}{answer}"
    )


def _inside(text: str, left: str, right: str) -> str:
    return text.partition(left)[2].partition(right)[0]


def _common_end(one: str, other: str) -> str:
    return _common_start(one[::-1], other[::-1])[::-1]


def _common_start(one: str, other: str) -> str:
    same = takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False))
    return "".join(a for a, _ in same)


def _user(text: str, *, image: bool = False) -> Message:
    picture = [{"type": "image"}] if image else []
    return {"role": "user", "content": [*picture, {"type": "text", "text": text}]}


def _dialogue() -> list[Message]:
    said = [
        {"role": "assistant", "content": [{"type": "text", "text": answer}]}
        for answer in (FIRST[1], SECOND[1])
    ]
    return [_user(FIRST[0]), said[0], _user(SECOND[0]), said[1]]

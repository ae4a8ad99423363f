"""From a conversation to token ids, and which of them are learned (the one sequence seam).

A conversation becomes text with *learned spans*; the text is tokenised once, with offsets, exactly
as at inference; a token carries loss iff it overlaps a learned span. Ids that a policy sampled are
spliced in as they are and labelled whole: re-tokenised text could differ from what was sampled.
Knows no tokenizer: `encode(text) -> (ids, offsets)` is handed in.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from stllava.errors import DataError
from stllava.records import Turn

Offsets = Sequence[tuple[int, int]]
Encode = Callable[[str], tuple[Sequence[int], Offsets]]
Speaker = Literal["assistant", "asker"]

IMAGE = "<image>"
NOT_LEARNED, QUESTION, ANSWER = 0, 1, 2  # codes of `Tokens.learned`: L_vq and L_qa of the paper


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


# The format of checkpoints made by this project. The image stands first, so that everything asked
# about it, in whichever role, shares the same beginning.
STLLAVA = ChatFormat(
    name="stllava",
    system="",
    user="USER:",
    asker="<vusr>",
    assistant=" ASSISTANT:",
    end="</s>",
    image_first=True,
)

FORMATS = {STLLAVA.name: STLLAVA}


class Tokens(NamedTuple):
    """Token ids and, for each, NOT_LEARNED, QUESTION or ANSWER."""

    ids: list[int]
    learned: list[int]


class _Piece(NamedTuple):
    """Text, or ids in place of it, that is learned as a whole or not at all."""

    text: str
    learned: int = NOT_LEARNED
    ids: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Chat:
    """A chat format bound to a tokenizer and to the number of tokens an image takes."""

    format: ChatFormat
    encode: Encode
    image_token_id: int
    num_image_tokens: int

    def training(self, turns: Sequence[Turn], asked: Sequence[bool]) -> Tokens:
        """Whole conversation. `asked[j]`: question j is the asker's, hence learned (L_vq)."""
        pieces = [_Piece(self._opening())]
        for j, (turn, by_asker) in enumerate(zip(turns, asked, strict=True)):
            pieces += self._question(turn, first=j == 0, by_asker=by_asker)
            pieces.append(_Piece(self.format.assistant))
            pieces += self._spoken(turn.answer or "", turn.answer_ids, ANSWER)
        return self._tokens(pieces)

    def prompt(self, turns: Sequence[Turn], speaker: Speaker) -> Tokens:
        """What stands before the policy speaks: as assistant the last turn's answer is open."""
        pieces = [_Piece(self._opening())]
        for j, turn in enumerate(turns):
            pieces += self._question(turn, first=j == 0, by_asker=False)
            pieces.append(_Piece(self.format.assistant))
            if speaker == "asker" or j + 1 < len(turns):
                pieces += self._spoken(turn.answer or "", turn.answer_ids, NOT_LEARNED)
        if speaker == "asker":
            pieces.append(_Piece(self.format.asker + self._image_in_turn(first=not turns)))
        return self._tokens(pieces)

    def _opening(self) -> str:
        return self.format.system + (f"{IMAGE}\n" if self.format.image_first else "")

    def _image_in_turn(self, *, first: bool) -> str:
        return f" {IMAGE}\n" if first and not self.format.image_first else ""

    def _question(self, turn: Turn, *, first: bool, by_asker: bool) -> list[_Piece]:
        image = self._image_in_turn(first=first)
        if by_asker:
            spoken = self._spoken(turn.question, turn.question_ids, QUESTION, glue=not image)
            return [_Piece(self.format.asker + image), *spoken]
        return [_Piece(self.format.user + (image or " ") + self._clean(turn.question))]

    def _spoken(
        self, text: str, ids: tuple[int, ...] | None, learned: int, *, glue: bool = True
    ) -> list[_Piece]:
        if ids is not None:
            return [_Piece("", learned, ids)]
        # The blank is the speaker's: prompts end before it, and not every token swallows it.
        return [_Piece((" " if glue else "") + self._clean(text) + self.format.end, learned)]

    def _clean(self, text: str) -> str:
        """Text without the format's own control tokens: data must not open or close a turn."""
        control = [IMAGE, self.format.end, self.format.asker]
        for token in (token for token in control if token.startswith("<")):
            text = text.replace(token, " ")
        return text.strip()

    def _tokens(self, pieces: Sequence[_Piece]) -> Tokens:
        ids: list[int] = []
        learned: list[int] = []
        run: list[_Piece] = []
        for piece in [*pieces, _Piece("", NOT_LEARNED, ())]:
            if piece.ids is None:
                run.append(piece)
                continue
            for token, code in self._encode_run(run):
                ids.append(token)
                learned.append(code)
            run = []
            ids += piece.ids
            learned += [piece.learned] * len(piece.ids)
        return self._expand_image(ids, learned)

    def _encode_run(self, run: Sequence[_Piece]) -> list[tuple[int, int]]:
        """Tokenise adjoining text pieces as one text; mark tokens that overlap a learned one."""
        text = "".join(piece.text for piece in run)
        codes = [piece.learned for piece in run for _ in piece.text]
        ids, offsets = self.encode(text)
        return [
            (token, max(codes[start:end], default=NOT_LEARNED))
            for token, (start, end) in zip(ids, offsets, strict=True)
        ]

    def _expand_image(self, ids: list[int], learned: list[int]) -> Tokens:
        if ids.count(self.image_token_id) != 1:
            raise DataError(f"a conversation must hold exactly one {IMAGE}, at its beginning")
        at, n = ids.index(self.image_token_id), self.num_image_tokens
        return Tokens(
            ids[:at] + [self.image_token_id] * n + ids[at + 1 :],
            learned[:at] + [NOT_LEARNED] * n + learned[at + 1 :],
        )

"""From a conversation to token ids, and which of them are learned (the one sequence seam).

A conversation becomes text with *learned spans*; the text is tokenised once, with offsets, exactly
as at inference; a token carries loss iff it overlaps a learned span. Ids that a policy sampled are
spliced in as they are and labelled whole: re-tokenised text could differ from what was sampled.
Knows no tokenizer: `encode(text) -> (ids, offsets)` is handed in.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from stllava.errors import DataError
from stllava.formats import IMAGE, SPECIAL, ChatFormat
from stllava.records import Turn

Offsets = Sequence[tuple[int, int]]
Encode = Callable[[str], tuple[Sequence[int], Offsets]]
Speaker = Literal["assistant", "asker"]

NOT_LEARNED, QUESTION, ANSWER = 0, 1, 2  # codes of `Tokens.learned`: L_vq and L_qa of the paper


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
    image_text: str = IMAGE  # what stands for `<image>`: one placeholder, or several equal runs

    def training(self, turns: Sequence[Turn], asked: Sequence[bool]) -> Tokens:
        """Whole conversation. `asked[j]`: question j is the asker's, hence learned (L_vq)."""
        pieces = [_Piece(self._opening())]
        for j, (turn, by_asker) in enumerate(zip(turns, asked, strict=True)):
            pieces += self._between(j)
            pieces += self._question(turn, first=j == 0, by_asker=by_asker)
            # What the asker says is closed already, where the format closes every question.
            opening = self.format.assistant.removeprefix(self.format.end if by_asker else "")
            pieces.append(_Piece(opening))
            pieces += self._spoken(turn.answer or "", turn.answer_ids, ANSWER)
        return self._tokens(pieces)

    def prompt(self, turns: Sequence[Turn], speaker: Speaker) -> Tokens:
        """What stands before the policy speaks: as assistant the last turn's answer is open."""
        pieces = [_Piece(self._opening())]
        for j, turn in enumerate(turns):
            pieces += self._between(j)
            pieces += self._question(turn, first=j == 0, by_asker=False)
            pieces.append(_Piece(self.format.assistant))
            if speaker == "asker" or j + 1 < len(turns):
                pieces += self._spoken(turn.answer or "", turn.answer_ids, NOT_LEARNED)
        if speaker == "asker":
            pieces += self._between(len(turns))
            pieces.append(_Piece(self.format.asker + self._image_in_turn(first=not turns)))
        return self._tokens(pieces)

    def _between(self, turn: int) -> list[_Piece]:
        return [_Piece(self.format.between)] if turn and self.format.between else []

    def _opening(self) -> str:
        return self.format.system + (f"{self.image_text}\n" if self.format.image_first else "")

    def _image_in_turn(self, *, first: bool) -> str:
        if not first or self.format.image_first:
            return ""
        return self.format.image.replace(IMAGE, self.image_text)

    def _question(self, turn: Turn, *, first: bool, by_asker: bool) -> list[_Piece]:
        image = self._image_in_turn(first=first)
        if by_asker:
            before = "" if image else self.format.before_question
            spoken = self._spoken(turn.question, turn.question_ids, QUESTION, before)
            return [_Piece(self.format.asker + image), *spoken]
        before = image or self.format.before_question
        return [_Piece(self.format.user + before + self._clean(turn.question))]

    def _spoken(
        self, text: str, ids: tuple[int, ...] | None, learned: int, before: str | None = None
    ) -> list[_Piece]:
        if ids is not None:
            return [_Piece("", learned, ids)]
        # The blank is the speaker's: prompts end before it, and not every token swallows it.
        before = self.format.blank if before is None else before
        said = before + self._clean(text) + self.format.gap + self.format.end
        return [_Piece(said, learned)]

    def _clean(self, text: str) -> str:
        """Text without the format's own control tokens: data must not open or close a turn."""
        for token in (IMAGE, *SPECIAL.findall(self.image_text), *self.format.control):
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
            for token, code in self._encode_run(run, after=self.format.end if ids else ""):
                ids.append(token)
                learned.append(code)
            run = []
            ids += piece.ids
            learned += [piece.learned] * len(piece.ids)
        return self._expand_image(ids, learned)

    def _encode_run(self, run: Sequence[_Piece], after: str) -> Iterator[tuple[int, int]]:
        """Tokenise adjoining text pieces as one text; mark tokens that overlap a learned one.

        `after` is the token that closed the ids before the run. It is tokenised with the run and
        dropped: some tokenizers write a text's first word otherwise than one that follows `</s>`.
        """
        text = after + "".join(piece.text for piece in run)
        codes = [NOT_LEARNED] * len(after) + [p.learned for p in run for _ in p.text]
        for begin, part in self._parts(text):
            for token, (start, end) in zip(*self.encode(part), strict=True):
                if begin + end > len(after):
                    yield token, max(codes[begin + start : begin + end], default=NOT_LEARNED)

    def _parts(self, text: str) -> list[tuple[int, str]]:
        """What is tokenised as one text, with where it begins."""
        if not self.format.apart:
            return [(0, text)]
        # haotian-liu/LLaVA, `tokenizer_image_token`: each side of an image is a text of its own
        found = re.finditer(rf"<s>|{IMAGE}|(?:(?!<s>|{IMAGE}).)+", text, re.DOTALL)
        return [(match.start(), match.group()) for match in found]

    def _expand_image(self, ids: list[int], learned: list[int]) -> Tokens:
        placeholders = self._placeholders
        if ids.count(self.image_token_id) != placeholders:
            raise DataError(f"a conversation must hold exactly one {IMAGE}, at its beginning")
        run = self.num_image_tokens // placeholders
        out = Tokens([], [])
        for token, code in zip(ids, learned, strict=True):
            times = run if token == self.image_token_id else 1
            out.ids.extend([token] * times)
            out.learned.extend([code] * times)
        return out

    @property
    def _placeholders(self) -> int:
        if self.image_text == IMAGE:
            return 1
        return max(1, list(self.encode(self.image_text)[0]).count(self.image_token_id))

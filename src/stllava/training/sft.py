"""Stage 1: learn to answer and to ask (L_qa and L_vq, section 2 of the paper).

One sum over the learned question and answer tokens divided by their number; both parts are logged.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from stllava.chat import ANSWER, QUESTION, Tokens
from stllava.config import SftSection
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer
from stllava.records import Conversation
from stllava.seeds import rng_for
from stllava.training.objective import Loss, MicroBatch, Objective, OpenImage


class SftObjective(Objective):
    """Conversations whose answers, and a share of whose questions, are learned.

    `group`: with "turns" a conversation is one text, later turns conditioned on earlier ones; with
    "records" each turn is a text of its own, a branch under the image.
    """

    def __init__(
        self,
        policy: Policy,
        conversations: Sequence[Conversation],
        open_image: OpenImage,
        settings: SftSection,
        seed: int,
        group: Literal["turns", "records"] = "turns",
    ) -> None:
        self.conversations = {c.id: c for c in conversations}
        super().__init__(policy, list(self.conversations), open_image, settings)
        self.settings = settings
        self.seed = seed
        self.group = group

    def image_of(self, record_id: str) -> str:
        return self.conversations[record_id].image

    def texts(self, record_id: str, epoch: int) -> list[Tokens]:
        """Which questions the asker asks is drawn per record and epoch from the record's seed."""
        turns = self.conversations[record_id].turns
        coins = rng_for("asker", self.seed, record_id, epoch).random(len(turns))
        asked = [bool(coin < self.settings.question_ratio) for coin in coins]
        if not self.settings.learn_first_question:
            asked[0] = False
        chat = self.policy.chat
        if self.group == "turns":
            return [chat.training(turns, asked)]
        return [chat.training([turn], [by]) for turn, by in zip(turns, asked, strict=True)]

    def loss(self, scorer: TokenScorer, micro: MicroBatch) -> Loss:
        nll_N = -scorer(micro.batch)
        sums = {}
        for name, code in (("loss/question", QUESTION), ("loss/answer", ANSWER)):
            part = nll_N.detach()[micro.batch.codes == code]
            sums[name] = (part.sum().item(), float(len(part)))
        return Loss(nll_N.sum(), sums)

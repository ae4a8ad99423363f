"""Stage 1: learn to answer and to ask (L_qa and L_vq, section 2 of the paper).

One sum over the learned question and answer tokens divided by their number; both parts are logged.
"""

from __future__ import annotations

from collections.abc import Sequence

from stllava.chat import ANSWER, QUESTION, Tokens
from stllava.config import SftSection
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer, make_batch
from stllava.records import Conversation
from stllava.training.objective import Loss, MicroBatch, OpenImage
from stllava.training.plan import rng_for


class SftObjective:
    """Conversations whose answers, and a share of whose questions, are learned."""

    def __init__(
        self,
        policy: Policy,
        conversations: Sequence[Conversation],
        open_image: OpenImage,
        settings: SftSection,
        seed: int,
    ) -> None:
        self.policy = policy
        self.open_image = open_image
        self.settings = settings
        self.seed = seed
        self.conversations = {c.id: c for c in conversations}
        self.ids = list(self.conversations)

    def collate(self, records: Sequence[tuple[str, int]]) -> MicroBatch:
        chosen = [self.conversations[record_id] for record_id, _ in records]
        sequences = [self.tokens(c, epoch) for c, (_, epoch) in zip(chosen, records, strict=True)]
        names = list(dict.fromkeys(c.image for c in chosen))
        pixels = self.policy.pixel_values([self.open_image(name) for name in names])
        batch, num_cut = make_batch(
            sequences, pixels, [names.index(c.image) for c in chosen], self.settings.max_tokens
        )
        ids = tuple(c.id for c in chosen)
        return MicroBatch(batch, ids, float(len(batch.rows)), {}, num_cut)

    def tokens(self, conversation: Conversation, epoch: int) -> Tokens:
        """Which questions the asker asks is drawn per record and epoch from the record's seed."""
        coins = rng_for("asker", self.seed, conversation.id, epoch).random(len(conversation.turns))
        asked = [bool(coin < self.settings.question_ratio) for coin in coins]
        if not self.settings.learn_first_question:
            asked[0] = False
        return self.policy.chat.training(conversation.turns, asked)

    def loss(self, scorer: TokenScorer, micro: MicroBatch) -> Loss:
        nll_N = -scorer(micro.batch)
        sums = {}
        for name, code in (("loss/question", QUESTION), ("loss/answer", ANSWER)):
            part = nll_N.detach()[micro.batch.codes == code]
            sums[name] = (part.sum().item(), float(len(part)))
        return Loss(nll_N.sum(), sums)

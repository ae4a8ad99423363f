"""The records that the stages exchange, one JSON object a line, joined by id and never by line.

Every record is frozen and refuses unknown fields. Images are never inside records: an `Image`
names a file, and only `stllava.images` opens it. Ids are readable and derived from one another:
image `p0012-1`, its question `p0012-1/q0`, that question's second draw `p0012-1/q0/d1`.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

SCHEMA = 1  # raise when a field changes meaning; plan.json of every stage carries it


class Record(BaseModel):
    """A frozen record; a misspelt or unknown field is an error, never silently dropped."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Image(Record):
    """One image file and what was done to it before a model sees it."""

    id: str
    path: str  # relative to the folder that `root` names
    sha256: str  # of the original file's bytes
    width: int  # pixels
    height: int  # pixels
    group: str  # patient or case: splits, intervals and leak checks go by it
    source: str  # where it came from: "vqa-rad", "folder", "phantom", ...
    mapping: str = "none"  # how stored values became 8-bit ones
    full_path: str | None = None  # 16-bit copy for review, if kept, in the run directory
    root: str = "data"  # key of `image_roots` in the settings of prepare/plan.json
    pixels_sha256: str = ""  # of the 8-bit RGB view: equal pictures in different files
    perceptual_hash: str = ""  # 64 bits in hex: near-duplicates differ in few of them


class Turn(Record):
    """One question and its answer. `*_ids` are the tokens a policy sampled, end token included."""

    question: str
    answer: str | None = None  # None: still to be answered
    question_ids: tuple[int, ...] | None = None
    answer_ids: tuple[int, ...] | None = None


class Conversation(Record):
    """Instruction data: several turns about one image (X_c and X_v in section 2 of the paper)."""

    id: str
    image: str
    turns: tuple[Turn, ...] = Field(min_length=1)


class Split(Record):
    """Which part of the data an image belongs to; a benchmark's own split is kept as it is."""

    image: str
    group: str
    split: Literal["train", "dev", "test"]


class Dropped(Record):
    """One item that did not go further, and why."""

    id: str
    stage: str
    reason: str


class Request(Record):
    """One thing a Generator is asked to say."""

    id: str
    image: str
    turns: tuple[Turn, ...]  # the last one may have answer None: that is what is asked for
    speaker: Literal["assistant", "asker"] = "assistant"
    num_draws: int = 1
    max_tokens: int = 64
    image_last: bool = False  # image after the text, as in the paper's Figure 3
    response: str | None = None  # form of the reply, where offered: a name in prompts.RESPONSES
    top_logprobs: int | None = None  # so many alternatives per token of the reply, where offered


class Usage(Record):
    """Tokens as the provider counted them."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0  # those of the prompt that were charged as cached


class Draw(Record):
    """One sampled text. `logprobs` are natural logs of the raw softmax, before temperature."""

    request_id: str
    index: int
    text: str
    token_ids: tuple[int, ...] | None = None  # end token included when finish is "stop"
    logprobs: tuple[float, ...] | None = None  # one per token id
    finish: Literal["stop", "length", "refused", "error"] = "stop"
    seed: int = 0
    usage: Usage | None = None
    model: str | None = None  # the model id the provider returned, where it returns one
    cost_usd: float | None = None  # where the price is known
    time: str = ""  # when the reply came, UTC, ISO 8601; "" where calls are not kept
    reason: Literal["", "transport", "budget", "rejected"] = ""  # why finish is "error"
    call: str = ""  # key of the ledger's call that it was read from
    # Per token of a short reply: what else could have been said, with natural logs
    alternatives: tuple[dict[str, float], ...] | None = None

    @property
    def id(self) -> str:
        return f"{self.request_id}/d{self.index}"


class Question(Record):
    """A question the policy asked about an image (X_q of stage 2)."""

    id: str
    image: str
    question: str
    asked_by: str
    question_ids: tuple[int, ...] | None = None


class Answers(Record):
    """All draws for one question, in index order."""

    id: str
    image: str
    question: str
    draws: tuple[Draw, ...]


VerdictState = Literal[
    "ok",
    "tie",
    "inconsistent",
    "refused",
    "filtered",
    "unparsed",
    "transport_failed",
    "budget_stopped",
    "skipped",
    "both_bad",
    "cannot_judge",
]


class Verdict(Record):
    """What one judge said about one ordered pair of draws."""

    id: str  # hash of the fields that identify it
    answers_id: str
    pair: tuple[int, int]  # indices into Answers.draws; order[0] was shown first
    order: tuple[int, int]
    view: Literal["image", "blank"] = "image"
    sample: int = 0  # repeat number of the same call
    judge: str
    winner: int | None = None  # index into Answers.draws; None unless state is "ok"
    scores: tuple[float, float] | None = None  # 1..10, in the order of `pair`
    state: VerdictState
    reason: str = ""  # why the state is not "ok", or what was odd about it, in our words
    reply: str = ""  # what the judge wrote, raw
    edited: str = ""  # a better answer that an expert wrote
    repair: str = ""  # what it wrote when asked once more for the form, raw
    rung: str = ""  # how the reply was read: json, line, logprobs, ...; repair:... after a repair
    faults: tuple[tuple[str, ...], tuple[str, ...]] | None = None  # tags, in the order of `pair`
    preference: float | None = None  # P(pair[0] is better), of a judge that ranks by probability
    rubric: str = ""  # what the judge was asked, by name
    rubric_version: int = 0
    model: str | None = None  # the model id that was asked for
    usage: Usage | None = None
    cost_usd: float | None = None
    model_returned: str | None = None
    time: str = ""  # UTC, ISO 8601

    @model_validator(mode="after")
    def _winner_iff_ok(self) -> Verdict:
        if (self.winner is not None) != (self.state == "ok"):
            raise ValueError("winner is set exactly when state is 'ok'")
        return self


class Preference(Record):
    """One training pair of stage 2: (X_v, X_q, X_aw, X_al)."""

    id: str
    answers_id: str
    image: str
    question: str
    chosen: Draw
    rejected: Draw
    margin: float  # difference of the judge's mean scores, 0..9
    weight: float = 1.0
    source: str  # judge or expert
    edited: bool = False  # chosen was rewritten by an expert


class ReviewItem(Record):
    """A pair of answers that a person should look at, and why."""

    id: str  # QUESTION/dI-dJ
    answers_id: str
    image: str
    question: str
    pair: tuple[int, int]  # indices into Answers.draws, the lower first
    answers: tuple[str, str]  # in the order of `pair`
    reason: Literal["tie", "inconsistent", "close", "unread", "blank"]
    state: VerdictState  # of the pair
    margin: float | None = None  # of the judge's mean scores; None where it has none


class VQASample(Record):
    """One benchmark question with its reference answer."""

    id: str
    image: str
    question: str
    answer: str
    kind: Literal["open", "closed"]
    options: tuple[str, ...] = ()
    answer_type: str = ""  # as annotated in the source
    split: str = "test"
    categories: dict[str, str] = {}
    aliases: tuple[str, ...] = ()  # other wordings of the question
    benchmark: str = ""  # in a run with several: the one it belongs to


class Prediction(Record):
    """A model's answer to a benchmark question."""

    id: str  # of the VQASample
    text: str
    finish: str = "stop"
    num_tokens: int | None = None


class Item(Record):
    """One scored benchmark question: what `compare` and every table are made from."""

    id: str
    image: str
    group: str
    kind: Literal["open", "closed"]
    categories: dict[str, str] = {}
    metrics: dict[str, float]  # per question, in percent where it is a share
    answer_words: int = 0
    verdict: str | None = None  # closed: yes, no, option, abstain, both
    missing: bool = False
    leaked: bool = False
    truncated: bool | None = None  # cut off by max_tokens; None where nobody says
    repetitive: bool = False  # the answer repeats itself


JSONObject = dict[str, Any]

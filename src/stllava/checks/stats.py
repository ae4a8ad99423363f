"""How much data there is, laid out as the paper's Table 1 and Table 3, and in more detail."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from stllava.checks.material import Material, Pictures
from stllava.checks.text import normal
from stllava.metrics.closed import is_yes_no
from stllava.records import Conversation, Record, VQASample

# Table 1 of the paper, for comparison.
PAPER_TABLE_1 = (
    ("LLaVA-Med, pre-training (paper)", 467_710, 467_710),
    ("LLaVA-Med, fine-tuning (paper)", 56_708, 164_231),
    ("STLLaVA-Med (paper)", 37_452, 108_545),
)


class Row(Record):
    """One source of instruction data, one benchmark part, or all of them together."""

    name: str
    images: int  # with questions or without
    qa_pairs: int  # answered turns, or benchmark questions
    conversations: int = 0
    most_turns: int = 0  # of one conversation
    question_words: int = 0
    answer_words: int = 0
    question_tokens: int | None = None  # of the policy's tokenizer; None: not counted
    answer_tokens: int | None = None
    open: int = 0
    closed: int = 0
    by_answer_text: int = 0  # of qa_pairs: not annotated, called closed iff answered yes or no

    @property
    def turns_per_conversation(self) -> float:
        return self.qa_pairs / self.conversations if self.conversations else 0.0


class Stats(Record):
    """Of one data set."""

    training: Row  # all sources together; an image in two of them counts once
    sources: tuple[Row, ...]
    benchmarks: tuple[Row, ...]  # by source and split


class _Kinds:
    """Open or closed: as annotated where that is known, else closed iff the answer is yes or no."""

    def __init__(self, annotated: Iterable[VQASample]) -> None:
        self.known = {(s.image, normal(s.question), normal(s.answer)): s.kind for s in annotated}

    def of(self, image: str, question: str, answer: str) -> tuple[str, bool]:
        kind = self.known.get((image, normal(question), normal(answer)))
        return kind or ("closed" if is_yes_no(answer) else "open"), kind is None


def stats(material: Material, count_tokens: Callable[[str], int] | None = None) -> Stats:
    """Count everything. `count_tokens(text)` is the policy's tokenizer, without special tokens."""
    pictures = Pictures(material.images)
    trained = _trained_images(material, pictures)
    kinds = _Kinds(material.annotated)
    names = {id_: image.source for id_, image in pictures.by_id.items()}
    sources = dict.fromkeys(names.get(image, "unknown") for image in trained)

    def row(name: str, images: set[str]) -> Row:
        told = [c for c in material.conversations if c.image in images]
        return _instruction_row(
            name, len({pictures.of(i) for i in images}), told, kinds, count_tokens
        )

    by_source = [
        row(source, {image for image in trained if names.get(image, "unknown") == source})
        for source in sources
    ]
    parts: dict[str, list[VQASample]] = {}
    for sample in material.samples:
        name = sample.benchmark or names.get(sample.image, "benchmark")
        parts.setdefault(f"{name} {sample.split}", []).append(sample)
    return Stats(
        training=row("all", set(trained)),
        sources=tuple(by_source),
        benchmarks=tuple(_benchmark_row(n, s, count_tokens) for n, s in parts.items()),
    )


def _trained_images(material: Material, pictures: Pictures) -> dict[str, None]:
    """Ids in order: images of the training part, and those that conversations name."""
    test_only = {sample.image for sample in material.samples}
    if material.splits:
        test_only = {split.image for split in material.splits if split.split != "train"}
    part = (image for image in pictures.by_id if image not in test_only)
    return dict.fromkeys([*part, *(c.image for c in material.conversations)])


def _instruction_row(
    name: str,
    num_images: int,
    conversations: Sequence[Conversation],
    kinds: _Kinds,
    count_tokens: Callable[[str], int] | None,
) -> Row:
    pairs = [
        (c.image, turn.question, turn.answer)
        for c in conversations
        for turn in c.turns
        if turn.answer is not None
    ]
    told = [kinds.of(*pair) for pair in pairs]
    num_closed = sum(kind == "closed" for kind, _ in told)
    return Row(
        name=name,
        images=num_images,
        qa_pairs=len(pairs),
        conversations=len(conversations),
        most_turns=max((len(c.turns) for c in conversations), default=0),
        open=len(pairs) - num_closed,
        closed=num_closed,
        by_answer_text=sum(guessed for _, guessed in told),
        **_sizes([(question, answer) for _, question, answer in pairs], count_tokens),
    )


def _benchmark_row(
    name: str, samples: Sequence[VQASample], count_tokens: Callable[[str], int] | None
) -> Row:
    return Row(
        name=name,
        images=len({sample.image for sample in samples}),
        qa_pairs=len(samples),
        open=sum(sample.kind == "open" for sample in samples),
        closed=sum(sample.kind == "closed" for sample in samples),
        **_sizes([(sample.question, sample.answer) for sample in samples], count_tokens),
    )


def _sizes(
    pairs: Sequence[tuple[str, str]], count_tokens: Callable[[str], int] | None
) -> dict[str, int]:
    sizes = {
        "question_words": sum(len(question.split()) for question, _ in pairs),
        "answer_words": sum(len(answer.split()) for _, answer in pairs),
    }
    if count_tokens is not None:
        sizes["question_tokens"] = sum(count_tokens(question) for question, _ in pairs)
        sizes["answer_tokens"] = sum(count_tokens(answer) for _, answer in pairs)
    return sizes

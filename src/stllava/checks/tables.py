"""Counts of a data set as tables: the paper's Table 1 and Table 3, then the details."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from stllava.checks.stats import PAPER_TABLE_1, Row, Stats


class Table(NamedTuple):
    title: str
    header: tuple[str, ...]  # the first column holds names, the others numbers
    rows: tuple[tuple[str, ...], ...]
    note: str = ""


def tables(stats: Stats) -> Iterator[Table]:
    """Table 1, Table 3, details of the instruction data, benchmarks if there are any."""
    size = ("#Images", "#QA-Pairs")
    ours = ("this data", stats.training.images, stats.training.qa_pairs)
    yield Table(
        "Table 1: medical training data",
        ("Method", *size),
        tuple((name, _n(i), _n(q)) for name, i, q in (*PAPER_TABLE_1, ours)),
    )
    yield Table(
        "Table 3: training data by source",
        ("Source", *size),
        tuple((row.name, _n(row.images), _n(row.qa_pairs)) for row in stats.sources),
    )
    rows = (*stats.sources, stats.training) if len(stats.sources) > 1 else stats.sources
    yield Table(
        "Instruction data",
        ("Source", "conversations", "turns each", "most", *_texts(stats.training)),
        tuple(
            (
                row.name,
                _n(row.conversations),
                f"{row.turns_per_conversation:.2f}",
                _n(row.most_turns),
                *_sizes(row),
            )
            for row in rows
        ),
        _kind_note(stats.training),
    )
    if stats.benchmarks:
        yield Table(
            "Benchmarks",
            ("Part", *size, *_texts(stats.benchmarks[0])),
            tuple((r.name, _n(r.images), _n(r.qa_pairs), *_sizes(r)) for r in stats.benchmarks),
        )


def markdown(stats: Stats) -> str:
    """All tables in Markdown."""
    parts: list[str] = []
    for table in tables(stats):
        rule = ["---", *["---:"] * (len(table.header) - 1)]
        lines = ("| " + " | ".join(row) + " |" for row in (table.header, rule, *table.rows))
        parts.append("\n".join((f"**{table.title}**", "", *lines)))
        if table.note:
            parts.append(table.note)
    return "\n\n".join(parts) + "\n"


def _texts(row: Row) -> tuple[str, ...]:
    tokens = () if row.question_tokens is None else ("question tokens", "answer tokens")
    return ("question words", "answer words", *tokens, "open", "closed")


def _sizes(row: Row) -> tuple[str, ...]:
    tokens = (row.question_tokens, row.answer_tokens)
    counted = (tokens_ for tokens_ in tokens if tokens_ is not None)
    numbers = (row.question_words, row.answer_words, *counted, row.open, row.closed)
    return tuple(_n(number) for number in numbers)


def _kind_note(row: Row) -> str:
    if not row.by_answer_text:
        return ""
    return (
        f"{_n(row.by_answer_text)} of {_n(row.qa_pairs)} QA pairs are not annotated as open or "
        "closed: closed is what is answered yes or no."
    )


def _n(number: int) -> str:
    return f"{number:,}"

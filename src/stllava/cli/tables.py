"""Tables of scores and comparisons for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stllava.records import JSONObject

if TYPE_CHECKING:
    from stllava.metrics.modes import Mode
    from stllava.metrics.paired import Change

Part = Table | Text
OPEN = ("recall", "f1", "precision", "exact")
WIDTH = 140  # columns of output that is not a terminal
WRONG = "llavamed-prefix"
CONSTANTS = {"yes": 'always "yes"', "no": 'always "no"', "yes_there_is_no": '"Yes, there is no"'}


def console() -> Console:
    """On stdout; wide where it is not a terminal, so that a file or a pipe gets whole rows."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=WIDTH, soft_wrap=True)


def score_parts(sheets: Mapping[Mode, JSONObject]) -> Iterator[Part]:
    """One mode with all its figures, or several modes side by side."""
    first = next(iter(sheets.values()))
    yield _heading(first)
    if len(sheets) == 1:
        yield _one_mode(first)
    else:
        yield _all_modes(sheets)
    yield _blind(sheets)
    yield Text("\n".join(_lines(first)))
    for warning in first["warnings"]:
        yield Text(f"warning: {warning}", style="yellow")


def _heading(scores: JSONObject) -> Text:
    return Text(
        f"{scores['benchmark']}: {scores['open']['n']} open and {scores['closed']['n']} closed "
        f"questions scored, {scores['missing']} missing; {scores['num_images']} images, "
        f"{scores['num_groups']} groups; joined by {scores['joined_by']}"
    )


def _one_mode(scores: JSONObject) -> Table:
    """Values with intervals, by annotated kind and by answer text."""
    table = Table(title=f"mode {scores['mode']}, percent", title_justify="left", box=SIMPLE_HEAD)
    for name in ("", "n", "value", "95 % interval", "mean over images", "n by answer", "by answer"):
        table.add_column(name, justify="right" if name else "left")
    for kind, names in (("open", OPEN), ("closed", ("accuracy",))):
        part, other = scores[kind], scores["by_answer_text"][kind]
        for name in names:
            table.add_row(
                f"{kind} {name}",
                str(part["n"]),
                number(part[name]),
                interval(part["ci95"][name]),
                number(part["image_macro"][name]),
                str(other["n"]),
                number(other[name]),
            )
    return table


def _all_modes(sheets: Mapping[Mode, JSONObject]) -> Table:
    table = Table(title="all modes, percent", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for mode in sheets:
        table.add_column(f"{mode} (wrong)" if mode == WRONG else mode, justify="right")
    for kind, names in (("open", OPEN), ("closed", ("accuracy",))):
        for name in names:
            cells = [f"{number(s[kind][name])} (n {s[kind]['n']})" for s in sheets.values()]
            table.add_row(f"{kind} {name}", *cells)
            if name in ("recall", "accuracy"):
                table.add_row("", *[interval(s[kind]["ci95"][name]) for s in sheets.values()])
                others = [s["by_answer_text"][kind] for s in sheets.values()]
                cells = [f"{number(other[name])} (n {other['n']})" for other in others]
                table.add_row("  by answer text", *cells)
    return table


def _blind(sheets: Mapping[Mode, JSONObject]) -> Table:
    """What answers that never look at the image score."""
    table = Table(title="blind baselines, percent", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for mode in sheets:
        table.add_column(mode, justify="right")
    blind = [scores["blind_baselines"] for scores in sheets.values()]
    for key, label in CONSTANTS.items():
        table.add_row(f"closed: {label}", *[number(b["closed"][key]) for b in blind])
    best = [b["closed"]["best_constant"] for b in blind]
    table.add_row(
        "closed: best constant", *[f"{number(b['accuracy'])} ({b['answer']})" for b in best]
    )
    if "majority" in blind[0]["closed"]:
        cells = [number(b["closed"]["majority"]) for b in blind]
        table.add_row("closed: usual training answer", *cells)
    labels = {
        "keywords": "hand-written keywords",
        "train_keywords": "frequent training words",
        "majority": "usual training answer",
    }
    for key, label in labels.items():
        if key in blind[0]["open"]:
            shares = [b["open"][key] for b in blind]
            cells = [f"{number(s['recall'])} / {number(s['f1'])}" for s in shares]
            table.add_row(f"open recall / F1: {label}", *cells)
    return table


def _lines(scores: JSONObject) -> Iterator[str]:
    closed, words = scores["closed"], scores["answer_words"]
    yield (
        f"answers: mean {number(words['mean'])} and median {number(words['median'])} words; "
        f"{number(scores['empty'])} % empty, {number(scores['truncated'])} % cut off, "
        f"{number(scores['repetitive'])} % repeat themselves"
    )
    if scores["mode"] == "corrected":
        yield (
            f"closed: {closed['abstained']} abstain and {closed['both']} say both, counted wrong; "
            f"yes-rate {number(closed['yes_rate'])} %; "
            f"Wilson interval {interval(closed['wilson95'])}"
        )
    if closed["left_out"]:
        yield f"closed: {closed['left_out']} wrong answers left out of the mean by this rule"
    first = scores["open"]["recall_of_first_words"]
    yield "open recall of the first " + ", ".join(f"{k} words {number(first[k])}" for k in first)
    if scores["missing"]:
        yield (
            "if the missing answers were all wrong or all right: open recall "
            f"{interval(scores['open']['bounds']['recall'])}, closed accuracy "
            f"{interval(closed['bounds']['accuracy'])}"
        )
    if scores["by_leak"]:
        parts = [f"{name} {_part(part)}" for name, part in scores["by_leak"].items()]
        yield "leaked and clean questions: " + "; ".join(parts)


def _part(part: JSONObject) -> str:
    return (
        f"recall {number(part['open']['recall'])} (n {part['open']['n']}), "
        f"accuracy {number(part['closed']['accuracy'])} (n {part['closed']['n']})"
    )


def category_parts(scores: JSONObject) -> Iterator[Part]:
    """One table for each category of the benchmark."""
    for category, values in scores["categories"].items():
        table = Table(title=f"by {category}, percent", title_justify="left", box=SIMPLE_HEAD)
        for name in ("", "n open", "recall", "F1", "n closed", "accuracy"):
            table.add_column(name, justify="right" if name else "left")
        for value, part in values.items():
            table.add_row(
                value,
                str(part["open"]["n"]),
                number(part["open"]["recall"]),
                number(part["open"]["f1"]),
                str(part["closed"]["n"]),
                number(part["closed"]["accuracy"]),
            )
        yield table


def compare_parts(
    a: str, b: str, changes: Sequence[Change], notes: Sequence[str]
) -> Iterator[Part]:
    """B against A, a row for each benchmark and metric."""
    yield Text(f"A: {a}\nB: {b}")
    table = Table(title="B minus A, points", title_justify="left", box=SIMPLE_HEAD)
    for name in (
        "", "n", "groups", "A", "B", "difference", "95 % interval", "p", "p Holm", "p McNemar",
        "won : lost", "detectable",
    ):  # fmt: skip
        table.add_column(name, justify="right" if name else "left")
    for change in changes:
        table.add_row(
            f"{change.benchmark} {change.metric}",
            str(change.num_items),
            str(change.num_groups),
            number(change.a),
            number(change.b),
            f"{change.difference:+.2f}",
            interval(change.interval),
            probability(change.p),
            probability(change.p_holm),
            probability(change.p_mcnemar),
            f"{len(change.won)} : {len(change.lost)}",
            number(change.detectable),
        )
    yield table
    yield Text(
        "p: groups exchanged between A and B; Holm: over the rows above; McNemar: exact, takes "
        "questions as independent;\ndetectable: true difference found in 4 of 5 such comparisons"
    )
    for note in notes:
        yield Text(f"note: {note}", style="yellow")


def number(value: float | None) -> str:
    """Two decimals; – for none."""
    return "–" if value is None else f"{value:.2f}"


def interval(value: Sequence[float] | None) -> str:
    """In brackets; – for none."""
    return "–" if value is None else f"[{value[0]:.2f}, {value[1]:.2f}]"


def probability(value: float | None) -> str:
    """Four decimals; – for none."""
    return "–" if value is None else f"{value:.4f}" if value >= 0.0001 else "<0.0001"

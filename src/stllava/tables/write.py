"""A table as Markdown, LaTeX, CSV and JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from pathlib import Path

from stllava.files import write_json, write_text
from stllava.records import JSONObject
from stllava.tables.build import METRICS, Cell, Row, Table, build

LABELS = {"recall": "recall", "f1": "F1", "judged": "judged", "accuracy": "closed"}
SECTIONS = {
    "model": "",
    "control": "",
    "blind": "blind: never look at the image",
    "delta": "differences on the same questions, in points",
    "published": "measured, by the rule behind the published scores (llavamed-batch)",
    "quoted": "quoted from the paper, not measured",
}
IMPOSSIBLE = "no number of right answers gives this value"
MARK = "‡"
TEX = str.maketrans(
    {"_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "−": "$-$", "“": "``", "”": "''"}
    | {MARK: r"$^\ddagger$"}
)


def write_tables(run: Path) -> Table | None:
    """Write RUN/eval/table.md, .tex, .csv and .json; nothing where no evaluation is complete."""
    table = build(run)
    if table is not None:
        folder = run / "eval"
        folder.mkdir(exist_ok=True)
        write_text(folder / "table.md", markdown(table))
        write_text(folder / "table.tex", latex(table))
        write_text(folder / "table.csv", as_csv(table))
        write_json(folder / "table.json", as_json(table))
    return table


def columns(table: Table) -> list[tuple[str, str]]:
    """(benchmark, metric) pairs that any row has a figure for."""
    every = [(benchmark, metric) for benchmark in table.benchmarks for metric in METRICS]
    return [key for key in every if any(key in row.cells for row in table.rows)]


def sizes(table: Table) -> dict[tuple[str, str], int | None]:
    """n of a column, as most of the models have it; a cell with another n says so itself."""
    models = [row for row in table.rows if row.kind in ("model", "control")]
    return {
        key: max((row.cells[key].n or 0 for row in models if key in row.cells), default=0) or None
        for key in columns(table)
    }


def shown(cell: Cell | None, kind: str, n: int | None) -> tuple[str, str]:
    """Value and what stands in small print after it."""
    if cell is None:
        return "", ""
    decimals = 2 if kind == "quoted" else 1
    value = f"{cell.value:+.{decimals}f}" if kind == "delta" else f"{cell.value:.{decimals}f}"
    value = value.replace("-", "−") + MARK * cell.impossible
    small = ""
    if cell.interval is not None:
        low, high = (f"{end:.1f}".replace("-", "−") for end in cell.interval)
        small = f"[{low}, {high}]"
    if cell.n is not None and cell.n != n and kind != "blind":
        small = f"{small} n={cell.n}".strip()
    return value, small


def notes(table: Table) -> list[str]:
    marked = any(cell.impossible for row in table.rows for cell in row.cells.values())
    brackets = "in brackets: 95 % interval of a bootstrap over groups (patients or cases)"
    return [brackets, *table.notes, *([f"{MARK} {IMPOSSIBLE}"] if marked else [])]


def grouped(table: Table) -> Iterator[tuple[str, Row]]:
    """Rows with the heading that stands before them, "" for none."""
    last = ""
    for row in table.rows:
        heading = SECTIONS[row.kind]
        yield (heading if heading != last else ""), row
        last = heading


def markdown(table: Table) -> str:
    keys, n = columns(table), sizes(table)
    lines = [
        "| | " + " | ".join(f"{benchmark} {LABELS[metric]}" for benchmark, metric in keys) + " |",
        "|---|" + "---:|" * len(keys),
        "| n | " + " | ".join(str(n[key] or "") for key in keys) + " |",
    ]
    for heading, row in grouped(table):
        if heading:
            lines.append(f"| *{heading}* |" + " |" * len(keys))
        cells = [" ".join(shown(row.cells.get(key), row.kind, n[key])).strip() for key in keys]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes(table))]) + "\n"


def latex(table: Table) -> str:
    """For booktabs, with a spanning head per benchmark."""
    keys, n = columns(table), sizes(table)
    escape: Callable[[str], str] = lambda text: text.translate(TEX)  # noqa: E731
    heads = []
    for benchmark in table.benchmarks:
        width = sum(key[0] == benchmark for key in keys)
        heads.append(rf"\multicolumn{{{width}}}{{c}}{{{escape(benchmark)}}}")
    lines = [
        f"% {escape(note)}" if "%" not in note else "% " + note.replace("%", "percent")
        for note in notes(table)
    ]
    lines += [rf"\begin{{tabular}}{{l{'r' * len(keys)}}}", r"\toprule"]
    lines.append(" & ".join(["", *heads]) + r" \\")
    lines.append(" & ".join(["", *(LABELS[metric] for _, metric in keys)]) + r" \\")
    lines += [" & ".join(["$n$", *(str(n[key] or "") for key in keys)]) + r" \\", r"\midrule"]
    for heading, row in grouped(table):
        if heading:
            lines.append(r"\midrule")
            lines.append(rf"\multicolumn{{{len(keys) + 1}}}{{l}}{{\emph{{{escape(heading)}}}}} \\")
        cells = []
        for key in keys:
            value, small = shown(row.cells.get(key), row.kind, n[key])
            cells.append(escape(value) + (rf" {{\scriptsize {escape(small)}}}" if small else ""))
        lines.append(" & ".join([escape(row.name), *cells]) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(table: Table) -> str:
    """A row per row; four columns per figure: value, low, high, n."""
    keys = columns(table)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    parts = ("", " low", " high", " n")
    names = [f"{b} {LABELS[m]}{part}" for b, m in keys for part in parts]
    writer.writerow(["row", "kind", *names, "impossible"])
    for row in table.rows:
        fields: list[object] = []
        for key in keys:
            cell = row.cells.get(key)
            if cell is None:
                fields += [""] * len(parts)
            else:
                low, high = cell.interval or ("", "")
                fields += [cell.value, low, high, "" if cell.n is None else cell.n]
        impossible = [f"{b} {LABELS[m]}" for (b, m), cell in row.cells.items() if cell.impossible]
        writer.writerow([row.name, row.kind, *fields, "; ".join(impossible)])
    return text.getvalue()


def as_json(table: Table) -> JSONObject:
    """Everything, nested: rows, then benchmarks, then metrics."""
    rows = []
    for row in table.rows:
        cells: JSONObject = {}
        for (benchmark, metric), cell in row.cells.items():
            figure: JSONObject = {"value": cell.value}
            if cell.interval is not None:
                figure["ci95"] = list(cell.interval)
            if cell.n is not None:
                figure["n"] = cell.n
            if row.kind == "quoted":
                figure["possible"] = not cell.impossible
            cells.setdefault(benchmark, {})[metric] = figure
        rows.append({"name": row.name, "kind": row.kind, "benchmarks": cells})
    return {
        "layout": f"Table {table.layout} of the paper",
        "benchmarks": list(table.benchmarks),
        "rows": rows,
        "notes": notes(table),
    }

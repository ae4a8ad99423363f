"""What judges were measured at on pairs whose better answer is known, by category."""

from __future__ import annotations

from stllava.records import JSONObject
from stllava.report.grid import Grid, Line, share_cell, short
from stllava.report.load import Reader, dig


def benches(reader: Reader) -> list[JSONObject]:
    """Measurements of judges on known answers, the latest last."""
    files = sorted(reader.path.glob("judge/bench/*/bench.json"), key=lambda f: f.stat().st_mtime)
    found = [reader.json(str(file.relative_to(reader.path))) for file in files]
    return [bench for bench in found if isinstance(bench.get("judge"), str)]


def grid(measured: list[JSONObject]) -> Grid:
    """A row per measurement: accuracy over all pairs, then of each category."""
    categories = sorted({name for bench in measured for name in dig(bench, "by_category") or ()})
    lines = [
        Line(
            short(bench["judge"]),
            f"{short(bench.get('rubric'))}, orders: {short(bench.get('orders'))}",
            [
                share_cell(bench.get("accuracy")),
                *(share_cell(dig(bench, "by_category", name)) for name in categories),
            ],
        )
        for bench in measured
    ]
    caption = (
        "Pairs of a known true and a plausible wrong answer (stllava judge bench); a tie counts "
        "half, and a judge that does not look comes out at 50 %."
    )
    return Grid("Right on known answers", ["all", *categories], lines, caption)

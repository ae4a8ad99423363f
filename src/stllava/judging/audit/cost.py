"""Who was asked for verdicts, with which rubric, and what the calls cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from stllava.records import JSONObject, Verdict


def cost(verdicts: Sequence[Verdict]) -> JSONObject:
    """Totals over both views; `priced` and `with_usage` say how many verdicts carry them.

    `calls` counts replies and failed calls, a repair as one more; identical answers need none.
    """
    usage = [v.usage for v in verdicts if v.usage is not None]
    prices = [v.cost_usd for v in verdicts if v.cost_usd is not None]
    times = sorted(v.time for v in verdicts if v.time)
    return {
        "verdicts": len(verdicts),
        "calls": sum(1 + bool(v.repair) for v in verdicts if _was_asked(v)),
        "with_usage": len(usage),
        "prompt_tokens": sum(u.prompt_tokens for u in usage),
        "completion_tokens": sum(u.completion_tokens for u in usage),
        "priced": len(prices),
        "cost_usd": round(sum(prices), 6) if prices else None,
        "models_asked": _counted(v.model for v in verdicts),
        "models_returned": _counted(v.model_returned for v in verdicts),
        "rubrics": _counted(f"{v.rubric} {v.rubric_version}" for v in verdicts if v.rubric),
        "first": times[0] if times else None,
        "last": times[-1] if times else None,
    }


def _was_asked(verdict: Verdict) -> bool:
    """Whether a model was: identical answers, rules and juries have neither of the three."""
    return bool(verdict.model or verdict.usage or (verdict.rubric and verdict.reply))


def _counted(names: Iterable[str | None]) -> Any:
    return dict(Counter(name for name in names if name).most_common())

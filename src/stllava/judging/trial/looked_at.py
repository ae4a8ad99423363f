"""What is told of a judge that was looked at: which model it is, what a stage will do with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Container, Iterable, Mapping
from typing import Any

from stllava.judging.trial.probe import EVERYTHING, Capabilities
from stllava.prompts import Rubric

# As hosts date what stands behind an alias: -2024-08-06, -0613, @20240229, -001, :20250101
_SNAPSHOT = re.compile(r"[-@:](\d{3,8}|\d{4}-\d{2}-\d{2})$")
_GOING = ("shutdown_date", "deprecated", "deprecation", "deprecation_date", "expiration_date")


def model_lines(asked: str, returned: Collection[str]) -> list[str]:
    """The model asked for beside those that the replies name, and a warning where they differ."""
    if not returned:
        return [f"model: asked for {asked}; the replies name none"]
    lines = [f"model: asked for {asked}; replies are from {', '.join(sorted(returned))}"]
    others = sorted(name for name in returned if not _same(asked, name))
    for name in others:
        if len(returned) == 1 and _is_snapshot(asked, name):
            lines.append(f"WARNING: {asked} stands for {name} today; pin {name}")
        else:
            lines.append(
                f"WARNING: {name} is not {asked}: a name that stands for it, or another model"
            )
    return lines


def listed_lines(listed: Iterable[Mapping[str, Any]], names: Collection[str]) -> list[str]:
    """What the host's own list says of the end of these models; empty where it says nothing."""
    return [
        f"WARNING: {model['id']}: {said} (the host's list of models)"
        for model in listed
        if any(_same(str(model.get("id")), name) for name in names) and (said := _going(model))
    ]


def plan_lines(
    able: Capabilities, rubric: Rubric, *, names: Container[str] = EVERYTHING
) -> list[str]:
    """What a stage with this rubric will do, in words. `names`: as given to `probe`."""
    lines = []
    if not able.can("image"):
        lines.append("the image is not seen: this judge cannot judge answers about images")
    if rubric.output == "json":
        forms = [name for name in ("json_schema", "json_object") if able.can(name)]
        lines.append(f"reply form: {forms[0] if forms else 'as the prompt says, nothing enforced'}")
    if rubric.output == "choice":
        logprobs = able.can("logprobs")
        lines.append("verdict: " + ("letter probabilities" if logprobs else "the letter alone"))
    if "max_tokens" in able.refused:
        lines.append("length limit: sent as max_completion_tokens")
    if names is not EVERYTHING:
        return lines  # no server, no options
    left_out = sorted(able.refused - {"max_tokens", "json_schema"})
    lines.append("left out: " + (", ".join(left_out) if left_out else "nothing"))
    return lines


def _going(model: Mapping[str, Any]) -> str:
    told = {name: model[name] for name in _GOING if model.get(name)}
    return ", ".join(f"{name} {' '.join(str(value).split())[:60]}" for name, value in told.items())


def _is_snapshot(alias: str, name: str) -> bool:
    stem = _bare(alias).removesuffix("-latest")
    rest = _bare(name).removeprefix(stem)
    return rest != _bare(name) and _SNAPSHOT.fullmatch(rest) is not None


def _same(one: str, other: str) -> bool:
    return _bare(one) == _bare(other)


def _bare(name: str) -> str:
    """Gemini's list says models/NAME; hosts do not agree on capitals."""
    return name.lower().removeprefix("models/")

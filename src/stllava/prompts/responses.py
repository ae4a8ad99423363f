"""Forms that a reply can be asked to have: JSON schemas by name, as `Request.response` names them.

Every field is required and no other allowed, and ranges are lists of values: what OpenAI's strict
mode and the grammars of vLLM, Ollama and llama.cpp all take.
https://platform.openai.com/docs/guides/structured-outputs
"""

from __future__ import annotations

from typing import Any

from stllava.prompts.faithful import FAULTS

Schema = dict[str, Any]
ASPECTS = ("helpfulness", "relevance", "accuracy", "detail")


def _object(**fields: Schema) -> Schema:
    return {
        "type": "object",
        "properties": fields,
        "required": list(fields),
        "additionalProperties": False,
    }


_POINTS: Schema = {"type": "integer", "enum": list(range(1, 11))}
_ANSWER = _object(
    faults={"type": "array", "items": {"type": "string", "enum": list(FAULTS)}},
    **dict.fromkeys((*ASPECTS, "score"), _POINTS),
)
RESPONSES: dict[str, Schema] = {
    "verdict": _object(
        reason={"type": "string"},
        answer_1=_ANSWER,
        answer_2=_ANSWER,
        verdict={"type": "string", "enum": ["1", "2", "tie"]},
    ),
    # For probes: fields that no model would think of by itself.
    "probe": _object(kelvin_colour={"type": "string"}, kelvin_sides={"type": "integer"}),
}

"""The forms by name: for each, how a row is parsed and how one is built."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import NamedTuple

from stllava.exchange import marked, unmarked
from stllava.exchange.pair import Pair
from stllava.records import JSONObject


class Form(NamedTuple):
    """One way to write preference pairs down, a row each."""

    parse: Callable[[JSONObject, Counter[str]], Pair]  # counts repairs; raises UnusableError
    build: Callable[[Pair], JSONObject]


FORMS = {
    "released": Form(marked.parse_released, marked.build_released),
    "judge-output": Form(unmarked.parse_judge_output, unmarked.build_judge_output),
    "mmedpo": Form(marked.parse_mmedpo, marked.build_mmedpo),
    "rlaif-v": Form(unmarked.parse_rlaif_v, unmarked.build_rlaif_v),
    "trl": Form(unmarked.parse_trl, unmarked.build_trl),
    "llama-factory": Form(marked.parse_llama_factory, marked.build_llama_factory),
    "ms-swift": Form(marked.parse_ms_swift, marked.build_ms_swift),
}

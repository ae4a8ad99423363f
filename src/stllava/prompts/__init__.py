"""Every prompt of the software, and nothing else that is said to a model.

A rubric's text is part of what a verdict means: change a word, raise its version.
"""

from stllava.prompts.canaries import CANARIES
from stllava.prompts.cleaning import MAX_CANDIDATE_CHARS, clean
from stllava.prompts.faithful import FAITHFUL_RUBRIC, FAULTS
from stllava.prompts.local import LOCAL_RUBRIC
from stllava.prompts.marks import MARK_VERSION, mark_prompt
from stllava.prompts.paper import PAPER_RUBRIC, paper_prompt
from stllava.prompts.policy import ASK, DESCRIBE, SHORT, benchmark_question
from stllava.prompts.probes import PROBES
from stllava.prompts.responses import RESPONSES
from stllava.prompts.rubric import Rubric, block, template_rubric

RUBRICS = {rubric.name: rubric for rubric in (PAPER_RUBRIC, FAITHFUL_RUBRIC, LOCAL_RUBRIC)}

__all__ = [
    "ASK", "CANARIES", "DESCRIBE", "FAITHFUL_RUBRIC", "FAULTS", "LOCAL_RUBRIC", "MARK_VERSION",
    "MAX_CANDIDATE_CHARS", "PAPER_RUBRIC", "PROBES", "RESPONSES", "RUBRICS", "SHORT", "Rubric",
    "benchmark_question", "block", "clean", "mark_prompt", "paper_prompt", "template_rubric",
]  # fmt: skip

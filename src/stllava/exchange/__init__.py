"""Preference data in the forms of other tools, in and out.

A form is how one tool writes pairs down: `stllava` (our preferences.jsonl), `released` and
`judge-output` (the released STLLaVA-Med code), `mmedpo`, `rlaif-v`, `trl`, `llama-factory`
(ranking) and `ms-swift`. What a form cannot hold is counted and said.
"""

from stllava.exchange.reading import NAMES, Imported, read_preferences
from stllava.exchange.writing import Written, write_preferences

__all__ = ["NAMES", "Imported", "Written", "read_preferences", "write_preferences"]

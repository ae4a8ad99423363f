"""The token tree: texts about one image share what they share, in memory and in time.

    batch = pack(sequences, images)           # prefix tries, depth-first, in rows
    batch.vision = {"pixel_values": ...}      # one image per tree, in the order of batch.images
    use_tree_attention(model)
    logp = token_log_probs(model, batch, hidden_states(model, batch))

Exact: equal to one sequence at a time up to rounding (docs/tree.md, tests/test_tree.py). Usable
without the rest of the package.
"""

from stllava.tree.attention import use_tree_attention
from stllava.tree.batch import TreeBatch, pack
from stllava.tree.rules import CAUSAL, Rules, rules_of
from stllava.tree.score import hidden_states, sequence_sums, token_log_probs

__all__ = [
    "CAUSAL",
    "Rules",
    "TreeBatch",
    "hidden_states",
    "pack",
    "rules_of",
    "sequence_sums",
    "token_log_probs",
    "use_tree_attention",
]

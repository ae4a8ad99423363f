"""Checkpoints as others published them: recognised, fetched, and converted into this format.

`recognise` names a folder's layout, `convert` writes a folder that `Policy.load` reads,
`resolve_checkpoint` turns a hub id into a local folder, `set_asker` says how a policy asks.
"""

from stllava.policy.published.asker import add_asker_token, asker_token_indices, set_asker
from stllava.policy.published.convert import convert
from stllava.policy.published.hub import resolve_checkpoint
from stllava.policy.published.layout import Layout, recognise
from stllava.policy.published.report import Report

__all__ = [
    "Layout",
    "Report",
    "add_asker_token",
    "asker_token_indices",
    "convert",
    "recognise",
    "resolve_checkpoint",
    "set_asker",
]

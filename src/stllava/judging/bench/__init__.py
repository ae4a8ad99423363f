"""Pairs whose better answer is known, and how a judge does on them."""

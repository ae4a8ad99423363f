"""What sharing saves, against the usual way of doing the same work: `python -m benchmarks NAME`.

One file per comparison; `timing` measures, `model` draws the policy, `data` reads real questions.
docs/performance.md says what was measured and what was not.
"""

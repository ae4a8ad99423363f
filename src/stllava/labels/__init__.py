"""Findings per image, or reports, as instruction data, as a benchmark, and split by patient.

`mapping` says what the columns of a table mean, `table` reads it and `split` parts the patients;
`asks` decides what each image is asked, `phrases` and `say` word it, `report` takes reports apart.
`source.read` gives the training part, `benchmark.read` the others.
"""

from stllava.labels.slake import slake_boxes

__all__ = ["slake_boxes"]

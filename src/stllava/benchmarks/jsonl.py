"""A benchmark of one's own: one VQASample a line, images joined by id with the run's images."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from stllava.benchmarks import Benchmark
from stllava.errors import DataError
from stllava.records import VQASample


def read(path: Path) -> Benchmark:
    """Read all samples. A bad line is an error: a test set that shrinks silently changes its n."""
    try:
        lines = path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n")
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    samples: dict[str, VQASample] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            sample = VQASample.model_validate_json(line)
        except ValidationError as error:
            problem = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in problem["loc"]) or "line"
            message = f"{path}:{number}: not a VQASample: {field}: {problem['msg']}"
            raise DataError(" ".join(message.split())) from None
        if sample.id in samples:
            raise DataError(f"{path}:{number}: id {sample.id!r} again; give each question its own")
        samples[sample.id] = sample
    if not samples:
        raise DataError(f"{path}: no question in it; write one VQASample a line")
    return Benchmark(path.stem, tuple(samples.values()), (), {}, ())

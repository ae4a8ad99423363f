"""A benchmark of one's own: one VQASample a line, images joined by id with the run's images."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from stllava.benchmarks import Benchmark
from stllava.errors import DataError
from stllava.images import SUFFIXES
from stllava.records import VQASample
from stllava.sources import SourceImage
from stllava.sources.store import ImageStore, UnusableError


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


def with_images(found: Benchmark, root: Path) -> Benchmark:
    """Name the image files below `root` whose path, or path without suffix, is a sample's image.

    Samples whose image is not there are about images of the run, which have records already.
    """
    store = ImageStore(root)
    images = []
    for image in dict.fromkeys(sample.image for sample in found.samples):
        for suffix in ("", *sorted(SUFFIXES)):
            try:
                images.append(SourceImage(image, store.place(image + suffix), image))
                break
            except UnusableError:
                continue
    return found._replace(images=tuple(images), root=root if images else None)

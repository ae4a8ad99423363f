"""What ask, answer and eval share: a policy of the run that speaks, and how."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby

from stllava.config import SamplingSection
from stllava.generation.protocol import Generator, Sampling
from stllava.pipeline.job import Job
from stllava.records import Draw

GREEDY = Sampling()


def policy_generator(job: Job, model: str) -> Generator:
    """A policy of this run as a Generator."""
    policy = job.load(model, to_speak=True)
    from stllava.generation.hf import PolicyGenerator  # needs torch

    return PolicyGenerator(policy, job.open_image, name=model, **job.batching)


def sampling_of(settings: SamplingSection, seed: int) -> Sampling:
    """The recipe's sampling with the run's seed."""
    return Sampling(
        temperature=settings.temperature, top_k=settings.top_k, top_p=settings.top_p, seed=seed
    )


def by_request(draws: Iterator[Draw]) -> Iterator[tuple[str, Iterator[Draw]]]:
    return groupby(draws, key=lambda draw: draw.request_id)

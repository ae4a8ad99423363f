"""The policy as a Generator: our own decoding loop, so that every draw has its own noise.

A row's noise comes from a generator seeded by (run seed, request id, draw index), never from the
batch, and raw log-probabilities are recorded before temperature. Each image is encoded once per
batch, and what its prompts have in common is read once, however many prompts and draws there are.

Shapes: S streams (draws), V vocabulary, K kept candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor

from stllava.chat import Tokens
from stllava.generation.decode import RepeatedStreams, SharedStreams, Streams
from stllava.generation.protocol import Sampling, draw_seed
from stllava.generation.told import Likely, by_text
from stllava.generation.wire import MAX_TOLD_TOKENS
from stllava.policy.policy import Policy
from stllava.records import Draw, Request

OpenImage = Callable[[str], PILImage.Image]


class PolicyGenerator:
    """Generator over a local policy. `open_image` turns an image id into an RGB image.

    Batches are consecutive requests with at most `batch_rows` draws, and about `batch_tokens`
    tokens of prompts, what neighbours share counted once.
    """

    def __init__(
        self,
        policy: Policy,
        open_image: OpenImage,
        *,
        name: str,
        batch_rows: int = 256,
        batch_tokens: int = 65536,
    ) -> None:
        self.policy = policy
        self.open_image = open_image
        self.name = name
        self.batch_rows = batch_rows
        self.batch_tokens = batch_tokens

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """Draws in request order, then index order."""
        for batch in self._batches(requests):
            yield from self._generate_batch(batch, sampling)

    def _batches(self, requests: Iterable[Request]) -> Iterator[list[tuple[Request, Tokens]]]:
        chat = self.policy.chat
        batch: list[tuple[Request, Tokens]] = []
        rows = tokens = 0
        for request in requests:
            prompt = chat.prompt(request.turns, request.speaker)
            new = len(prompt.ids)
            if batch and batch[-1][0].image == request.image:
                new -= _agreement(batch[-1][1].ids, prompt.ids)
            full = rows + request.num_draws > self.batch_rows or tokens + new > self.batch_tokens
            if batch and (full or not self.policy.rules.share):
                yield batch
                batch, rows, tokens, new = [], 0, 0, len(prompt.ids)
            batch.append((request, prompt))
            rows, tokens = rows + request.num_draws, tokens + new
        if batch:
            yield batch

    def _generate_batch(
        self, batch: Sequence[tuple[Request, Tokens]], sampling: Sampling
    ) -> Iterator[Draw]:
        rows = [(request, i) for request, _ in batch for i in range(request.num_draws)]
        seeds = [draw_seed(sampling.seed, request.id, i) for request, i in rows]
        limits = [request.max_tokens for request, _ in rows]
        told = [request.top_logprobs or 0 for request, _ in rows]
        decoder = _Decoder(self.policy, sampling, seeds, limits, told)
        output = decoder.run(self._streams(batch, room=max(limits)))
        for (request, index), seed, said in zip(rows, seeds, output, strict=True):
            stopped = bool(said.ids) and said.ids[-1] == self.policy.end_token_id
            alternatives = tuple(by_text(self.policy.tokenizer, likely) for likely in said.likely)
            yield Draw(
                request_id=request.id,
                index=index,
                text=self.policy.decode(said.ids),
                token_ids=tuple(said.ids),
                logprobs=tuple(said.logprobs),
                finish="stop" if stopped else "length",
                seed=seed,
                alternatives=alternatives or None,
            )

    def _streams(self, batch: Sequence[tuple[Request, Tokens]], room: int) -> Streams:
        prompts = [prompt for _, prompt in batch]
        images = [request.image for request, _ in batch]
        draws = [request.num_draws for request, _ in batch]
        tree = self.policy.pack(prompts, images, self.open_image).to(self.policy.device)
        if self.policy.rules.share:
            return SharedStreams(self.policy, tree, draws, room)
        return RepeatedStreams(self.policy, tree, draws[0])


def _agreement(one: Sequence[int], other: Sequence[int]) -> int:
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


class _Said(NamedTuple):
    """What a stream has said so far."""

    ids: list[int]  # end token included
    logprobs: list[float]  # raw
    likely: list[Likely]  # per token, where that is asked for


class _Decoder:
    """Decodes streams together, one token a step; those that ended leave the batch.

    `told[s]`: how many alternatives are asked for at each of the first tokens of stream s.
    """

    def __init__(
        self,
        policy: Policy,
        sampling: Sampling,
        seeds: Sequence[int],
        limits: Sequence[int],
        told: Sequence[int],
    ) -> None:
        self.end = policy.end_token_id
        self.image = policy.image_token_id
        self.sampling = sampling
        self.limits = limits
        self.told = told
        self.noise = np.stack([_uniforms(seed, max(limits)) for seed in seeds])  # (S, steps)
        self.output = [_Said([], [], []) for _ in seeds]

    def run(self, streams: Streams) -> list[_Said]:
        """What every stream says, to its end."""
        alive = torch.arange(len(self.output))  # number of each stream that still goes on
        for step in range(max(self.limits)):
            tokens = self._pick(streams.logits, alive, step)
            keep = self._goes_on(tokens, alive)
            if not keep.any():
                break
            if not keep.all():
                index = keep.nonzero().squeeze(-1)
                alive = alive[index]
                index = index.to(tokens.device)
                streams.keep(index)
                tokens = tokens[index]
            streams.step(tokens)
        return self.output

    def _pick(self, logits_SV: Tensor, alive: Tensor, step: int) -> Tensor:
        noise = torch.from_numpy(self.noise[alive.numpy(), step]).to(logits_SV.device)
        tokens = sample(self._sayable(logits_SV), noise, self.sampling)
        scores_SV = logits_SV.log_softmax(-1)
        logprobs = scores_SV.gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        for stream, token, logprob in zip(
            alive.tolist(), tokens.tolist(), logprobs.tolist(), strict=True
        ):
            self.output[stream].ids.append(token)
            self.output[stream].logprobs.append(logprob)
        if step < MAX_TOLD_TOKENS and any(self.told):
            self._note_likely(scores_SV, alive)
        return tokens

    def _note_likely(self, scores_SV: Tensor, alive: Tensor) -> None:
        """Take the best at once: nothing as wide as the vocabulary is kept."""
        num = min(max(self.told), scores_SV.shape[-1])
        logs_SK, ids_SK = scores_SV.topk(num, dim=-1)
        for stream, ids, logs in zip(
            alive.tolist(), ids_SK.tolist(), logs_SK.tolist(), strict=True
        ):
            if asked := self.told[stream]:
                likely = list(zip(ids[:asked], logs[:asked], strict=True))
                self.output[stream].likely.append(likely)

    def _sayable(self, logits_SV: Tensor) -> Tensor:
        """Logits without the image placeholder: nobody can say an image, and a second placeholder
        in a conversation could not be read back."""
        placeholder = torch.tensor([self.image], device=logits_SV.device)
        return logits_SV.index_fill(-1, placeholder, -torch.inf)

    def _goes_on(self, tokens: Tensor, alive: Tensor) -> Tensor:
        room = [len(self.output[stream].ids) < self.limits[stream] for stream in alive.tolist()]
        return (tokens.cpu() != self.end) & torch.tensor(room)


def sample(logits_RV: Tensor, noise_R: Tensor, sampling: Sampling) -> Tensor:
    """One token per row by inverse CDF after temperature, top-k and top-p. Returns (R,).

    The order (temperature, then k, then p) is that of transformers, which made the paper's draws.
    """
    if sampling.temperature == 0:
        return logits_RV.argmax(-1)
    k = min(sampling.top_k or logits_RV.shape[-1], logits_RV.shape[-1])
    top_RK, ids_RK = (logits_RV / sampling.temperature).topk(k, dim=-1)
    probs_RK = top_RK.softmax(-1)
    cdf_RK = probs_RK.cumsum(-1)
    kept_RK = cdf_RK - probs_RK < sampling.top_p  # the token that crosses top_p stays
    mass_R1 = (probs_RK * kept_RK).sum(-1, keepdim=True)
    below_RK = (cdf_RK <= noise_R.unsqueeze(-1).to(cdf_RK.dtype) * mass_R1) & kept_RK
    last_R = kept_RK.sum(-1) - 1
    picked_R = torch.minimum(below_RK.sum(-1), last_R)
    return ids_RK.gather(-1, picked_R.unsqueeze(-1)).squeeze(-1)


def _uniforms(seed: int, num: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(seed)).random(num)

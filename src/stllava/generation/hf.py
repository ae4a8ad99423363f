"""The policy as a Generator: our own decoding loop, so that every draw has its own noise.

A row's noise comes from a generator seeded by (run seed, request id, draw index), never from the
batch, and raw log-probabilities are recorded before temperature. Each image is encoded once per
call and each prompt prefilled once, however many draws it gets.

Shapes: R rows, T prompt tokens, V vocabulary, K kept candidates.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np
import torch
from PIL import Image as PILImage
from torch import Tensor
from transformers import DynamicCache

from stllava.generation.protocol import Sampling, draw_seed
from stllava.policy.policy import Policy
from stllava.records import Draw, Request

OpenImage = Callable[[str], PILImage.Image]


class PolicyGenerator:
    """Generator over a local policy. `open_image` turns an image id into an RGB image."""

    def __init__(
        self, policy: Policy, open_image: OpenImage, *, name: str, batch_rows: int = 256
    ) -> None:
        self.policy = policy
        self.open_image = open_image
        self.name = name
        self.batch_rows = batch_rows

    @torch.inference_mode()
    def generate(self, requests: Iterable[Request], sampling: Sampling) -> Iterator[Draw]:
        """Draws in request order, then index order.

        Batches are consecutive requests with at most `batch_rows` draws together.
        """
        batch: list[Request] = []
        for request in requests:
            rows = sum(waiting.num_draws for waiting in batch)
            if batch and rows + request.num_draws > self.batch_rows:
                yield from self._generate_batch(batch, sampling)
                batch = []
            batch.append(request)
        if batch:
            yield from self._generate_batch(batch, sampling)

    def _generate_batch(self, batch: Sequence[Request], sampling: Sampling) -> Iterator[Draw]:
        rows = [(request, i) for request in batch for i in range(request.num_draws)]
        seeds = [draw_seed(sampling.seed, request.id, i) for request, i in rows]
        limits = [request.max_tokens for request, _ in rows]
        decoder = _Decoder(self.policy, sampling, seeds, limits)
        decoder.prefill(*self._prompts(batch), repeats=[r.num_draws for r in batch])
        for (request, index), seed, sampled in zip(rows, seeds, decoder.run(), strict=True):
            ids, logprobs = sampled
            stopped = bool(ids) and ids[-1] == self.policy.end_token_id
            yield Draw(
                request_id=request.id,
                index=index,
                text=self.policy.decode(ids),
                token_ids=tuple(ids),
                logprobs=tuple(logprobs),
                finish="stop" if stopped else "length",
                seed=seed,
            )

    def _prompts(self, batch: Sequence[Request]) -> tuple[Tensor, Tensor]:
        """Left-padded prompt embeddings (R, T, D) and mask (R, T); images encoded once each."""
        policy, chat = self.policy, self.policy.chat
        names = list(dict.fromkeys(request.image for request in batch))
        pixels = policy.pixel_values([self.open_image(name) for name in names])
        features = policy.image_features(pixels.to(policy.device))
        prompts = [chat.prompt(request.turns, request.speaker).ids for request in batch]
        width = max(map(len, prompts))
        ids = torch.tensor([[0] * (width - len(p)) + p for p in prompts], device=policy.device)
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts])
        embeds = policy.core.get_input_embeddings()(ids)
        is_image = (ids == policy.image_token_id).unsqueeze(-1)
        index = torch.tensor([names.index(request.image) for request in batch])
        image_rows = features[index.to(features.device)].to(embeds.dtype)
        return embeds.masked_scatter(is_image, image_rows), mask.to(policy.device)


class _Decoder:
    """Decodes rows together, one token a step; rows that ended leave the batch."""

    def __init__(
        self, policy: Policy, sampling: Sampling, seeds: Sequence[int], limits: Sequence[int]
    ) -> None:
        self.core = policy.core
        self.end = policy.end_token_id
        self.image = policy.image_token_id
        self.sampling = sampling
        self.limits = limits
        self.noise = np.stack([_uniforms(seed, max(limits)) for seed in seeds])  # (R, steps)
        self.output: list[tuple[list[int], list[float]]] = [([], []) for _ in seeds]
        self.alive = torch.arange(len(seeds))  # row number of each row of the batch

    def prefill(self, embeds: Tensor, mask: Tensor, *, repeats: Sequence[int]) -> None:
        """Read every prompt once, then repeat its cache for each of its draws."""
        positions = (mask.cumsum(-1) - 1).clamp(min=0)
        self.cache = DynamicCache()
        hidden = self._forward(inputs_embeds=embeds, mask=mask, positions=positions)
        index = torch.arange(len(repeats)).repeat_interleave(torch.tensor(repeats))
        index = index.to(mask.device)
        self.cache.batch_select_indices(index)
        self.mask, self.position = mask[index], positions[index, -1:]
        self.logits = self.core.lm_head(hidden[:, -1])[index].float()

    def run(self) -> list[tuple[list[int], list[float]]]:
        """Token ids (end token included) and raw log-probabilities of every row."""
        for step in range(max(self.limits)):
            tokens = self._pick(step)
            if not self._keep_alive(tokens):
                break
            tokens = self._kept_tokens
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], dim=1)
            self.position = self.position + 1
            embeds = self.core.get_input_embeddings()(tokens.unsqueeze(-1))
            hidden = self._forward(inputs_embeds=embeds, mask=self.mask, positions=self.position)
            self.logits = self.core.lm_head(hidden[:, -1]).float()
        return self.output

    def _forward(self, *, inputs_embeds: Tensor, mask: Tensor, positions: Tensor) -> Tensor:
        hidden: Tensor = self.core.model.language_model(
            inputs_embeds=inputs_embeds,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
        ).last_hidden_state
        return hidden

    def _pick(self, step: int) -> Tensor:
        noise = torch.from_numpy(self.noise[self.alive.numpy(), step]).to(self.logits.device)
        tokens = sample(self._sayable(), noise, self.sampling)
        logprobs = self.logits.log_softmax(-1).gather(-1, tokens.unsqueeze(-1)).squeeze(-1)
        for row, token, logprob in zip(
            self.alive.tolist(), tokens.tolist(), logprobs.tolist(), strict=True
        ):
            self.output[row][0].append(token)
            self.output[row][1].append(logprob)
        return tokens

    def _sayable(self) -> Tensor:
        """Logits without the image placeholder: nobody can say an image, and a second placeholder
        in a conversation could not be read back."""
        placeholder = torch.tensor([self.image], device=self.logits.device)
        return self.logits.index_fill(-1, placeholder, -torch.inf)

    def _keep_alive(self, tokens: Tensor) -> bool:
        """Drop ended rows from batch and cache. False when none is left."""
        room = [len(self.output[row][0]) < self.limits[row] for row in self.alive.tolist()]
        keep = (tokens.cpu() != self.end) & torch.tensor(room)
        self._kept_tokens = tokens[keep.to(tokens.device)]
        if not keep.any():
            return False
        if not keep.all():
            index = keep.nonzero().squeeze(-1)
            self.alive = self.alive[index]
            index = index.to(self.mask.device)
            self.cache.batch_select_indices(index)
            self.mask, self.position = self.mask[index], self.position[index]
        return True


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

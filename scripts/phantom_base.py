"""Train the small base policies that ship with the package, from nothing, on general pictures.

The stand-in for a published SQ-LLaVA: a 1.5M-parameter model of the same classes that can look at
a picture and talk about it, in both roles, and has never seen a medical picture. It *has* read
medical words: part of its text-only exercises come from the phantom world, and its tokenizer was
trained on both worlds' sentences. What it saw is counted and written into `stllava.json`.

    python scripts/phantom_base.py --variant prototype --out src/stllava/assets/base-prototype

Steps (after a trial with four plainer recipes that did not learn to read pictures): (a) the vision
encoder names what it sees, from the mean of its patches; (b) captions; (c) one question a picture;
(d) conversations in which the asker's questions are learned too.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import Tensor, nn
from transformers import (
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    PreTrainedTokenizerFast,
)

from stllava.chat import Tokens
from stllava.formats import STLLAVA
from stllava.phantom import general, talk, world
from stllava.phantom.vocab import GENERAL, MEDICAL
from stllava.policy.policy import Policy
from stllava.policy.scorer import TokenScorer
from stllava.policy.sqllava import SqlLavaConfig, SqlLavaForConditionalGeneration
from stllava.records import Turn
from stllava.tree import pack

SIZE, PATCH = 96, 12
NUM_PATCHES = (SIZE // PATCH) ** 2
WIDTH, LAYERS, HEADS = 128, 3, 4
VOCABULARY = 640
SPECIAL = ["<pad>", "</s>", "<image>", "<vusr>"]

Dialogue = list[tuple[str, str]]
Example = tuple[Tensor, Dialogue, bool]  # picture (3, H, W), turns, does the asker ask?


def make_tokenizer(seed: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE over sentences of both worlds; saved with the weights, never rebuilt."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(_sentences(seed), trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>",
        additional_special_tokens=["<image>", "<vusr>"],
    )  # fmt: skip


def _sentences(seed: int) -> Iterator[str]:
    rng = random.Random(seed)
    for scene in general.sample_scenes(1500, seed=seed):
        yield from _flat(talk.conversation(scene, rng, terse=0.3, world=GENERAL))
    for phantom in world.sample_phantoms(1500, seed=seed, prefix="text-"):
        yield from _flat(talk.conversation(phantom, rng, terse=0.3, world=MEDICAL))


def _flat(turns: Dialogue) -> Iterator[str]:
    for question, answer in turns:
        yield f"USER: {question} ASSISTANT: {answer} {question}"


def make_policy(variant: str, tokenizer: PreTrainedTokenizerFast) -> Policy:
    """Random weights; the classes and the layout are those of the real thing."""
    vision = CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=4 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, image_size=SIZE, patch_size=PATCH, projection_dim=WIDTH,
    )  # fmt: skip
    text = LlamaConfig(
        hidden_size=WIDTH, intermediate_size=3 * WIDTH, num_hidden_layers=LAYERS,
        num_attention_heads=HEADS, vocab_size=len(tokenizer), max_position_embeddings=1024,
        pad_token_id=0, bos_token_id=None, eos_token_id=1, tie_word_embeddings=False,
    )  # fmt: skip
    common = {
        "vision_config": vision, "text_config": text, "image_token_index": 2,
        "image_seq_length": NUM_PATCHES, "vision_feature_layer": -1,
        "vision_feature_select_strategy": "default",
    }  # fmt: skip
    if variant == "prototype":  # 256 centres of 576 patches, as published
        config = SqlLavaConfig(num_centers=round(NUM_PATCHES * 256 / 576), **common)
        model = SqlLavaForConditionalGeneration._from_config(config, attn_implementation="eager")
    else:
        model = LlavaForConditionalGeneration._from_config(
            LlavaConfig(**common), attn_implementation="eager"
        )
    _place_patches(model)
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE},
        image_mean=[0.4, 0.4, 0.4], image_std=[0.25, 0.25, 0.25],
    )  # fmt: skip
    return Policy(model, tokenizer, processor, STLLAVA)


def _place_patches(model: nn.Module) -> None:
    """Start the vision position embeddings as 2-D sinusoids: CLIP's own start is too faint here."""
    side, quarter = SIZE // PATCH, WIDTH // 4
    grid = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1)
    freq = torch.exp(-math.log(100.0) * torch.arange(quarter) / quarter)
    angle = grid.view(-1, 2, 1).float() * freq
    table = torch.cat([angle.sin(), angle.cos()], -1).flatten(1) * 0.5
    embedding = next(m for n, m in model.named_modules() if n.endswith("position_embedding"))
    embedding.weight.data[1:] = table


class Pictures:
    """A seeded pool of general pictures, drawn once, and a count of what was shown."""

    def __init__(self, policy: Policy, seed: int, num_pictures: int) -> None:
        self.policy = policy
        self.rng = random.Random(seed)
        self.shown: Counter[str] = Counter()
        self.scenes = general.sample_scenes(num_pictures, seed=1000 + seed)
        self.pixels = np.stack([general.draw_scene(scene, SIZE) for scene in self.scenes])

    def pick(self) -> tuple[general.GeneralScene, Tensor]:
        self.shown["general pictures"] += 1
        index = self.rng.randrange(len(self.scenes))
        return self.scenes[index], normalise(self.pixels[index])

    def text_exercise(self) -> Example:
        """Words without a picture, from either world: what a language model has read before."""
        blank = torch.zeros(3, SIZE, SIZE)
        if self.rng.random() < 0.3:
            self.shown["general texts"] += 1
            return blank, talk.text_only(self.rng, GENERAL), False
        self.shown["medical texts (no picture)"] += 1
        return blank, talk.text_only(self.rng, MEDICAL), False

    def example(self, pick: Callable[[Dialogue], Dialogue], asks: float) -> Example:
        scene, picture = self.pick()
        turns = talk.conversation(scene, self.rng, terse=0.3, world=GENERAL)
        return picture, pick(turns), self.rng.random() < asks


def normalise(picture: np.ndarray) -> Tensor:
    """(H, W, 3) bytes to (3, H, W), as the image processor saved with the policy does."""
    pixels = torch.from_numpy(picture.astype(np.float32) / 255.0).permute(2, 0, 1)
    return (pixels - 0.4) / 0.25


def tags(scene: general.GeneralScene) -> list[str]:
    """What a caption-trained vision encoder could name: scene, things, side, size, number."""
    names = [scene.scene]
    for finding in scene.findings:
        names.append(finding.kind)
        names += [f"{finding.kind} {finding.side}"] if finding.side else []
        names += [f"{finding.kind} {finding.size}"] if finding.size else []
        names += [f"{finding.kind} x{finding.count}"] if finding.count > 1 else []
    return names


class Trainer:
    """AdamW with warm-up and linear decay over one step of the recipe; logs the loss curve."""

    def __init__(self, policy: Policy, bf16: bool) -> None:
        self.policy, self.bf16 = policy, bf16
        self.curve: list[dict[str, float | str]] = []
        self.scorer = TokenScorer.of(policy)

    def run(
        self,
        name: str,
        num_steps: int,
        groups: list[dict[str, object]],
        loss_of: Callable[[], Tensor],
    ) -> None:
        optimizer = torch.optim.AdamW(groups, weight_decay=0.01, betas=(0.9, 0.98))
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda s: min((s + 1) / 20, max(0.02, 1 - s / num_steps))
        )
        start, recent = time.process_time(), []
        for step in range(num_steps):
            with torch.autocast("cpu", torch.bfloat16) if self.bf16 else nullcontext():
                loss = loss_of()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_([p for g in groups for p in g["params"]], 1.0)
            optimizer.step()
            schedule.step()
            recent.append(loss.item())
            if (step + 1) % 25 == 0 or step + 1 == num_steps:
                mean = sum(recent) / len(recent)
                cpu = time.process_time() - start
                self.curve.append({"step": name, "at": step + 1, "loss": mean, "cpu_s": cpu})
                print(f"{name} {step + 1}/{num_steps} loss {mean:.3f} cpu {cpu:.0f}s", flush=True)
                recent = []

    def talk_loss(self, examples: Sequence[Example]) -> Tensor:
        """Mean negative log-likelihood of the learned tokens."""
        chat = self.policy.chat
        sequences: list[Tokens] = []
        for _, turns, asks in examples:
            records = [Turn(question=q, answer=a) for q, a in turns]
            sequences.append(chat.training(records, [asks] * len(records)))
        pixels = torch.stack([picture for picture, _, _ in examples])
        batch = pack(sequences, range(len(examples)))
        batch.vision = {"pixel_values": pixels[list(batch.images)]}
        return -self.scorer(batch).mean()


def groups_of(policy: Policy, lr: float, vision_factor: float) -> list[dict[str, object]]:
    vision = list(policy.model.model.vision_tower.parameters())
    known = {id(p) for p in vision}
    rest = [p for p in policy.model.parameters() if id(p) not in known and p.requires_grad]
    vision = [p for p in vision if p.requires_grad]
    return [{"params": rest, "lr": lr}, {"params": vision, "lr": lr * vision_factor}]


def name_pictures(trainer: Trainer, pictures: Pictures, num_steps: int, batch: int) -> None:
    """Step a: multi-label tags from the mean of the patch features; the head is thrown away."""
    vocabulary = sorted({t for s in general.sample_scenes(4000, seed=5) for t in tags(s)})
    index = {tag: i for i, tag in enumerate(vocabulary)}
    tower = trainer.policy.model.model.vision_tower
    head = nn.Linear(WIDTH, len(vocabulary))

    def loss_of() -> Tensor:
        shown = [pictures.pick() for _ in range(batch)]
        pixels = torch.stack([picture for _, picture in shown])
        target = torch.zeros(batch, len(vocabulary))
        for row, (scene, _) in enumerate(shown):
            target[row, [index[tag] for tag in tags(scene) if tag in index]] = 1
        patches = tower(pixels, output_hidden_states=True).hidden_states[-1][:, 1:]
        logits = head(patches.mean(1)).float()
        return F.binary_cross_entropy_with_logits(logits, target) * 10

    params = [*tower.parameters(), *head.parameters()]
    trainer.run("a name pictures", num_steps, [{"params": params, "lr": 2e-3}], loss_of)


def converse(
    trainer: Trainer, pictures: Pictures, name: str, num_steps: int, batch: int, *,
    lr: float, vision_factor: float, pick: Callable[[Dialogue], Dialogue], asks: float,
    text_share: float = 0.15,
) -> None:  # fmt: skip
    """Steps b to d: talk about pictures, with some text-only exercises mixed in."""

    def loss_of() -> Tensor:
        examples = [
            pictures.text_exercise()
            if pictures.rng.random() < text_share
            else pictures.example(pick, asks)
            for _ in range(batch)
        ]
        return trainer.talk_loss(examples)

    groups = groups_of(trainer.policy, lr, vision_factor)
    trainer.run(name, num_steps, groups, loss_of)


def train(policy: Policy, *, seed: int, bf16: bool, scale: float) -> tuple[Trainer, Pictures]:
    trainer, pictures = Trainer(policy, bf16), Pictures(policy, seed, round(10_000 * scale))
    policy.model.train()
    rng = pictures.rng

    def steps(n: int) -> int:
        return max(1, round(n * scale))

    def caption(turns: Dialogue) -> Dialogue:
        return turns[:1] if rng.random() < 0.6 else [rng.choice(turns)]

    def one(turns: Dialogue) -> Dialogue:
        return [rng.choice(turns)]

    def whole(turns: Dialogue) -> Dialogue:
        return turns

    name_pictures(trainer, pictures, steps(650), 64)
    converse(trainer, pictures, "b captions", steps(150), 48,
             lr=2e-3, vision_factor=0.2, pick=caption, asks=0.0)  # fmt: skip
    converse(trainer, pictures, "c questions", steps(380), 48,
             lr=1e-3, vision_factor=0.5, pick=one, asks=0.0)  # fmt: skip
    converse(trainer, pictures, "d conversations", steps(140), 32,
             lr=1e-3, vision_factor=0.3, pick=whole, asks=0.5)  # fmt: skip
    policy.model.eval()
    return trainer, pictures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=["prototype", "mlp"], default="prototype")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--scale", type=float, default=1.0, help="share of the steps, for a test")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.set_flush_denormal(True)
    torch.manual_seed(args.seed)
    bf16 = bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    policy = make_policy(args.variant, make_tokenizer(args.seed))
    trainer, pictures = train(policy, seed=args.seed, bf16=bf16, scale=args.scale)
    policy.save(args.out, asker="token", made_by="scripts/phantom_base.py", seed=args.seed,
                variant=args.variant, shown=dict(pictures.shown), medical_pictures=0,
                medical_labels=0, precision="bf16 autocast" if bf16 else "fp32")  # fmt: skip
    weights = args.out / "model.safetensors"
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    (args.out / "training.json").write_text(
        json.dumps({"sha256": digest, "curve": trainer.curve}, indent=1) + "\n", encoding="utf-8"
    )
    print(f"{args.out}: {weights.stat().st_size / 1e6:.1f} MB, sha256 {digest[:16]}")


if __name__ == "__main__":
    main()

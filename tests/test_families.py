"""Today's vision-language families on trees, against the library's own forward pass.

Every model is the family's real class at toy size with random weights. The reference sees one
sequence at a time, with the library's attention, masks and positions; nothing of the tree.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import torch
import transformers as tf
from torch import Tensor
from toy import IMAGE, open_image, tokenizer

from stllava.formats import STLLAVA
from stllava.generation.decode import RepeatedStreams, SharedStreams
from stllava.policy.policy import Policy
from stllava.tree import (
    CAUSAL,
    Rules,
    TreeBatch,
    hidden_states,
    pack,
    rules_of,
    token_log_probs,
    use_tree_attention,
)
from stllava.tree.batch import stack_images
from stllava.tree.positions import rope_positions
from stllava.tree.probe import probe_sharing

WIDTH, VOCABULARY, WINDOW = 32, 64, 8
TEXT = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": VOCABULARY,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 3,
}
EYE = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
QWEN_EYE = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


class Text(NamedTuple):
    ids: list[int]
    learned: list[int]


class Family(NamedTuple):
    """A model, the same with the library's attention, and what its processor would say."""

    model: Any
    plain: Any
    images: dict[str, dict[str, Tensor]]  # by name: arguments of one image
    num_tokens: dict[str, int]
    types: str | None  # argument that tells image tokens from text

    @property
    def rules(self) -> Rules:
        return rules_of(self.model.config)


def noise(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def family(
    model: Any, images: list[dict[str, Tensor]], num_tokens: list[int], types: str | None = None
) -> Family:
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # Gemma 3 starts its projector at zero
            parameter.data.normal_(0, 0.2, generator=generator)
    plain = copy.deepcopy(model.eval())
    plain.set_attn_implementation("sdpa")
    use_tree_attention(model)
    return Family(
        model,
        plain,
        dict(zip("abc", images, strict=True)),
        dict(zip("abc", num_tokens, strict=True)),
        types,
    )


def llava() -> Family:
    eye = tf.CLIPVisionConfig(**EYE, image_size=8, patch_size=4)
    config = tf.LlavaConfig(
        vision_config=eye, text_config=tf.LlamaConfig(**TEXT), image_token_index=IMAGE
    )
    images = [{"pixel_values": noise(1, 3, 8, 8) + i} for i in range(3)]
    return family(tf.LlavaForConditionalGeneration(config), images, [4, 4, 4])


def tiled_images() -> list[dict[str, Tensor]]:
    """The whole image and its tiles: 2 x 2, 1 x 2 and 2 x 1 of them."""
    sizes = [(16, 16), (8, 16), (16, 8)]
    return [
        {
            "pixel_values": noise(1, 1 + h * w // 64, 3, 8, 8) + i,
            "image_sizes": torch.tensor([[h, w]]),
        }
        for i, (h, w) in enumerate(sizes)
    ]


TILED = {"image_grid_pinpoints": [[8, 16], [16, 8], [16, 16]], "image_token_index": IMAGE}
NUM_TILED = [4 + 4 * 5, 4 + 2 * 5, 4 + 4 * 3]  # 2 x 2 patches; tiles, each line with its end


def llava_next() -> Family:
    eye = tf.CLIPVisionConfig(**EYE, image_size=8, patch_size=4)
    text = tf.MistralConfig(**TEXT, sliding_window=None)
    config = tf.LlavaNextConfig(vision_config=eye, text_config=text, **TILED)
    return family(tf.LlavaNextForConditionalGeneration(config), tiled_images(), NUM_TILED)


def llava_onevision() -> Family:
    eye = tf.SiglipVisionConfig(**EYE, image_size=8, patch_size=4, vision_use_head=False)
    text = tf.Qwen2Config(**TEXT)
    config = tf.LlavaOnevisionConfig(
        vision_config=eye, text_config=text, video_token_index=5, **TILED
    )
    return family(tf.LlavaOnevisionForConditionalGeneration(config), tiled_images(), NUM_TILED)


def masked_images() -> list[dict[str, Tensor]]:
    """Two, one and one crop; the last crop is half padding."""
    images = [
        {
            "pixel_values": noise(1, crops, 3, 16, 16) + i,
            "pixel_attention_mask": torch.ones(1, crops, 16, 16, dtype=torch.bool),
        }
        for i, crops in enumerate((2, 1, 1))
    ]
    images[2]["pixel_attention_mask"][..., 8:] = False
    return images


def idefics3() -> Family:
    eye = tf.Idefics3VisionConfig(**EYE, image_size=16, patch_size=4)
    text = tf.LlamaConfig(**TEXT)
    config = tf.Idefics3Config(vision_config=eye, text_config=text, image_token_id=IMAGE)
    return family(tf.Idefics3ForConditionalGeneration(config), masked_images(), [8, 4, 4])


def smolvlm() -> Family:
    eye = tf.SmolVLMVisionConfig(**EYE, image_size=16, patch_size=4)
    text = tf.LlamaConfig(**TEXT)
    config = tf.SmolVLMConfig(vision_config=eye, text_config=text, image_token_id=IMAGE)
    return family(tf.SmolVLMForConditionalGeneration(config), masked_images(), [8, 4, 4])


def internvl() -> Family:
    eye = tf.InternVLVisionConfig(**EYE, image_size=16, patch_size=4)
    text = tf.Qwen2Config(**TEXT)
    config = tf.InternVLConfig(vision_config=eye, text_config=text, image_token_id=IMAGE)
    images = [{"pixel_values": noise(tiles, 3, 16, 16) + tiles} for tiles in (2, 1, 3)]
    return family(tf.InternVLForConditionalGeneration(config), images, [8, 4, 12])


def patches() -> list[dict[str, Tensor]]:
    """Patches one by one, 3 x 2 x 4 x 4 values each; 2 x 2 of them make a token."""
    grids = [(1, 4, 8), (1, 4, 4), (1, 2, 6)]
    return [
        {"pixel_values": noise(t * h * w, 96) + i, "image_grid_thw": torch.tensor([[t, h, w]])}
        for i, (t, h, w) in enumerate(grids)
    ]


def qwen_text(*sections: int) -> dict[str, Any]:
    rope = {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}
    return {**TEXT, "rope_parameters": rope}


NUM_PATCHED = [8, 4, 3]
QWEN_IDS = {
    "image_token_id": IMAGE,
    "video_token_id": 5,
    "vision_start_token_id": 6,
    "vision_end_token_id": 7,
}


def qwen2_vl() -> Family:
    config = tf.Qwen2VLConfig(
        text_config=qwen_text(2, 3, 3),
        vision_config={**QWEN_EYE, "embed_dim": WIDTH, "hidden_size": WIDTH, "mlp_ratio": 2},
        **QWEN_IDS,
    )
    model = tf.Qwen2VLForConditionalGeneration(config)
    return family(model, patches(), NUM_PATCHED, "mm_token_type_ids")


def qwen2_5_vl() -> Family:
    eye = {**QWEN_EYE, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 48}
    config = tf.Qwen2_5_VLConfig(
        text_config=qwen_text(2, 3, 3),
        vision_config={**eye, "window_size": 16, "fullatt_block_indexes": [1]},
        **QWEN_IDS,
    )
    model = tf.Qwen2_5_VLForConditionalGeneration(config)
    return family(model, patches(), NUM_PATCHED, "mm_token_type_ids")


def qwen3_vl() -> Family:
    eye = {**QWEN_EYE, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 48}
    config = tf.Qwen3VLConfig(
        text_config={**qwen_text(4, 2, 2), "head_dim": 16},
        vision_config={**eye, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        **QWEN_IDS,
    )
    model = tf.Qwen3VLForConditionalGeneration(config)
    return family(model, patches(), NUM_PATCHED, "mm_token_type_ids")


def qwen3_5() -> Family:
    """A hybrid: its linear-attention layer carries a state from token to token."""
    eye = {**QWEN_EYE, "hidden_size": WIDTH, "out_hidden_size": WIDTH, "intermediate_size": 48}
    heads = {"linear_num_key_heads": 2, "linear_num_value_heads": 2, "head_dim": 16}
    config = tf.Qwen3_5Config(
        text_config={
            **qwen_text(4, 2, 2),
            **heads,
            "linear_key_head_dim": 8,
            "linear_value_head_dim": 8,
            "layer_types": ["linear_attention", "full_attention"],
        },
        vision_config={**eye, "num_position_embeddings": 16},
        **QWEN_IDS,
    )
    model = tf.Qwen3_5ForConditionalGeneration(config)
    return family(model, patches(), NUM_PATCHED, "mm_token_type_ids")


def gemma3() -> Family:
    """An image has twice as many tokens as the window."""
    eye = tf.SiglipVisionConfig(**EYE, image_size=16, patch_size=4, vision_use_head=False)
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    text = tf.Gemma3TextConfig(
        **{**TEXT, "num_hidden_layers": len(layers)},
        head_dim=16,
        query_pre_attn_scalar=16,
        sliding_window=WINDOW,
        layer_types=layers,
    )
    config = tf.Gemma3Config(
        vision_config=eye, text_config=text, mm_tokens_per_image=16, image_token_index=IMAGE
    )
    images = [{"pixel_values": noise(1, 3, 16, 16) + i} for i in range(3)]
    model = tf.Gemma3ForConditionalGeneration(config)
    return family(model, images, [16, 16, 16], "token_type_ids")


SHARING: dict[str, Callable[[], Family]] = {
    make.__name__: make
    for make in (
        llava,
        llava_next,
        llava_onevision,
        smolvlm,
        idefics3,
        internvl,
        qwen2_vl,
        qwen2_5_vl,
        qwen3_vl,
        gemma3,
    )
}


@cache
def built(name: str) -> Family:
    return {**SHARING, "qwen3_5": qwen3_5}[name]()


def prompt(kin: Family, image: str, question: list[int]) -> list[int]:
    return [1, 9, 10, *[IMAGE] * kin.num_tokens[image], 11, *question]


def texts(kin: Family) -> tuple[list[Text], list[str]]:
    """Questions and answers of unequal length about three images, which share two rows."""
    talks = [
        ("a", [20, 21, 22], [30, 31]),
        ("b", [20, 21], [36, 37, 3]),
        ("a", [20, 21, 22], [30, 33, 34, 35, 36, 37, 38, 3]),
        ("a", [20, 24, 25, 26, 27, 28, 29, 40, 41, 42], [43, 44, 45, 46, 47, 48, 49, 3]),
        ("c", [50], [51, 3]),
        ("b", [52, 53], [36]),
        ("a", [20, 21, 22], [60, 3]),
    ]
    made = []
    for image, question, answer in talks:
        before = prompt(kin, image, question)
        made.append(Text([*before, *answer], [0] * len(before) + [1] * len(answer)))
    return made, [image for image, _, _ in talks]


def tree_of(
    kin: Family, sequences: list[Text], images: list[str], *, wrong: bool = False, **options: Any
) -> TreeBatch:
    grids = {name: found.get("image_grid_thw", [None])[0] for name, found in kin.images.items()}
    mrope = kin.rules.positions == "mrope" and not wrong
    positions_of = rope_positions(kin.model, grids) if mrope else None
    batch = pack(sequences, images, positions_of=positions_of, **options)
    batch.vision = stack_images([kin.images[str(image)] for image in batch.images])
    return batch


def wrong_rule(kin: Family, batch: TreeBatch) -> tuple[TreeBatch, Rules]:
    """What the family would get if its difference from the others were not known."""
    if kin.rules == CAUSAL:  # siblings see each other
        return replace(batch, ends=torch.full_like(batch.ends, batch.ends.shape[1])), CAUSAL
    return batch, CAUSAL  # `batch` has positions along the path


def log_probs(
    kin: Family, batch: TreeBatch, rules: Rules | None = None, backend: str = "dense"
) -> Tensor:
    hidden = hidden_states(kin.model, batch, rules or kin.rules, backend=backend)
    return token_log_probs(kin.model, batch, hidden)


def plain_logits(kin: Family, ids: list[int], image: str) -> Tensor:
    row = torch.tensor([ids])
    types = {kin.types: (row == IMAGE).int()} if kin.types else {}
    mask = torch.ones_like(row)
    out = kin.plain(input_ids=row, attention_mask=mask, **kin.images[image], **types)
    logits: Tensor = out.logits[0]
    return logits


def plain_log_probs(kin: Family, sequences: list[Text], images: list[str]) -> Tensor:
    found = []
    for text, image in zip(sequences, images, strict=True):
        scores = plain_logits(kin, text.ids, image).log_softmax(-1)
        at = [i for i, learned in enumerate(text.learned) if learned]
        found.append(torch.stack([scores[i - 1, text.ids[i]] for i in at]))
    return torch.cat(found)


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("backend", ["dense", "blocks", "flex"])
@pytest.mark.parametrize("name", SHARING)
@torch.no_grad()
def test_the_tree_equals_one_sequence_at_a_time(name, backend):
    kin = built(name)
    batch = tree_of(kin, *texts(kin))
    expected = plain_log_probs(kin, *texts(kin))
    assert batch.ids.shape[0] == 2  # two of the trees share a row
    assert batch.ids.numel() < batch.num_given
    torch.testing.assert_close(log_probs(kin, batch, backend=backend), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", SHARING)
@torch.no_grad()
def test_a_wrong_rule_shows(name):
    kin = built(name)
    batch, rules = wrong_rule(kin, tree_of(kin, *texts(kin), wrong=True))
    difference = log_probs(kin, batch, rules) - plain_log_probs(kin, *texts(kin))
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize(
    "rules",
    [Rules(image_both_ways=True), Rules(window=WINDOW), Rules(image_both_ways=True, window=7)],
)
@torch.no_grad()
def test_gemma_needs_both_its_rules(rules):
    kin = built("gemma3")
    difference = log_probs(kin, tree_of(kin, *texts(kin)), rules) - plain_log_probs(
        kin, *texts(kin)
    )
    assert difference.abs().max() > 1e-3


@pytest.mark.parametrize("name", SHARING)
def test_gradients_equal_those_of_separate_sequences(name):
    kin = built(name)
    found = log_probs(kin, tree_of(kin, *texts(kin)))
    weights = torch.linspace(-1, 2, len(found))
    for model, logps in ((kin.model, found), (kin.plain, plain_log_probs(kin, *texts(kin)))):
        model.zero_grad()
        (weights * logps).sum().backward()
    expected = {n: p.grad for n, p in kin.plain.named_parameters() if p.grad is not None}
    moved = {n: p.grad for n, p in kin.model.named_parameters() if p.grad is not None}
    assert moved.keys() == expected.keys()
    for part in ("vis", "layers", "embed_tokens"):
        assert any(part in n and expected[n].abs().max() > 0 for n in moved), part
    for n, grad in moved.items():
        close = 1e-5 * float(expected[n].abs().max()) + 1e-5
        torch.testing.assert_close(grad, expected[n], rtol=0, atol=close, msg=n)


@pytest.mark.parametrize("name", [*SHARING, "qwen3_5"])
@torch.no_grad()
def test_separate_rows_are_the_librarys_own(name):
    kin = built(name)
    batch = tree_of(kin, *texts(kin), share=False)
    torch.testing.assert_close(
        log_probs(kin, batch), plain_log_probs(kin, *texts(kin)), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize("name", SHARING)
def test_the_probe_allows_the_right_rule_and_no_other(name):
    kin = built(name)
    sequences = [text for text, image in zip(*texts(kin), strict=True) if image == "a"]
    images = ["a"] * len(sequences)
    alone = [tree_of(kin, [text], ["a"]) for text in sequences]
    found = probe_sharing(kin.model, kin.rules, tree_of(kin, sequences, images), alone)
    assert found.exact, found
    wrong, rules = wrong_rule(kin, tree_of(kin, sequences, images, wrong=True))
    assert not probe_sharing(kin.model, rules, wrong, alone).exact


@torch.no_grad()
def test_a_policy_packs_grids_and_positions_of_its_images():
    processor = tf.Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 64, "longest_edge": 4096},
    )
    kin = built("qwen2_5_vl")
    policy = Policy(kin.model, tokenizer(), processor, STLLAVA, rules=kin.rules)
    pictures = {
        name: open_image(name).resize((size, size)) for name, size in (("a", 16), ("b", 32))
    }
    kin = kin._replace(
        images={name: dict(processor(pictures[name], return_tensors="pt")) for name in pictures},
        num_tokens={"a": 4, "b": 16},
    )
    asked = [("a", [20, 21]), ("b", [20, 22, 23]), ("a", [20, 24]), ("b", [25])]
    sequences = [Text(ids := prompt(kin, *q), [0] * (len(ids) - 2) + [1, 1]) for q in asked]
    images = [image for image, _ in asked]
    batch = policy.pack(sequences, images, pictures.__getitem__)
    assert batch.images == ("b", "a")
    expected = plain_log_probs(kin, sequences, images)
    torch.testing.assert_close(log_probs(kin, batch), expected, rtol=0, atol=1e-5)


def say(logits: Tensor) -> tuple[Tensor, Tensor]:
    """The likeliest token that is not an image's, and its log-probability."""
    text = torch.arange(logits.shape[-1]) != IMAGE
    best = logits.masked_fill(~text, -torch.inf).log_softmax(-1).max(-1)
    return best.indices, best.values


class Said(NamedTuple):
    ids: list[int]
    logps: list[float]

    def __eq__(self, other: object) -> bool:
        assert isinstance(other, Said)
        return self.ids == other.ids and self.logps == pytest.approx(other.logps, abs=1e-5)

    def add(self, token: Tensor, logp: Tensor) -> None:
        self.ids.append(int(token))
        self.logps.append(float(logp))


def plain_greedy(kin: Family, ids: list[int], image: str, steps: int) -> Said:
    said = Said([], [])
    for _ in range(steps):
        said.add(*say(plain_logits(kin, [*ids, *said.ids], image)[-1]))
    return said


@pytest.mark.parametrize(
    "name", ["llava", "idefics3", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3"]
)
@torch.no_grad()
def test_greedy_decoding_on_a_shared_cache_equals_plain_forward_passes(name):
    kin = built(name)
    steps = WINDOW + 4
    asked = [("a", [20, 21, 22]), ("b", [20]), ("a", [20, 24, 25, 26]), ("c", [50, 51])]
    prompts = [Text(ids := prompt(kin, *q), [0] * len(ids)) for q in asked]
    batch = tree_of(kin, prompts, [image for image, _ in asked])
    policy: Any = SimpleNamespace(core=kin.model, rules=kin.rules, backend="dense")
    streams = SharedStreams(policy, batch, [1, 2, 1, 1], steps)
    said = [Said([], []) for _ in range(5)]
    alive = torch.arange(5)
    for step in range(steps):
        tokens, logps = say(streams.logits)
        for stream, token, logp in zip(alive, tokens, logps, strict=True):
            said[stream].add(token, logp)
        if step == 5:  # one of the two draws of a prompt ends early
            index = torch.tensor([0, 1, 3, 4])
            streams.keep(index)
            alive, tokens = alive[index], tokens[index]
        streams.step(tokens)
    expected = [
        plain_greedy(kin, text.ids, image, steps)
        for text, (image, _) in zip(prompts, asked, strict=True)
    ]
    assert said[2] == Said(expected[1].ids[:6], expected[1].logps[:6])
    assert [said[i] for i in (0, 1, 3, 4)] == expected
    assert len({token for one in expected for token in one.ids}) > 5


@pytest.mark.parametrize("name", ["qwen3_5", "gemma3"])
@torch.no_grad()
def test_greedy_decoding_in_separate_rows_equals_plain_forward_passes(name):
    kin = built(name)
    ids = prompt(kin, "a", [20, 21, 22])
    batch = tree_of(kin, [Text(ids, [0] * len(ids))], ["a"], share=False)
    policy: Any = SimpleNamespace(core=kin.model, rules=kin.rules, backend="dense")
    streams = RepeatedStreams(policy, batch, 2)
    said = [Said([], []), Said([], [])]
    for _ in range(WINDOW):
        tokens, logps = say(streams.logits)
        for stream in range(2):
            said[stream].add(tokens[stream], logps[stream])
        streams.step(tokens)
    expected = plain_greedy(kin, ids, "a", WINDOW)
    assert said == [expected, expected]


def test_rules_come_from_the_config():
    assert built("gemma3").rules == Rules(image_both_ways=True, window=WINDOW)
    assert built("qwen2_5_vl").rules == Rules(positions="mrope")
    assert built("internvl").rules == CAUSAL


def test_a_hybrid_keeps_its_rows_and_its_attention():
    hybrid = built("qwen3_5")
    assert not hybrid.rules.share
    assert hybrid.model.config.get_text_config()._attn_implementation != "stllava"


@pytest.mark.parametrize(
    "text",
    [
        tf.MistralConfig(**TEXT, sliding_window=WINDOW),  # windows everywhere
        tf.Gemma2Config(**TEXT),  # scores under a cap
        tf.GptOssConfig(**TEXT),  # a sink beside the keys
    ],
    ids=lambda text: text.model_type,
)
def test_attention_that_is_not_computed_here_is_not_shared(text):
    config = tf.LlavaConfig(vision_config=tf.CLIPVisionConfig(**EYE), text_config=text)
    assert not rules_of(config).share

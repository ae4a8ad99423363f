"""Checkpoint folders of today's families as others publish them, at toy size.

Real configs, special tokens, image processors and chat templates (shortened to what a dialogue with
one picture needs); random weights, and a tokenizer that knows hardly a word.
"""

from __future__ import annotations

import atexit
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from toy import SENTENCES

from stllava.policy.policy import Policy

WIDTH = 32


class Text(NamedTuple):
    """How a family writes conversations."""

    specials: str  # padding first, blank between
    end: str
    image: str  # the placeholder that is repeated
    template: str
    bos: str | None = None
    adds_bos: bool = False
    eos: str | None = None  # where it is not what closes an answer


class Vlm(NamedTuple):
    """A family: its text, the class of its model, and what makes config and image processor.

    `as_saved`: how the files of processor and template are called; "old" as years ago, with a
    template of the tokenizer that knows no images, "new" as by today's library.
    """

    text: Text
    model: Any
    config: Callable[[dict[str, Any], dict[str, int]], Any]
    processor: Callable[[], Any]
    image_side: int | None = None
    as_saved: str = ""


VICUNA = """{% for message in messages %}{{ message['role'].upper() + ': '}}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}\
{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] + ' '}}{% endfor %}{% endfor %}\
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

MISTRAL = """{% for message in messages %}{% if message['role'] == 'user' %}{{ '[INST] ' }}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>\n' }}\
{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ content['text'] }}{% endfor %}{{' [/INST]' }}{% elif message['role'] == 'assistant' %}\
{{ ' ' + message['content'][0]['text'] + '</s> '}}{% endif %}{% endfor %}"""

ONEVISION = """{% for message in messages %}{{'<|im_start|>' + message['role'] + ' '}}\
{% for content in message['content'] | selectattr('type', 'equalto', 'image') %}{{ '<image>' }}\
{% endfor %}{% for content in message['content'] | selectattr('type', 'equalto', 'text') %}\
{{ '\n' + content['text'] }}{% endfor %}{{'<|im_end|>'}}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

IDEFICS = """{{ bos_token }}{% for message in messages %}{{message['role'].capitalize()}}\
{% if message['content'][0]['type'] == 'image' %}{{':'}}{% else %}{{': '}}{% endif %}\
{% for line in message['content'] %}{% if line['type'] == 'text' %}{{line['text']}}\
{% elif line['type'] == 'image' %}{{ '<image>' }}{% endif %}{% endfor %}<end_of_utterance>
{% endfor %}{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"""

INTERNVL = """{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n'}}\
{% for content in message['content'] %}{% if content['type'] == 'image' %}{{ '<IMG_CONTEXT>\n' }}\
{% elif content['type'] == 'text' %}{{ content['text'] }}{% endif %}{% endfor %}\
{{'<|im_end|>\n'}}{% endfor %}{% if add_generation_prompt %}{{'<|im_start|>assistant\n' }}\
{% endif %}"""

QWEN3 = """{%- for message in messages %}{{- '<|im_start|>' + message.role + '\n' }}\
{%- for content in message.content %}{%- if content.type == 'image' %}\
<|vision_start|><|image_pad|><|vision_end|>{%- elif 'text' in content %}{{- content.text }}\
{%- endif %}{%- endfor %}{{- '<|im_end|>\n' }}{%- endfor %}\
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\n' }}{%- endif %}"""

QWEN2 = (
    """<|im_start|>system
You are a helpful assistant.<|im_end|>
{{ '' }}"""
    + QWEN3
)

GEMMA = """{{ bos_token }}{%- for message in messages -%}\
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}\
{{ '<start_of_turn>' + role + '\n' }}{%- for item in message['content'] -%}\
{%- if item['type'] == 'image' -%}{{ '<start_of_image>' }}\
{%- elif item['type'] == 'text' -%}{{ item['text'] | trim }}{%- endif -%}{%- endfor -%}\
{{ '<end_of_turn>\n' }}{%- endfor -%}\
{%- if add_generation_prompt -%}{{ '<start_of_turn>model\n' }}{%- endif -%}"""

CROPS = " ".join(f"<row_{row}_col_{column}>" for row in (1, 2) for column in (1, 2))
AROUND = f"<fake_token_around_image> <global-img> {CROPS}"
VISION = "<|vision_start|> <|vision_end|> <|image_pad|> <|video_pad|>"

LLAVA_TEXT = Text("<pad> <s> </s> <image>", "</s>", "<image>", VICUNA, "<s>", True)
NEXT_TEXT = LLAVA_TEXT._replace(template=MISTRAL)
ONEVISION_TEXT = Text(
    "<|endoftext|> <|im_start|> <|im_end|> <image> <video>", "<|im_end|>", "<image>", ONEVISION
)
SMOLVLM_TEXT = Text(
    f"<|endoftext|> <|im_start|> <end_of_utterance> <image> {AROUND}",
    "<end_of_utterance>", "<image>", IDEFICS, "<|im_start|>",
)  # fmt: skip
IDEFICS_TEXT = SMOLVLM_TEXT._replace(
    specials=f"<|end_of_text|> <|begin_of_text|> <end_of_utterance> <image> {AROUND}",
    bos="<|begin_of_text|>",
    adds_bos=True,
)
INTERNVL_TEXT = Text(
    "<|endoftext|> <|im_start|> <|im_end|> <IMG_CONTEXT> <img> </img> <video>",
    "<|im_end|>", "<IMG_CONTEXT>", INTERNVL,
)  # fmt: skip
QWEN2_TEXT = Text(
    f"<|endoftext|> <|im_start|> <|im_end|> {VISION}", "<|im_end|>", "<|image_pad|>", QWEN2
)
QWEN3_TEXT = QWEN2_TEXT._replace(template=QWEN3)
GEMMA_TEXT = Text(
    "<pad> <bos> <eos> <start_of_turn> <end_of_turn> "
    "<image_soft_token> <start_of_image> <end_of_image>",
    "<end_of_turn>", "<image_soft_token>", GEMMA, "<bos>", True, "<eos>",
)  # fmt: skip

EYE = {
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "patch_size": 4,
}
QWEN_EYE = {
    "depth": 2,
    "num_heads": 2,
    "patch_size": 4,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "hidden_size": WIDTH,
}
SIZE = {"height": 16, "width": 16}
PINPOINTS = [[8, 16], [16, 8], [16, 16]]


def llava(text: dict[str, Any], ids: dict[str, int]) -> Any:
    """The features are those of the last layer but one, as in LLaVA 1.5."""
    return tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**EYE, image_size=16),
        text_config=tf.LlamaConfig(**text, tie_word_embeddings=False),
        image_token_index=ids["<image>"],
        image_seq_length=16,
        vision_feature_layer=-2,
    )


def llava_next(text: dict[str, Any], ids: dict[str, int]) -> Any:
    return tf.LlavaNextConfig(
        vision_config=tf.CLIPVisionConfig(**EYE, image_size=8),
        text_config=tf.MistralConfig(**text, sliding_window=None, tie_word_embeddings=False),
        image_token_index=ids["<image>"],
        image_grid_pinpoints=PINPOINTS,
    )


def llava_onevision(text: dict[str, Any], ids: dict[str, int]) -> Any:
    return tf.LlavaOnevisionConfig(
        vision_config=tf.SiglipVisionConfig(**EYE, image_size=8, vision_use_head=False),
        text_config=tf.Qwen2Config(**text),
        image_token_index=ids["<image>"],
        video_token_index=ids["<video>"],
        image_grid_pinpoints=PINPOINTS,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
    )


def smolvlm(text: dict[str, Any], ids: dict[str, int]) -> Any:
    eye = tf.SmolVLMVisionConfig(**EYE, image_size=16)
    return tf.SmolVLMConfig(
        vision_config=eye, text_config=tf.LlamaConfig(**text), image_token_id=ids["<image>"]
    )


def idefics3(text: dict[str, Any], ids: dict[str, int]) -> Any:
    eye = tf.Idefics3VisionConfig(**EYE, image_size=16)
    return tf.Idefics3Config(
        vision_config=eye, text_config=tf.LlamaConfig(**text), image_token_id=ids["<image>"]
    )


def internvl(text: dict[str, Any], ids: dict[str, int]) -> Any:
    return tf.InternVLConfig(
        vision_config=tf.InternVLVisionConfig(**EYE, image_size=16),
        text_config=tf.Qwen2Config(**text),
        image_token_id=ids["<IMG_CONTEXT>"],
        image_seq_length=4,
    )


def qwen_ids(ids: dict[str, int]) -> dict[str, int]:
    return {
        "image_token_id": ids["<|image_pad|>"],
        "video_token_id": ids["<|video_pad|>"],
        "vision_start_token_id": ids["<|vision_start|>"],
        "vision_end_token_id": ids["<|vision_end|>"],
    }


def rope(*sections: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}


def qwen2_vl(text: dict[str, Any], ids: dict[str, int]) -> Any:
    return tf.Qwen2VLConfig(
        text_config={**text, "rope_parameters": rope(2, 3, 3)},
        vision_config={**QWEN_EYE, "embed_dim": WIDTH, "mlp_ratio": 2},
        **qwen_ids(ids),
    )


def qwen2_5_vl(text: dict[str, Any], ids: dict[str, int]) -> Any:
    eye = {**QWEN_EYE, "out_hidden_size": WIDTH, "intermediate_size": 48}
    return tf.Qwen2_5_VLConfig(
        text_config={**text, "rope_parameters": rope(2, 3, 3)},
        vision_config={**eye, "window_size": 16, "fullatt_block_indexes": [1]},
        **qwen_ids(ids),
    )


def qwen3_vl(text: dict[str, Any], ids: dict[str, int]) -> Any:
    eye = {**QWEN_EYE, "out_hidden_size": WIDTH, "intermediate_size": 48}
    # Image features enter after layers 0 and 1; what enters after the last would reach no answer.
    more = {"num_hidden_layers": 3, "rope_parameters": rope(4, 2, 2), "head_dim": 16}
    return tf.Qwen3VLConfig(
        text_config={**text, **more},
        vision_config={**eye, "num_position_embeddings": 16, "deepstack_visual_indexes": [0, 1]},
        **qwen_ids(ids),
    )


def gemma3(text: dict[str, Any], ids: dict[str, int]) -> Any:
    layers = ["sliding_attention", "full_attention"]
    return tf.Gemma3Config(
        vision_config=tf.SiglipVisionConfig(**EYE, image_size=16, vision_use_head=False),
        text_config=tf.Gemma3TextConfig(
            **text, head_dim=16, query_pre_attn_scalar=16, sliding_window=12, layer_types=layers
        ),
        mm_tokens_per_image=4,
        image_token_index=ids["<image_soft_token>"],
        boi_token_index=ids["<start_of_image>"],
        eoi_token_index=ids["<end_of_image>"],
    )


def clip_images() -> Any:
    return tf.CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=SIZE)


def next_images() -> Any:
    return tf.LlavaNextImageProcessorPil(
        size={"shortest_edge": 8},
        crop_size={"height": 8, "width": 8},
        image_grid_pinpoints=PINPOINTS,
    )


def onevision_images() -> Any:
    return tf.LlavaOnevisionImageProcessorPil(
        size={"height": 8, "width": 8}, image_grid_pinpoints=PINPOINTS
    )


def smolvlm_images() -> Any:
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    return tf.SmolVLMImageProcessorPil(**sizes)


def idefics_images() -> Any:
    sizes = {"size": {"longest_edge": 32}, "max_image_size": {"longest_edge": 16}}
    return tf.Idefics3ImageProcessorPil(**sizes)


def internvl_images() -> Any:
    return tf.GotOcr2ImageProcessorPil(size=SIZE)


def qwen_images() -> Any:
    return tf.Qwen2VLImageProcessorPil(
        patch_size=4,
        merge_size=2,
        temporal_patch_size=2,
        size={"shortest_edge": 64, "longest_edge": 4096},
    )


def gemma_images() -> Any:
    return tf.Gemma3ImageProcessorPil(size=SIZE)


VLMS = {
    "llava": Vlm(LLAVA_TEXT, tf.LlavaForConditionalGeneration, llava, clip_images, None, "old"),
    "llava_next": Vlm(NEXT_TEXT, tf.LlavaNextForConditionalGeneration, llava_next, next_images, 16),
    "llava_onevision": Vlm(
        ONEVISION_TEXT,
        tf.LlavaOnevisionForConditionalGeneration,
        llava_onevision,
        onevision_images,
        16,
        "old",
    ),
    "smolvlm": Vlm(SMOLVLM_TEXT, tf.SmolVLMForConditionalGeneration, smolvlm, smolvlm_images),
    "idefics3": Vlm(
        IDEFICS_TEXT, tf.Idefics3ForConditionalGeneration, idefics3, idefics_images, None, "old"
    ),
    "internvl": Vlm(
        INTERNVL_TEXT, tf.InternVLForConditionalGeneration, internvl, internvl_images, None, "new"
    ),
    "qwen2_vl": Vlm(QWEN2_TEXT, tf.Qwen2VLForConditionalGeneration, qwen2_vl, qwen_images, 24),
    "qwen2_5_vl": Vlm(
        QWEN2_TEXT, tf.Qwen2_5_VLForConditionalGeneration, qwen2_5_vl, qwen_images, 24
    ),
    "qwen3_vl": Vlm(
        QWEN3_TEXT, tf.Qwen3VLForConditionalGeneration, qwen3_vl, qwen_images, 24, "new"
    ),
    "gemma3": Vlm(GEMMA_TEXT, tf.Gemma3ForConditionalGeneration, gemma3, gemma_images),
}


class Processor(NamedTuple):
    """The library's own processor, and what of it puts image tokens into a text."""

    kind: Any
    marker: str  # what it replaces in the rendered template
    fields: dict[str, Any]

    def expand(self, text: str, image_processor: Any, processed: dict[str, Any]) -> str:
        """The text with the tokens of its image, by the library's method.

        Made without `__init__`, which wants a video processor, hence torchvision, in some families.
        """
        own = self.kind.__new__(self.kind)
        vars(own).update(self.fields, image_processor=image_processor, image_token=self.marker)
        return text.replace(self.marker, own.replace_image_token(processed, 0))


AROUND_CROPS = {
    "fake_image_token": "<fake_token_around_image>",
    "global_image_token": "<global-img>",
    "global_image_tag": "<global-img>",
    "image_seq_len": 4,
}
QWEN_PROCESSOR = Processor(tf.Qwen2VLProcessor, "<|image_pad|>", {})
PROCESSORS = {
    "llava": Processor(
        tf.LlavaProcessor,
        "<image>",
        {
            "patch_size": 4,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
        },
    ),
    "llava_next": Processor(
        tf.LlavaNextProcessor,
        "<image>",
        {
            "patch_size": 4,
            "num_additional_image_tokens": 1,
            "vision_feature_select_strategy": "default",
        },
    ),
    "llava_onevision": Processor(
        tf.LlavaOnevisionProcessor,
        "<image>",
        {
            "num_image_tokens": 4,
            "vision_feature_select_strategy": "full",
            "vision_aspect_ratio": "anyres_max_9",
        },
    ),
    "smolvlm": Processor(tf.SmolVLMProcessor, "<image>", AROUND_CROPS),
    "idefics3": Processor(tf.Idefics3Processor, "<image>", AROUND_CROPS),
    "internvl": Processor(
        tf.InternVLProcessor,
        "<IMG_CONTEXT>",
        {"image_seq_length": 4, "start_image_token": "<img>", "end_image_token": "</img>"},
    ),
    "qwen2_vl": QWEN_PROCESSOR,
    "qwen2_5_vl": QWEN_PROCESSOR,
    "qwen3_vl": QWEN_PROCESSOR,
    "gemma3": Processor(
        tf.Gemma3Processor,
        "<start_of_image>",
        {
            "full_image_sequence": "\n\n<start_of_image>"
            + "<image_soft_token>" * 4
            + "<end_of_image>\n\n"
        },
    ),
}


def tokenizer_of(text: Text) -> Any:
    """Byte-level BPE with the family's special tokens and its chat template."""
    specials = text.specials.split()
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=specials,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(SENTENCES * 4, trainer)
    if text.adds_bos:
        bpe.post_processor = processors.TemplateProcessing(
            single=f"{text.bos} $A", special_tokens=[(text.bos, bpe.token_to_id(text.bos))]
        )
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token=specials[0],
        bos_token=text.bos,
        eos_token=text.eos or text.end,
        chat_template=text.template,
    )


def write(vlm: Vlm, folder: Path, *, spare: int = 0) -> Path:
    """Config, weights, tokenizer, template and image processor; `spare` unused rows of tokens."""
    tokenizer = tokenizer_of(vlm.text)
    ids = tokenizer.get_vocab()
    text = {
        "hidden_size": WIDTH,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": len(tokenizer) + spare,
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
    model = vlm.model(vlm.config(text, ids))
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.ndim > 1:  # Gemma 3 starts its projector at zero
            parameter.data.normal_(0, 0.2, generator=generator)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    vlm.processor().save_pretrained(folder)
    rename(folder, vlm.as_saved)
    return folder


def rename(folder: Path, as_saved: str) -> None:
    """Published image processors name no backend; some templates are in other files."""
    file, template = folder / "preprocessor_config.json", folder / "chat_template.jinja"
    images = json.loads(file.read_text())
    suffix = "Fast" if as_saved == "new" else ""
    images["image_processor_type"] = images["image_processor_type"].removesuffix("Pil") + suffix
    file.write_text(json.dumps(images))
    if as_saved == "new":
        file.unlink()
        (folder / "processor_config.json").write_text(json.dumps({"image_processor": images}))
    if as_saved == "old":
        text = {"chat_template": template.read_text()}
        (folder / "chat_template.json").write_text(json.dumps(text))
        template.unlink()
        config = json.loads((folder / "tokenizer_config.json").read_text())
        config["chat_template"] = (
            "{% for message in messages %}{{ '' + message.content }}{% endfor %}"
        )
        (folder / "tokenizer_config.json").write_text(json.dumps(config))


@cache
def published(name: str) -> Path:
    """The folder of a family by name; made once in a session, never changed."""
    folder = Path(tempfile.mkdtemp(prefix=f"{name}-"))
    atexit.register(shutil.rmtree, folder)
    return write(VLMS[name], folder)


def load(name: str) -> Policy:
    return Policy.load(published(name), image_side=VLMS[name].image_side)

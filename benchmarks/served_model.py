"""A judge to serve: LLaVA-1.5's image tokens and layers of random weights, 66 million.

It says nothing of use; reading a prompt costs it what it costs a model of that size.
`python -m benchmarks.served_model FOLDER` writes what servers load: weights under the hub's names,
tokenizer, image processor, and a chat template that keeps text and image in the order they are
sent in. LLaVA's own template puts the image first whatever was sent.
"""

from __future__ import annotations

import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
import transformers as tf
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from stllava.pipeline.export.weights import write_weights

PAD, START, END, IMAGE = SPECIALS = ("<pad>", "<s>", "</s>", "<image>")
TEMPLATE = """{{ bos_token }}{% for message in messages %}{{ message['role'].upper() + ': ' }}\
{% if message['content'] is string %}{{ message['content'] }}{% else %}\
{% for part in message['content'] %}\
{% if part['type'] == 'image' %}{{ '<image>\n' }}{% else %}{{ part['text'] + '\n' }}{% endif %}\
{% endfor %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""
EYE = {"hidden_size": 384, "intermediate_size": 1536, "num_hidden_layers": 6,
       "num_attention_heads": 6, "patch_size": 14, "image_size": 336}  # fmt: skip
TEXT = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6,
        "num_attention_heads": 12, "max_position_embeddings": 4096,
        "tie_word_embeddings": False}  # fmt: skip
SIDE = {"height": EYE["image_size"], "width": EYE["image_size"]}


def write(folder: Path, texts: list[str]) -> Path:
    """The checkpoint; `texts` are what its tokenizer of 8,000 tokens learns words from."""
    tokenizer = _tokenizer(texts)
    config = tf.LlavaConfig(
        vision_config=tf.CLIPVisionConfig(**EYE),
        text_config=tf.LlamaConfig(
            **TEXT, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id,
        ),
        image_token_index=SPECIALS.index(IMAGE),
        image_seq_length=576,
        vision_feature_layer=-2,
    )  # fmt: skip
    torch.manual_seed(0)
    with TemporaryDirectory() as own:
        tf.LlavaForConditionalGeneration(config).save_pretrained(own)
        folder.mkdir(parents=True, exist_ok=True)
        write_weights(Path(own), folder)
    config.architectures = ["LlavaForConditionalGeneration"]
    config.save_pretrained(folder)
    images = tf.CLIPImageProcessorPil(size={"shortest_edge": SIDE["height"]}, crop_size=SIDE)
    tf.LlavaProcessor(
        image_processor=images,
        tokenizer=tokenizer,
        patch_size=EYE["patch_size"],
        num_additional_image_tokens=1,
        vision_feature_select_strategy="default",
        chat_template=TEMPLATE,
        image_token=IMAGE,
    ).save_pretrained(folder)
    return folder


def _tokenizer(texts: list[str]) -> Any:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(texts, trainer)
    return tf.PreTrainedTokenizerFast(
        tokenizer_object=bpe, pad_token=PAD, bos_token=START, eos_token=END, chat_template=TEMPLATE
    )


if __name__ == "__main__":
    docs = sorted(Path("docs").glob("*.md")) + sorted(Path("src/stllava/prompts").glob("*.py"))
    write(Path(sys.argv[1]), [path.read_text(encoding="utf-8") for path in docs])

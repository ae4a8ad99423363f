"""Folders of other people: what is wrong with them, and families that are not listed."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as tf
from safetensors.torch import load_file, save_file
from stages import sft_settings
from toy import conversations, open_image, scorer_of
from vlms import EYE, LLAVA_TEXT, VLMS, Vlm, clip_images, load, published, write

from stllava.errors import PolicyError
from stllava.policy import adapters
from stllava.policy.policy import Policy
from stllava.training.plan import first_micro_batch
from stllava.training.preflight import preflight
from stllava.training.sft import SftObjective


def broken(tmp_path: Path) -> Path:
    return Path(shutil.copytree(published("llava_next"), tmp_path / "broken"))


def edit(file: Path, **fields: Any) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def no_template(folder: Path) -> None:
    (folder / "chat_template.jinja").unlink()


def no_end(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    file.write_text(file.read_text().replace("</s>", "<end>"))


def failing(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text("{{ raise_exception('no such role') }}")


def another_order(folder: Path) -> None:
    (folder / "chat_template.jinja").write_text(
        "{% for message in messages | reverse %}{{ message.content[-1].text }}</s>{% endfor %}"
    )


def no_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink(missing_ok=True)
    (folder / "processor_config.json").unlink(missing_ok=True)


def no_tokenizer(folder: Path) -> None:
    for file in folder.glob("tokenizer*"):
        file.unlink()


def missing_shard(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = dict.fromkeys(weights, "model-00002-of-00002.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": 1}, "weight_map": names})
    )


def cut_off(folder: Path) -> None:
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])


def rewrite(folder: Path, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


def other_shape(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    edit(folder / "config.json", text_config={**config["text_config"], "intermediate_size": 64})


def missing_tensor(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.pop("multi_modal_projector.linear_1.weight"))


def unknown_tensor(folder: Path) -> None:
    rewrite(folder, lambda weights: weights.update(resampler=torch.zeros(2)))


def paligemma(folder: Path) -> None:
    edit(folder / "config.json", model_type="paligemma")


def text_only(folder: Path) -> None:
    tf.LlamaConfig().save_pretrained(folder)


def other_text_only(folder: Path) -> None:
    tf.Qwen2Config().save_pretrained(folder)


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (no_template, "no chat template"),
        (no_end, r"closes an answer with '<end> .* instead of a special token"),
        (failing, "its chat template fails: no such role"),
        (another_order, "chat template"),
        (no_processor, "cannot be loaded as a policy: image processor: Can't load"),
        (no_tokenizer, "cannot be loaded as a policy: tokenizer: "),
        (missing_shard, "model: No such file .*model-00002-of-00002.safetensors"),
        (cut_off, "cannot be loaded as a policy: model: .*incomplete"),
        (
            other_shape,
            r"of another shape than config.json says: 6, first \S+layers.0\S+, \S+, \S+;",
        ),
        (missing_tensor, r"weights missing: 1, first \S*projector.linear_1.weight;"),
        (unknown_tensor, r"without a place in the model of config.json: 1, first resampler;"),
        (paligemma, "paligemma is not supported: its attention sees the whole prompt both ways"),
        (text_only, "stllava convert"),
        (other_text_only, "cannot be loaded as a policy: model: Unrecognized .*Qwen2Config"),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_what_is_wrong_with_a_folder_is_said_in_one_line(tmp_path, damage, complaint):
    folder = broken(tmp_path)
    damage(folder)
    files = sorted(folder.rglob("*"))
    with pytest.raises(PolicyError, match=complaint) as error:
        Policy.load(folder)
    assert "\n" not in str(error.value)
    assert str(folder) in str(error.value)
    assert sorted(folder.rglob("*")) == files


def test_buffers_that_older_releases_wrote_are_no_obstacle(tmp_path):
    folder = broken(tmp_path)
    buffer = "model.vision_tower.vision_model.embeddings.position_ids"
    rewrite(folder, lambda weights: weights.update({buffer: torch.arange(4)}))
    assert Policy.load(folder, image_side=16).format.end == "</s>"


def test_spare_rows_take_the_new_token(tmp_path):
    policy = Policy.load(write(VLMS["qwen2_vl"], tmp_path, spare=8), image_side=24)
    rows = policy.core.get_input_embeddings().weight
    assert len(rows) == len(policy.tokenizer) + 7
    torch.testing.assert_close(
        rows[len(policy.tokenizer) - 1], rows[: len(policy.tokenizer) - 1].mean(0)
    )


def test_a_local_folder_needs_no_network(monkeypatch):
    def refuse(*_: object) -> None:
        raise AssertionError("a connection was tried")

    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert load("smolvlm").num_image_tokens == 20


def vipllava(text: dict[str, Any], ids: dict[str, int]) -> Any:
    return tf.VipLlavaConfig(
        vision_config=tf.CLIPVisionConfig(**{**EYE, "image_size": 16}),
        text_config=tf.LlamaConfig(**text, tie_word_embeddings=False),
        image_token_index=ids["<image>"],
        vision_feature_layer=[-2, 1],
    )


def test_an_unlisted_family_is_inferred_and_goes_through_preflight(tmp_path, caplog):
    text = LLAVA_TEXT._replace(template=VLMS["llava_next"].text.template)
    kin = Vlm(text, tf.VipLlavaForConditionalGeneration, vipllava, clip_images)
    policy = Policy.load(write(kin, tmp_path))
    assert [record.getMessage() for record in caplog.records if record.name.startswith("stl")] == [
        f"{tmp_path}: family vipllava is not listed; inferred: vision encoder vision_tower.layers, "
        "projector multi_modal_projector, language model language_model.layers, pictures of 448 "
        "pixels written as <image>"
    ]
    assert policy.num_image_tokens == 16
    assert policy.probe().startswith("texts of an image share it")
    settings = sft_settings(max_tokens=512, micro_batch_tokens=600, learn_first_question=True)
    torch.manual_seed(0)
    adapters.adapt(policy, settings)
    objective = SftObjective(policy, conversations(4), open_image, settings, 0)
    micro = first_micro_batch(objective, settings)
    rows = preflight(scorer_of(policy), objective, micro, settings)
    assert [row["with_gradient"] for row in rows] == [row["checked"] for row in rows]


def blip2(text: dict[str, Any], ids: dict[str, int]) -> Any:
    small = {k: text[k] for k in ("hidden_size", "num_hidden_layers", "num_attention_heads")}
    between = {**small, "intermediate_size": 48, "encoder_hidden_size": 32, "vocab_size": 10}
    opt = {**small, "ffn_dim": 48, "word_embed_proj_dim": 32, "vocab_size": text["vocab_size"]}
    return tf.Blip2Config(
        vision_config=tf.Blip2VisionConfig(**{**EYE, "image_size": 16}),
        qformer_config=tf.Blip2QFormerConfig(**between),
        text_config=tf.OPTConfig(**opt),
        image_token_index=ids["<image>"],
    )


def test_a_family_of_another_build_is_refused(tmp_path):
    kin = Vlm(LLAVA_TEXT, tf.Blip2ForConditionalGeneration, blip2, clip_images)
    with pytest.raises(PolicyError, match=r"blip-2: no module `model` .* not supported"):
        Policy.load(write(kin, tmp_path))

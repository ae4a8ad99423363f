"""Everything beside the weights, as transformers 4 and 5 and vLLM read it."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from stllava.files import read_json, write_json, write_text
from stllava.formats import FORMATS, IMAGE
from stllava.pipeline.export.template import chat_template


def write_configs(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Configs, tokenizer, processor and chat template."""
    for file in sorted(source.glob("*")):
        if file.suffix in {".json", ".model", ".txt"} and "safetensors" not in file.name:
            shutil.copyfile(file, target / file.name)
    write_json(target / "config.json", _config(config))
    write_json(target / "tokenizer_config.json", _tokenizer(source))
    images = _image_processor(read_json(source / "preprocessor_config.json"))
    write_json(target / "preprocessor_config.json", images)
    write_json(target / "processor_config.json", _processor(config, IMAGE))
    chat_format = FORMATS[read_json(source / "stllava.json")["chat_format"]]
    write_text(target / "chat_template.jinja", chat_template(chat_format))


def _config(config: dict[str, Any]) -> dict[str, Any]:
    """vLLM asks the text model for its class; transformers 4 reads no rope_parameters."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    text = dict(config["text_config"])
    name = MODEL_FOR_CAUSAL_LM_MAPPING_NAMES.get(text["model_type"])
    if name and not text.get("architectures"):
        text["architectures"] = [name]
    rope = text.get("rope_parameters") or {}
    if rope.get("rope_type") == "default":
        text.setdefault("rope_theta", rope["rope_theta"])
    return {**config, "text_config": text}


def _tokenizer(source: Path) -> dict[str, Any]:
    """Class and list names of transformers 4, which 5 understands as well."""
    found = read_json(source / "tokenizer_config.json")
    if found.get("tokenizer_class") == "TokenizersBackend":
        found["tokenizer_class"] = "PreTrainedTokenizerFast"
        found.pop("backend", None)
    if isinstance(found.get("extra_special_tokens"), list):
        found["additional_special_tokens"] = found.pop("extra_special_tokens")
    # Else transformers 4 adds token_type_ids, which generate() refuses.
    found.setdefault("model_input_names", ["input_ids", "attention_mask"])
    return {**found, "processor_class": "LlavaProcessor"}


def _image_processor(found: dict[str, Any]) -> dict[str, Any]:
    """CLIP's with padding to a square, which `Policy` does itself, is called LLaVA's."""
    if found.get("image_processor_type", "").startswith("CLIPImageProcessor"):
        found = {**found, "image_processor_type": "LlavaImageProcessor", "do_pad": True}
    return {**found, "processor_class": "LlavaProcessor"}


def _processor(config: dict[str, Any], image: str) -> dict[str, Any]:
    """What LlavaProcessor counts an image's tokens from."""
    vision = config["vision_config"]
    select = config["vision_feature_select_strategy"]
    num_patches = (vision["image_size"] // vision["patch_size"]) ** 2
    return {
        "processor_class": "LlavaProcessor",
        "image_token": image,
        "patch_size": vision["patch_size"],
        "vision_feature_select_strategy": select,
        # the class token, if the tower has one: "default" takes it off again
        "num_additional_image_tokens": config["image_seq_length"]
        - num_patches
        + (select == "default"),
    }

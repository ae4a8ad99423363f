"""Published layouts as toys with the real names: converted, loaded, compared with their model.

Each toy is an ordinary model of random weights whose state dict is written under the names and in
the files of a published checkpoint; the converted folder must then give the model's own logits.
"""

from __future__ import annotations

import copy
import json
import re
from functools import cache
from pathlib import Path

import huggingface_hub
import pytest
import torch
import toy
from huggingface_hub.errors import LocalEntryNotFoundError
from peft import LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from test_chat_formats import words as llama_words
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoTokenizer,
    CLIPVisionConfig,
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
)

from stllava.errors import PolicyError, RecipeError
from stllava.formats import FORMATS, IMAGE, VUSR
from stllava.policy.policy import Policy
from stllava.policy.published import (
    add_asker_token,
    asker_token_indices,
    convert,
    recognise,
    resolve_checkpoint,
    set_asker,
    write,
)
from stllava.policy.published.keys import Offer, account, canonical
from stllava.policy.published.lora import check_pairs, pairs_of
from stllava.policy.published.model import draw, projector_of, text_config, vision_config
from stllava.policy.published.source import Kept, Source
from stllava.policy.published.text import read_tokenizer
from stllava.policy.sqllava import SqlLavaConfig, SqlLavaForConditionalGeneration
from stllava.records import Turn

WIDTH, EYE = 32, 64  # EYE is one head of CLIP, so that the encoder's config follows from its shapes
TURN = Turn(question="Is there a nodule?", answer="Yes.")


@cache
def words():
    """A tokenizer as published ones are: <unk>, <s> and </s>, and no word for an image."""
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(toy.SENTENCES * 4, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


ROWS = 300


def text_settings(kind):
    made = {"llama": LlamaConfig, "mistral": MistralConfig}[kind]
    return made(
        hidden_size=WIDTH,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2 if kind == "mistral" else 4,
        vocab_size=ROWS + 2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=1,
        eos_token_id=2,
        tie_word_embeddings=False,
    )


def eye_settings():
    return CLIPVisionConfig(
        hidden_size=EYE,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=1,
        image_size=32,
        patch_size=8,
    )


@cache
def model(projector="prototype", text="llama", dtype=torch.float16):
    """What a toy checkpoint holds, rounded to its dtype; two tokens longer than the published."""
    torch.manual_seed(3)
    common = {
        "text_config": text_settings(text),
        "vision_config": eye_settings(),
        "image_token_index": ROWS,
        "image_seq_length": 16,
    }
    if projector == "mlp":
        made = LlavaForConditionalGeneration(LlavaConfig(**common))
    else:
        made = SqlLavaForConditionalGeneration(SqlLavaConfig(**common))
    with torch.no_grad():
        for parameter in made.parameters():  # not the buffers, whose dtype is the library's matter
            noise = 0.02 * torch.randn_like(parameter)
            parameter.copy_((parameter + noise).to(dtype))
    return made.eval()


def published(made, dtype=torch.float16, *, eye=True, rotary=True):
    """The state dict under the names of LLaVA's original code, with its buffers."""
    state = {}
    for own, tensor in made.state_dict().items():
        name = own.replace("model.language_model.", "model.")
        name = name.replace("model.vision_tower.", "model.vision_tower.vision_tower.vision_model.")
        name = name.replace("multi_modal_projector.linear_1", "mm_projector.0")
        name = name.replace("multi_modal_projector.linear_2", "mm_projector.2")
        name = name.replace("multi_modal_projector", "mm_projector")
        rows = ROWS if "embed_tokens" in name or "lm_head" in name else None
        state[name] = tensor[:rows].to(dtype).clone()
    if rotary:
        state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
        state["model.vision_tower.vision_tower.vision_model.embeddings.position_ids"] = (
            torch.arange(17)[None]
        )
    return {k: t for k, t in state.items() if eye or "vision_tower" not in k}


def config_of(kind, text="llama", **more):
    said = text_settings(text).to_dict() | {
        "model_type": kind,
        "vocab_size": ROWS,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_hidden_size": EYE,
        "torch_dtype": "float16",
    }
    return said | more


def write_folder(path, config, state, *, tokenizer=True, shards=1, name="model.safetensors"):
    """A folder as it lies on the hub: config, weights in shards with an index, tokenizer."""
    path.mkdir(parents=True)
    (path / "config.json").write_text(json.dumps(config))
    if tokenizer:
        words().save_pretrained(path)
    store = torch.save if name.endswith(".bin") else save_file
    if shards == 1:
        store(state, path / name)
        return path
    stem, ending = name.split(".")
    index = {}
    for number in range(shards):
        file = f"{stem}-{number + 1:05}-of-{shards:05}.{ending}"
        part = dict(list(state.items())[number::shards])
        store(part, path / file)
        index |= dict.fromkeys(part, file)
    (path / f"{name}.index.json").write_text(json.dumps({"weight_map": index}))
    return path


def write_eye(path, made, dtype=torch.float16):
    """A CLIP vision folder, as `ZachSun/stllava-med-7b-vit`."""
    prefix = "model.vision_tower."
    state = {
        k.replace(prefix, "vision_model."): t.to(dtype).clone()
        for k, t in made.state_dict().items()
        if k.startswith(prefix)
    }
    config = eye_settings().to_dict() | {"model_type": "clip_vision_model"}
    return write_folder(path, config, state, tokenizer=False)


def language(state):
    return {k: t for k, t in state.items() if "mm_projector" not in k and "vision_tower" not in k}


def projector(state):
    return {k: t for k, t in state.items() if "mm_projector" in k}


def assert_same(out, made):
    """The converted folder loads, and says what the model says, bit for bit."""
    policy = Policy.load(out)
    image = int(policy.tokenizer.convert_tokens_to_ids(IMAGE))
    assert image == ROWS
    ids = torch.tensor([policy.chat.training([TURN], [False]).ids])
    pixels = policy.pixel_values([toy.open_image("a")])
    with torch.no_grad():
        expected = made(input_ids=ids, pixel_values=pixels).logits[..., :ROWS]
        got = policy.model(input_ids=ids, pixel_values=pixels).logits[..., :ROWS]
    assert torch.equal(got, expected)
    assert got.std() > 0.1
    return policy


def card_of(out):
    return json.loads((out / "stllava.json").read_text())


def write_whole(path, made=None, **more):
    """`ZachSun/stllava-med-7b`: one model with everything inside."""
    return write_folder(path, config_of("llava"), published(made or model()), **more)


def test_stllava_med_in_one_piece_converts_to_equal_logits(tmp_path):
    source = write_whole(tmp_path / "hub", shards=3)
    assert recognise(source).kind == "llava"
    report = convert(source, tmp_path / "out")
    policy = assert_same(tmp_path / "out", model())
    assert isinstance(policy.model, SqlLavaForConditionalGeneration)
    assert (policy.format.name, report.asker) == ("v1_sq", "text")
    assert report.added_tokens == (IMAGE,)
    assert report.dtypes == {"float16": report.num_tensors}
    assert sorted(report.left_out.values()) == [1, 1]
    card = card_of(tmp_path / "out")
    assert (card["chat_format"], card["asker"]) == ("v1_sq", "text")
    assert len(card["converted_from"]["files"]) == 3
    assert recognise(tmp_path / "out") is None


def test_split_form_with_projector_file_converts_to_equal_logits(tmp_path):
    state = published(model(), rotary=False)
    llm = write_folder(tmp_path / "llm", text_settings("llama").to_dict() | {"vocab_size": ROWS},
                       language(state), shards=3)  # fmt: skip
    eye = write_eye(tmp_path / "vit", model())
    file = tmp_path / "mm_projector.safetensors"
    save_file(projector(state), file)
    assert [recognise(p).kind for p in (llm, eye, file)] == ["llm", "vision", "projector"]
    convert(llm, tmp_path / "out", vision=eye, projector=file)
    assert assert_same(tmp_path / "out", model()).format.name == "v1_sq"


@pytest.mark.parametrize("prefix", ["", "mm_projector.", "base_model.model.model.mm_projector."])
def test_projector_files_are_read_whatever_wraps_their_names(tmp_path, prefix):
    source = write_whole(tmp_path / "hub")
    other = model("prototype", "llama", torch.bfloat16)
    names = {k.replace("model.mm_projector.", prefix): t.contiguous()
             for k, t in projector(published(other)).items()}  # fmt: skip
    save_file(names, tmp_path / "mm_projector.safetensors")
    report = convert(source, tmp_path / "out", projector=tmp_path / "mm_projector.safetensors")
    assert len(names) in report.left_out.values()
    own = load_file(tmp_path / "out" / "model-00001-of-00001.safetensors")
    for name, tensor in projector(published(other)).items():
        ours = name.replace("mm_projector", "multi_modal_projector")
        assert torch.equal(own[ours], tensor)


def test_original_llava_converts_with_the_vision_encoder_it_names(tmp_path):
    made = model("mlp")
    source = write_folder(
        tmp_path / "hub",
        config_of("llava", mm_vision_tower="openai/clip-vit-large-patch14-336"),
        published(made, eye=False),
        shards=2,
        name="pytorch_model.bin",
    )
    with pytest.raises(PolicyError, match=r"a pickle, .*--allow-pickle reads it with weights_only"):
        convert(source, tmp_path / "out")
    with pytest.raises(PolicyError, match=r"--vision \(its config names openai/clip-vit-large"):
        convert(source, tmp_path / "out", allow_pickle=True)
    eye = write_eye(tmp_path / "clip", made)
    report = convert(source, tmp_path / "out", vision=eye, allow_pickle=True)
    policy = assert_same(tmp_path / "out", made)
    assert (policy.format.name, report.asker) == ("v1", "token")
    assert report.added_tokens == (IMAGE, VUSR)


def test_llava_med_with_mistral_inside_converts_to_equal_logits(tmp_path):
    made = model("mlp", "mistral", torch.bfloat16)
    source = write_folder(
        tmp_path / "hub", config_of("llava_mistral", "mistral"), published(made, torch.bfloat16)
    )
    report = convert(source, tmp_path / "out")
    policy = assert_same(tmp_path / "out", made)
    assert policy.format.name == "mistral_instruct"
    assert policy.model.config.text_config.model_type == "mistral"
    assert report.dtypes == {"bfloat16": report.num_tensors}


def test_hf_layout_converts_and_keeps_its_own_image_token(tmp_path):
    made = model("mlp")
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words()._tokenizer, unk_token="<unk>",
                                        bos_token="<s>", eos_token="</s>",
                                        additional_special_tokens=[IMAGE])  # fmt: skip
    source = tmp_path / "hub"
    copy.deepcopy(made).half().save_pretrained(source)
    tokenizer.save_pretrained(source)
    assert recognise(source).kind == "hf"
    report = convert(source, tmp_path / "out")
    assert report.added_tokens == (VUSR,)
    policy = assert_same(tmp_path / "out", made)
    assert policy.format.name == "v1"
    for layer in (policy.model.get_input_embeddings(), policy.model.lm_head):
        assert layer.weight.shape[0] == ROWS + 2
        assert torch.allclose(layer.weight[-1], layer.weight[:-1].mean(0), atol=1e-3)


def test_hf_names_of_the_hub_files_are_the_same_tensors(tmp_path):
    made = model("mlp")
    classic = {}
    for own, tensor in made.state_dict().items():
        name = own.replace("model.language_model.", "language_model.model.")
        name = name.replace("lm_head.", "language_model.lm_head.")
        name = name.replace("model.vision_tower.", "vision_tower.vision_model.")
        classic[name.replace("model.multi_modal", "multi_modal")] = tensor.half()
    source = write_folder(tmp_path / "hub", made.config.to_dict(), classic)
    convert(source, tmp_path / "out")
    assert_same(tmp_path / "out", made)


ALPHA, RANK = 8, 4


def adapters_of(names, shapes, rank, seed):
    """PEFT's tensors for the named weights: A and B, neither zero."""
    noise = torch.Generator().manual_seed(seed)
    state = {}
    for name in names:
        rows, columns = shapes[name]
        module = name.removesuffix(".weight")
        state[f"{module}.lora_A.weight"] = torch.randn(rank, columns, generator=noise).bfloat16()
        state[f"{module}.lora_B.weight"] = torch.randn(rows, rank, generator=noise).bfloat16() / 9
    return state


def write_lora(path, made, *, trained=True, twins="equal"):
    """`ZachSun/sqllava-lora-7b`: vision adapters twice, projector apart. Returns the base, too."""
    state = published(made, eye=False, rotary=False)
    shapes = {k: t.shape for k, t in published(made).items()}
    llm = [k for k in state if re.search(r"(q|k|v|o|gate|up|down)_proj\.weight", k)]
    prefix = "model.vision_tower.vision_tower."
    eye = [k for k in shapes if re.search(r"layers.*((q|k|v|out)_proj|fc\d)\.weight", k)
           and k.startswith(prefix)]  # fmt: skip
    vit = {k.replace(prefix, "base_model.model."): t
           for k, t in adapters_of(eye, shapes, 2, 1).items()}  # fmt: skip
    # the class whose module is `vision_tower` is what PEFT wrapped
    vit = {k.replace("base_model.model.", "base_model.model.vision_tower."): t
           for k, t in vit.items()}  # fmt: skip
    if not trained:
        vit = {k: t * 0 if "lora_B" in k else t for k, t in vit.items()}
    main = {f"base_model.model.{k}": t for k, t in adapters_of(llm, shapes, RANK, 2).items()}
    wrapped = "base_model.model.model.vision_tower."
    twin = {wrapped + k: t + (twins != "equal") for k, t in vit.items()}
    path.mkdir()
    (path / "config.json").write_text(json.dumps(config_of("llava")))
    torch.save(main | twin, path / "adapter_model.bin")
    said = {"r": RANK, "lora_alpha": ALPHA, "bias": "none", "peft_type": "LORA"}
    (path / "adapter_config.json").write_text(json.dumps(said))
    other = {f"base_model.model.{k}": t for k, t in projector(published(made)).items()}
    torch.save(other, path / "non_lora_trainables.bin")
    (path / "Vit-lora").mkdir()
    torch.save(vit, path / "Vit-lora" / "adapter_model.bin")
    said = said | {"r": 2, "lora_alpha": 4}
    (path / "Vit-lora" / "adapter_config.json").write_text(json.dumps(said))
    return path, main, vit


def merged_by_hand(made, main, vit):
    """The model with scale * B @ A added to each weight and rounded as the base is."""
    state = {k: t.clone() for k, t in made.state_dict().items()}

    def add(adapters, own, scale):
        for key in [k for k in adapters if "lora_A" in k]:
            name = own(key.replace(".lora_A.weight", ".weight"))
            b = adapters[key.replace("lora_A", "lora_B")].float()
            state[name] = (state[name] + scale * (b @ adapters[key].float())).half().float()

    add(main, lambda k: k.replace("base_model.model.model.", "model.language_model."), ALPHA / RANK)
    add(vit, lambda k: "model." + k.replace("base_model.model.", "").replace("vision_model.", ""),
        2.0)  # fmt: skip
    merged = SqlLavaForConditionalGeneration(made.config)
    merged.load_state_dict(state)
    return merged.eval()


def write_base(path, made):
    """A base as SQ-LLaVA used: LLaVA with another kind of projector and a vision encoder inside."""
    state = published(made)
    for name, shape in (("0.weight", (WIDTH, EYE)), ("2.weight", (WIDTH, WIDTH))):
        state[f"model.mm_projector.{name}"] = torch.zeros(shape)
    return write_folder(path, config_of("llava"),
                        {k: t for k, t in state.items() if not re.search(r"projector\.[a-z]", k)},
                        )  # fmt: skip


def test_lora_form_equals_the_base_merged_by_hand(tmp_path):
    lora, main, vit = write_lora(tmp_path / "lora", model())
    base, eye = write_base(tmp_path / "base", model()), write_eye(tmp_path / "vit", model())
    report = convert(lora, tmp_path / "out", base=base, vision=eye, allow_pickle=True)
    assert_same(tmp_path / "out", merged_by_hand(model(), main, vit))
    assert report.lora == (14, 18, 36, 0, 0)
    assert not report.lora.vit_untrained
    assert report.dtypes == {"float16": report.num_tensors}
    assert card_of(tmp_path / "out")["lora"]["vit_untrained"] is False


def test_lora_form_says_that_the_vision_adapter_never_trained(tmp_path):
    lora, main, _ = write_lora(tmp_path / "lora", model(), trained=False, twins="different")
    base = write_base(tmp_path / "base", model())
    report = convert(lora, tmp_path / "out", base=base, allow_pickle=True)
    assert_same(tmp_path / "out", merged_by_hand(model(), main, {}))
    assert report.lora.vit_untrained
    assert (report.lora.twins_equal, report.lora.twins_different) == (0, 36)
    assert "every vision lora_B is zero" in report.lines()[-1]


def test_lora_form_without_a_base_is_refused(tmp_path):
    lora, *_ = write_lora(tmp_path / "lora", model())
    with pytest.raises(PolicyError, match="name what they were trained on with --base"):
        convert(lora, tmp_path / "out", allow_pickle=True)


def test_pickles_that_were_left_on_the_hub_are_asked_for_by_their_flag(tmp_path):
    lora, *_ = write_lora(tmp_path / "lora", model())
    whole = write_whole(tmp_path / "hub", shards=2, name="pytorch_model.bin")
    for file in [*lora.rglob("*.bin"), *whole.glob("*.bin")]:
        file.unlink()
    with pytest.raises(PolicyError, match=r"non_lora_trainables.bin: a pickle, .*--allow-pickle"):
        convert(lora, tmp_path / "out", base=write_base(tmp_path / "base", model()))
    with pytest.raises(PolicyError, match=r"pytorch_model.bin: a pickle, .*--allow-pickle"):
        convert(whole, tmp_path / "out")


def change_lora(path, change):
    state = torch.load(path / "adapter_model.bin", weights_only=True)
    key = next(k for k in state if "gate_proj.lora_B" in k)
    change(state, key)
    torch.save(state, path / "adapter_model.bin")


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda s, k: s.pop(k), "1 adapters miss A or B: language_model.layers.0.mlp.gate_proj"),
        (lambda s, k: s.update({k: s[k][:-1]}), "1 adapters fit no weight of the base"),
        (lambda s, k: s.update({"odd": s[k]}), "odd is no adapter tensor"),
    ],
)
def test_adapters_that_fit_no_weight_are_refused(tmp_path, change, complaint):
    lora, *_ = write_lora(tmp_path / "lora", model())
    change_lora(lora, change)
    base = write_base(tmp_path / "base", model())
    with pytest.raises(PolicyError, match=complaint):
        convert(lora, tmp_path / "out", base=base, allow_pickle=True)
    assert not (tmp_path / "out").exists()


def without(name):
    return lambda state: state.pop(name)


def cut(name):
    return lambda state: state.update({name: state[name][:-1].clone()})


def twice(name):
    return lambda state: state.update({f"language_model.{name}": state[name].clone()})


def extra(name):
    return lambda state: state.update({name: torch.zeros(2)})


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without("model.norm.weight"), "1 missing: language_model.norm.weight$"),
        (cut("model.norm.weight"), r"1 mis-shaped: model.norm.weight \[31\] instead of \[32\]$"),
        (extra("model.image_newline"), "1 unexpected: model.image_newline$"),
        (twice("lm_head.weight"), "1 unexpected: lm_head.weight$"),
        (cut("lm_head.weight"), r"1 mis-shaped: lm_head.weight \[299, 32\] instead of \[300, 32\]"),
        (cut("model.mm_projector.c.bias"), r"1 mis-shaped: model.mm_projector.c.bias"),
    ],
)
def test_a_tensor_too_few_too_many_or_misshaped_stops_before_writing(tmp_path, change, complaint):
    state = published(model())
    change(state)
    source = write_folder(tmp_path / "hub", config_of("llava"), state)
    with pytest.raises(PolicyError, match=f"nothing was written; tensors {complaint}"):
        convert(source, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"hub"}


def test_many_complaints_are_counted_and_the_first_named(tmp_path):
    state = {k: t for k, t in published(model()).items() if ".layers.1." not in k}
    source = write_folder(tmp_path / "hub", config_of("llava"), state)
    with pytest.raises(PolicyError, match=r"25 missing: \S+, \S+, \S+ and 22 more"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("shards", [1, 2])
def test_half_downloaded_weights_are_named(tmp_path, shards):
    source = write_whole(tmp_path / "hub", shards=shards)
    file = sorted(source.glob("*.safetensors"))[-1]
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(PolicyError, match=rf"{file.name}: cut short or damaged, fetch it again"):
        convert(source, tmp_path / "out")


def test_a_missing_shard_is_named(tmp_path):
    source = write_whole(tmp_path / "hub", shards=3)
    (source / "model-00002-of-00003.safetensors").unlink()
    with pytest.raises(PolicyError, match=r"1 of 3 shards missing \(model-00002-of-00003"):
        convert(source, tmp_path / "out")


def test_a_language_model_alone_sees_no_images(tmp_path):
    state = language(published(model()))
    llm = write_folder(tmp_path / "llm", text_settings("llama").to_dict(), state)
    with pytest.raises(PolicyError, match=r"sees no images; .* --vision and --projector"):
        convert(llm, tmp_path / "out")


def test_a_pickle_with_code_in_it_is_refused_even_when_allowed(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("ran",)

    source = write_whole(tmp_path / "hub", name="pytorch_model.bin")
    torch.save({"model.norm.weight": Code()}, source / "pytorch_model.bin")
    with pytest.raises(PolicyError, match="cannot be read as tensors"):
        convert(source, tmp_path / "out", allow_pickle=True)


def test_an_existing_folder_is_never_written_to(tmp_path):
    source = write_whole(tmp_path / "hub")
    (tmp_path / "out").mkdir()
    with pytest.raises(PolicyError, match="there already"):
        convert(source, tmp_path / "out")


def test_a_failure_while_writing_leaves_nothing_behind(tmp_path, monkeypatch):
    source = write_whole(tmp_path / "hub")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(write, "save_file", full)
    with pytest.raises(Exception, match="No space left on device"):
        convert(source, tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"hub"}


def test_output_is_cut_into_shards_that_hold_every_tensor_once(tmp_path, monkeypatch):
    monkeypatch.setattr(write, "SHARD_BYTES", 20_000)
    source = write_whole(tmp_path / "hub")
    report = convert(source, tmp_path / "out")
    files = sorted((tmp_path / "out").glob("*.safetensors"))
    names = [n for f in files for n in safe_open(f, framework="pt").keys()]  # noqa: SIM118
    assert len(files) > 5
    assert len(names) == len(set(names)) == report.num_tensors
    assert_same(tmp_path / "out", model())


def test_a_tokenizer_that_is_only_sentencepiece_says_what_to_install(tmp_path, monkeypatch):
    source = write_whole(tmp_path / "hub")
    (source / "tokenizer.json").unlink()
    (source / "tokenizer.model").write_bytes(b"\x0a\x00")
    with pytest.raises(PolicyError, match="pip install sentencepiece protobuf, or put the model's"):
        convert(source, tmp_path / "out")


@pytest.mark.parametrize("legacy", [True, False])
def test_a_llama_tokenizer_goes_on_to_set_blanks_as_it_did(tmp_path, legacy):
    said = {"tokenizer_class": "LlamaTokenizer", "legacy": legacy, "unk_token": "<unk>",
            "bos_token": "<s>", "eos_token": "</s>"}  # fmt: skip
    llama_words("always" if legacy else "first").save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(said))
    ours = read_tokenizer([tmp_path], FORMATS["v1"]).tokenizer
    ours.save_pretrained(tmp_path / "out")
    again = AutoTokenizer.from_pretrained(tmp_path / "out")
    ids = again("<s>USER: a</s>USER: b", add_special_tokens=False)["input_ids"]
    assert ids == AutoTokenizer.from_pretrained(tmp_path)(
        "<s>USER: a</s>USER: b", add_special_tokens=False)["input_ids"]  # fmt: skip
    blank = again.convert_ids_to_tokens(ids[ids.index(again.eos_token_id) + 1]).startswith("▁")
    assert blank is legacy


@pytest.mark.parametrize("asker", ["token", "text"])
@pytest.mark.parametrize("kind", ["prototype", "mlp"])
def test_the_card_records_how_the_asker_speaks(tmp_path, kind, asker):
    source = write_whole(tmp_path / "hub", model(kind))
    report = convert(source, tmp_path / "out", asker=asker)
    policy = Policy.load(tmp_path / "out")
    assert policy.format.asked_by == card_of(tmp_path / "out")["asker"] == report.asker == asker
    assert (VUSR in policy.tokenizer.get_vocab()) == (asker == "token")
    assert policy.provenance.get("asker_untrained", False) == (asker == "token")
    prompt = policy.chat.prompt([TURN], "asker").ids
    ending = policy.tokenizer.decode(prompt[-8:])
    assert ending.endswith("USER: <vusr>" if asker == "token" else "VUSER:")


def test_a_policy_gets_the_asker_token_later_and_trains_only_its_row(tmp_path):
    convert(write_whole(tmp_path / "hub"), tmp_path / "out")
    policy = Policy.load(tmp_path / "out")
    assert asker_token_indices(policy) is None
    before = policy.model.get_input_embeddings().weight.clone()
    assert add_asker_token(policy)
    assert not add_asker_token(policy)
    assert policy.format.name == "v1_sq_token"
    token = policy.tokenizer.convert_tokens_to_ids(VUSR)
    embedding = policy.model.get_input_embeddings().weight
    assert embedding.shape[0] == policy.model.lm_head.weight.shape[0] == len(policy.tokenizer)
    assert torch.equal(embedding[:token], before)
    assert torch.allclose(embedding[token], before.mean(0), atol=1e-6)

    policy.save(tmp_path / "saved")
    again = Policy.load(tmp_path / "saved")
    assert (again.format, again.provenance["asker"]) == (policy.format, "token")
    assert again.tokenizer.convert_tokens_to_ids(VUSR) == token

    adapted = get_peft_model(policy.model, LoraConfig(
        r=2, target_modules=".*language_model.*q_proj",
        trainable_token_indices=asker_token_indices(policy)))  # fmt: skip
    rows = {
        n: p.shape for n, p in adapted.named_parameters() if p.requires_grad and "lora" not in n
    }
    assert [tuple(shape) for shape in rows.values()] == [(1, WIDTH)]


def test_a_recipe_says_how_a_policy_asks(tmp_path):
    convert(write_whole(tmp_path / "hub"), tmp_path / "out")
    policy = Policy.load(tmp_path / "out")
    for asker, name in (("auto", "v1_sq"), ("token", "v1_sq_token"), ("auto", "v1_sq_token"),
                        ("text", "v1_sq")):  # fmt: skip
        set_asker(policy, asker)
        assert (policy.format.name, policy.provenance["asker"]) == (name, policy.format.asked_by)
    assert policy.model.lm_head.weight.shape[0] == ROWS + 2
    policy.format = FORMATS["mistral_instruct"]
    with pytest.raises(RecipeError, match="no text role"):
        set_asker(policy, "text")


def test_loading_a_foreign_layout_names_it_and_the_command(tmp_path):
    whole = write_whole(tmp_path / "hub")
    lora, *_ = write_lora(tmp_path / "lora", model())
    eye = write_eye(tmp_path / "vit", model())
    for path, line in (
        (whole, f"{whole}: LLaVA in its original layout, .*; run stllava convert {whole} OUT"),
        (lora, f"{lora}: LoRA adapters .*; run stllava convert {lora} OUT --base LLM"),
        (eye, f"{eye}: a CLIP vision encoder alone, .* --vision {eye}"),
    ):
        with pytest.raises(PolicyError, match=line) as caught:
            Policy.load(path)
        assert "\n" not in str(caught.value)


def test_what_is_no_published_layout_is_not_recognised(tmp_path):
    toy.policy().save(tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    assert recognise(tmp_path / "ours") is recognise(tmp_path / "empty") is None
    assert recognise(tmp_path / "nowhere") is None
    with pytest.raises(PolicyError, match="in this package's format already"):
        convert(tmp_path / "ours", tmp_path / "out")


def test_a_hub_id_that_is_not_cached_says_what_to_do(tmp_path, monkeypatch):
    asked = {}

    def snapshot_download(name, *, allow_patterns):
        asked[name] = allow_patterns
        if name == "a/cached":
            return str(tmp_path)
        raise LocalEntryNotFoundError("offline")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert resolve_checkpoint(tmp_path) == tmp_path
    assert resolve_checkpoint("a/cached") == tmp_path
    assert "*.bin" not in asked["a/cached"]
    resolve_checkpoint("a/cached", allow_pickle=True)
    assert "*.bin" in asked["a/cached"]
    with pytest.raises(PolicyError, match=r"run `hf download a/b` where there is a network") as e:
        resolve_checkpoint("a/b")
    assert "\n" not in str(e.value)
    with pytest.raises(PolicyError, match="no such folder, and not a hub id"):
        resolve_checkpoint("no/such/folder")


# True sizes: config.json as published (docs/checkpoints.md), names and shapes of the original code.
LLAMA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "rms_norm_eps": 1e-5,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "vocab_size": 32000,
}
MISTRAL_7B = LLAMA_7B | {
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "num_key_value_heads": 8,
    "rope_theta": 1e6,
    "sliding_window": None,
}
MM = {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch", "mm_hidden_size": 1024}
PROTOTYPE = {
    "sim_alpha": (1, 1, 1),
    "sim_beta": (1, 1, 1),
    "mlp.0.weight": (4096, 1024),
    "mlp.0.bias": (4096,),
    "mlp.2.weight": (4096, 4096),
    "mlp.2.bias": (4096,),
    "ln_1.weight": (1024,),
    "ln_1.bias": (1024,),
} | {f"{x}.{p}": (1024,) * n for x in "cvf" for p, n in (("weight", 2), ("bias", 1))}
MLP2X = {"0.weight": (4096, 1024), "0.bias": (4096,), "2.weight": (4096, 4096), "2.bias": (4096,)}


def language_names(config_class, model_class, said, prefix="model."):
    with torch.device("meta"):
        state = model_class(config_class(**said)).state_dict()
    return {re.sub("^model\\.", prefix, k): tuple(t.shape) for k, t in state.items()}


def clip_names(prefix):
    config = CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        image_size=336, patch_size=14)  # fmt: skip
    with torch.device("meta"):
        state = CLIPVisionModel(config).state_dict()
    return {prefix + k.removeprefix("vision_model."): tuple(t.shape) for k, t in state.items()}


def llama_names(*, rows=32000, prefix="model."):
    said = LLAMA_7B | {"vocab_size": rows}
    return language_names(LlamaConfig, LlamaForCausalLM, said, prefix)


def mistral_names():
    said = {k: v for k, v in MISTRAL_7B.items() if not k.startswith("rope")}
    return language_names(MistralConfig, MistralForCausalLM, said)


def projector_names(prefix, shapes):
    return {prefix + k: s for k, s in shapes.items()}


INSIDE = "model.vision_tower.vision_tower.vision_model."
TRUE_SIZES = {
    "ZachSun/stllava-med-7b": (
        LLAMA_7B | MM | {"model_type": "llava"},
        lambda: [
            llama_names()
            | clip_names(INSIDE)
            | projector_names("model.mm_projector.", PROTOTYPE)
        ],
        7.07e9,
    ),
    "ZachSun/stllava-med-7b-llm": (
        LLAMA_7B | {"model_type": "llama"},
        lambda: [
            projector_names("model.mm_projector.", PROTOTYPE),
            clip_names("vision_model."),
            llama_names(),
        ],
        7.07e9,
    ),
    "ZachSun/sqllava-lora-7b": (
        LLAMA_7B | MM | {"model_type": "llava"},
        lambda: [
            projector_names("base_model.model.model.mm_projector.", PROTOTYPE),
            clip_names("vision_model."),
            llama_names() | projector_names("model.mm_projector.", MLP2X),
        ],
        7.07e9,
    ),
    "liuhaotian/llava-v1.5-7b": (
        LLAMA_7B | MM | {"model_type": "llava"},
        lambda: [
            clip_names("vision_model."),
            llama_names() | projector_names("model.mm_projector.", MLP2X),
        ],
        7.06e9,
    ),
    "microsoft/llava-med-v1.5-mistral-7b": (
        MISTRAL_7B | MM | {"model_type": "llava_mistral"},
        lambda: [
            mistral_names() | clip_names(INSIDE) | projector_names("model.mm_projector.", MLP2X)
        ],
        7.57e9,
    ),
    "llava-hf/llava-1.5-7b-hf": (
        {
            "model_type": "llava",
            "text_config": {"model_type": "llama", "vocab_size": 32064,
                            "max_position_embeddings": 4096, "rms_norm_eps": 1e-5},
            "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024,
                              "intermediate_size": 4096, "num_hidden_layers": 24,
                              "num_attention_heads": 16, "image_size": 336, "patch_size": 14},
        },
        lambda: [
            {k.replace("lm_head", "language_model.lm_head"): s
             for k, s in llama_names(prefix="language_model.model.", rows=32064).items()}
            | clip_names("vision_tower.vision_model.")
            | {f"multi_modal_projector.linear_{1 + (k[0] == '2')}{k[1:]}": s
               for k, s in MLP2X.items()}
        ],
        7.06e9,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", TRUE_SIZES)
def test_every_name_and_shape_of_a_true_size_checkpoint_is_accounted_for(tmp_path, name):
    config, sources, size = TRUE_SIZES[name]
    (tmp_path / "config.json").write_text(json.dumps(config))
    offers = [Offer(str(i), shapes) for i, shapes in enumerate(sources())]
    shapes = {}
    for offer in reversed(offers):
        shapes |= {canonical(k): s for k, s in offer.shapes.items()}
    if any("sim_alpha" in k for k in shapes):
        shapes = {k: s for k, s in shapes.items() if "linear_" not in k}
    blueprint = draw(text_config(tmp_path), vision_config(tmp_path, shapes),
                     projector_of(shapes, name), config)  # fmt: skip
    plan = account(blueprint.shapes, offers)
    assert set(plan.origins) == set(blueprint.tensors)
    assert sum(plan.left_out.values()) == (4 if "lora" in name else 0)
    total = sum(torch.Size(shape).numel() for shape in blueprint.shapes.values())
    assert total == pytest.approx(size, rel=1e-3)
    vision = blueprint.config.vision_config
    assert (vision.num_attention_heads, vision.image_size, vision.patch_size) == (16, 336, 14)
    assert (blueprint.config.image_seq_length, blueprint.config.vision_feature_layer) == (576, -2)


def kept(module, rows, columns, rank):
    """A and B of one adapter, as names and shapes alone."""
    shapes = {"A": (rank, columns), "B": (rows, rank)}
    return {
        f"{module}.lora_{side}.weight": Kept(Path("nowhere"), shape, torch.bfloat16)
        for side, shape in shapes.items()
    }


def test_true_size_adapters_fit_and_take_the_bytes_that_the_hub_lists(tmp_path):
    config = LLAMA_7B | MM | {"model_type": "llava"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    weights = llama_names() | clip_names(INSIDE)
    shapes = {canonical(k): s for k, s in weights.items()}
    blueprint = draw(text_config(tmp_path), vision_config(tmp_path, shapes), "prototype", config)
    llm, vit = {}, {}
    for name, shape in weights.items():
        module = name.removesuffix(".weight")
        if name.startswith("model.layers.") and len(shape) == 2:
            llm |= kept(f"base_model.model.{module}", *shape, 128)
        elif name.startswith(f"{INSIDE}encoder") and len(shape) == 2:
            inner = module.removeprefix("model.vision_tower.")
            vit |= kept(f"base_model.model.{inner}", *shape, 32)
    for tensors, said, megabytes in (
        (llm, {"r": 128, "lora_alpha": 256}, 639.6),
        (vit, {"r": 32, "lora_alpha": 64}, 28.3),
    ):
        pairs = pairs_of(Source("hub", (), tensors), said)
        check_pairs(tmp_path, pairs, blueprint.shapes)
        assert {pair.scale for pair in pairs.values()} == {2.0}
        size = sum(2 * torch.Size(t.shape).numel() for t in tensors.values()) / 1e6
        assert size == pytest.approx(megabytes, abs=0.1)
    projector_size = 2 * sum(torch.Size(s).numel() for s in PROTOTYPE.values()) / 1e6
    assert projector_size == pytest.approx(48.3, abs=0.1)

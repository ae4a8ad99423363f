"""Exported folders: they load elsewhere, compute the same, and say what they are."""

import json
import re
import shutil
import subprocess
import sys
from types import SimpleNamespace

import jinja2
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing
from transformers import AutoModelForImageTextToText, AutoProcessor
from transformers.utils.chat_template_utils import render_jinja_template

from stllava import cli
from stllava.chat import Chat
from stllava.errors import PolicyError, RunError
from stllava.formats import FORMATS, STLLAVA, ChatFormat
from stllava.pipeline import STAGES, Job
from stllava.pipeline import export as exporting
from stllava.pipeline.export import hub as uploading
from stllava.pipeline.export.template import chat_template
from stllava.pipeline.export.weights import hub_name, write_weights
from stllava.policy.policy import Policy
from stllava.recipe import load_recipe
from stllava.records import Conversation, Draw, Preference, Turn
from stllava.run import Run

TINY = {
    "phantom": "train_images=8 unlabelled_images=0 dev_images=1 test_images=8",
    "sft": "batch_size=12 epochs=1",
    "dpo": "batch_size=4 epochs=1 reference=computed",
    "model": "precision=fp32 threads=1 device=cpu",
    "eval": "models=['dpo']",
}

# As in the files of llava-hf on the hub.
NORMS = [f"layer_norm{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")]
VISION_LAYER = [
    f"{linear}.{kind}"
    for linear in ("mlp.fc1", "mlp.fc2", *(f"self_attn.{x}_proj" for x in ("q", "k", "v", "out")))
    for kind in ("weight", "bias")
]
TEXT_LAYER = [
    "input_layernorm.weight",
    "mlp.down_proj.weight",
    "mlp.gate_proj.weight",
    "mlp.up_proj.weight",
    "post_attention_layernorm.weight",
    "self_attn.k_proj.weight",
    "self_attn.o_proj.weight",
    "self_attn.q_proj.weight",
    "self_attn.v_proj.weight",
]
VISION = [
    "embeddings.class_embedding",
    "embeddings.patch_embedding.weight",
    "embeddings.position_embedding.weight",
    "post_layernorm.bias",
    "post_layernorm.weight",
    "pre_layrnorm.bias",
    "pre_layrnorm.weight",
    *(f"encoder.layers.{n}.{name}" for n in range(3) for name in VISION_LAYER + NORMS),
]
TEXT = [
    "embed_tokens.weight",
    "norm.weight",
    *(f"layers.{n}.{name}" for n in range(3) for name in TEXT_LAYER),
]
COMMON = [
    "language_model.lm_head.weight",
    *(f"language_model.model.{name}" for name in TEXT),
    *(f"vision_tower.vision_model.{name}" for name in VISION),
]
MLP_NAMES = [
    *COMMON,
    *(f"multi_modal_projector.linear_{n}.{kind}" for n in (1, 2) for kind in ("weight", "bias")),
]
PROTOTYPE_NAMES = [
    *COMMON,
    *(f"multi_modal_projector.sim_{name}" for name in ("alpha", "beta")),
    *(
        f"multi_modal_projector.{name}.{kind}"
        for name in ("c", "v", "f", "ln_1", "mlp.0", "mlp.2")
        for kind in ("weight", "bias")
    ),
]


def run_stages(path, base, names):
    """The named stages of the demo on few pictures, with pairs from the instruction data."""
    settings = [f"{section}.{text}" for section, row in TINY.items() for text in row.split()]
    recipe = load_recipe("demo", [*settings, f"model.path={base}", "controls={}"])
    with Run(path) as opened:
        opened.start(recipe.dump())
        job = Job(opened, recipe)
        for name in names:
            prefer_what_is_known(job) if name == "prefer" else STAGES[name](job)
    return path


def prefer_what_is_known(job):
    stage = job.stage("prefer")
    stage.begin(inputs=[], settings={})
    talks = job.stage("prepare").read("conversations.jsonl", Conversation)[:4]
    for talk in talks:
        draws = [
            Draw(request_id=talk.id, index=index, text=text)
            for index, text in enumerate((talk.turns[0].answer, "A shoe."))
        ]
        pair = Preference(
            id=talk.id, answers_id=talk.id, image=talk.image, question=talk.turns[0].question,
            chosen=draws[0], rejected=draws[1], margin=2.0, source="test",
        )  # fmt: skip
        stage.append("preferences.jsonl", pair)
    stage.finish()


def job_of(run):
    return Job(Run(run), load_recipe(str(run / "recipe.yaml")))


@pytest.fixture(scope="session")
def run(tmp_path_factory):
    """A real run of the packaged plain LLaVA: both trainings and the evaluation."""
    path = tmp_path_factory.mktemp("mlp") / "small"
    return run_stages(path, "base-mlp", ["prepare", "sft", "prefer", "dpo", "eval"])


@pytest.fixture(scope="session")
def exported(run, tmp_path_factory):
    return exporting.export(job_of(run), tmp_path_factory.mktemp("exported") / "mlp", "dpo")


@pytest.fixture
def picture():
    """Wider than high: padding shows."""
    return Image.linear_gradient("L").rotate(30).resize((90, 61)).convert("RGB")


def question(text="What organ is shown?"):
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return [{"role": "user", "content": content}]


def names_in(folder):
    return sorted(load_file(folder / "model.safetensors"))


def test_keys_are_those_of_the_hub_files(exported):
    assert names_in(exported.path) == sorted(MLP_NAMES)


@pytest.mark.parametrize("names", [MLP_NAMES, PROTOTYPE_NAMES], ids=["llava", "sqllava"])
def test_keys_do_not_depend_on_what_the_library_calls_them(names):
    pairs = [("language_model.model.", "model.language_model."), ("vision_model.", "")]
    theirs = [name.replace(*pairs[0]).replace(*pairs[1]) for name in names]
    theirs = [f"model.{n}" if n.startswith(("vision", "multi")) else n for n in theirs]
    theirs = [n.replace("language_model.lm_head", "lm_head") for n in theirs]
    assert [hub_name(name) for name in theirs] == names
    assert [hub_name(name) for name in names] == names


def test_a_weight_that_nobody_knows_is_refused():
    with pytest.raises(PolicyError, match=r"image_newline: a weight that this version cannot"):
        hub_name("image_newline")


def test_the_exported_model_computes_what_the_adapted_one_computes(exported):
    assert exported.tokens > 10
    assert exported.mean <= exported.largest < 1e-3
    assert exported.same_tokens


PLAIN = """
import json, sys
code, out = sys.argv[1:]
known = {}
exec(code, known)
assert not any(name.split(".")[0] == "stllava" for name in sys.modules)
logits = known["model"](**known["inputs"]).logits[0, -1]
found = [known["inputs"]["input_ids"][0], logits, known["ids"][0]]
json.dump([values.tolist() for values in found], open(out, "w"))
"""


def test_plain_transformers_runs_the_code_of_the_card_and_says_the_same(
    exported, picture, tmp_path
):
    picture.save(tmp_path / "IMAGE.png")
    (tmp_path / "FOLDER").symlink_to(exported.path)
    code = (exported.path / "README.md").read_text().split("```python\n")[1].split("```")[0]
    done = subprocess.run(
        [sys.executable, "-c", PLAIN, code, "out.json"],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    ids, logits, spoken = json.loads((tmp_path / "out.json").read_text())
    policy = Policy.load(exported.path)
    prompt = policy.chat.prompt([Turn(question="What is shown?")], "assistant").ids
    assert ids == prompt == spoken[: len(prompt)]
    with torch.inference_mode():
        ours = policy.core(
            input_ids=torch.tensor([prompt]), pixel_values=policy.pixel_values([picture])
        ).logits[0, -1]
    torch.testing.assert_close(torch.tensor(logits), ours, atol=1e-4, rtol=1e-4)
    assert spoken[len(prompt)] == ours.argmax()
    assert done.stdout.strip() == policy.decode(spoken[len(prompt) :])


def test_the_processor_shows_the_model_what_the_policy_shows_it(exported, picture):
    processor = AutoProcessor.from_pretrained(exported.path)
    policy = Policy.load(exported.path)
    for image in (picture, picture.rotate(90, expand=True)):
        found = processor(images=image, text="<image>", return_tensors="pt")
        torch.testing.assert_close(found["pixel_values"], policy.pixel_values([image]))
        assert found["input_ids"].tolist() == [[policy.image_token_id] * policy.num_image_tokens]


def test_the_folder_has_what_the_llava_loader_of_vllm_reads(exported):
    read = {f.name: json.loads(f.read_text()) for f in exported.path.glob("*.json")}
    config, processor = read["config.json"], read["processor_config.json"]
    assert config["architectures"] == ["LlavaForConditionalGeneration"]
    assert config["text_config"]["architectures"] == ["LlamaForCausalLM"]
    assert config["text_config"]["rope_theta"] == 10000.0
    for name in ("image_token_index", "projector_hidden_act", "multimodal_projector_bias",
                 "vision_feature_layer", "vision_feature_select_strategy"):  # fmt: skip
        assert name in config
    vision = config["vision_config"]
    assert vision["model_type"] == "clip_vision_model"
    assert processor == {
        "processor_class": "LlavaProcessor",
        "image_token": "<image>",
        "patch_size": vision["patch_size"],
        "vision_feature_select_strategy": config["vision_feature_select_strategy"],
        "num_additional_image_tokens": 1,
    }
    pixels = read["preprocessor_config.json"]
    assert pixels["crop_size"] == {"height": vision["image_size"], "width": vision["image_size"]}
    assert (pixels["image_processor_type"], pixels["do_pad"]) == ("LlavaImageProcessor", True)
    tokens = {t["content"]: t["id"] for t in read["tokenizer.json"]["added_tokens"]}
    assert tokens["<image>"] == config["image_token_index"]
    assert read["tokenizer_config.json"]["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert isinstance(read["tokenizer_config.json"]["additional_special_tokens"], list)


def test_vllm_sees_that_the_template_takes_parts(exported):
    """Its rule: a loop over message['content'] inside one over messages."""
    text = (exported.path / "chat_template.jinja").read_text()
    loops = jinja2.Environment().parse(text).find_all(jinja2.nodes.For)
    over = [loop.iter for loop in loops]
    assert any(isinstance(node, jinja2.nodes.Name) and node.name == "messages" for node in over)
    assert any(
        isinstance(node, jinja2.nodes.Getitem)
        and (node.node.name, node.arg.value) == ("message", "content")
        for node in over
    )


TOKEN = re.compile("<image>|.", re.DOTALL)
IN_TURN = ChatFormat(
    name="in-turn",
    system='It\'s a "chat" with a\\b system.\n',
    user="USER:",
    asker="VUSER:",
    assistant=" ASSISTANT:",
    end="</s>",
)
TALKS = [
    [("What is it?", "A lung.")],
    [("  A 'quoted' <image>\nquestion? ", " Two\nlines. "), ("And?", "No </s><vusr> lesion."),
     ("Is that {{ all }}?", "Yes.")],
]  # fmt: skip


def characters(text):
    """A tokenizer of single characters, but for the image."""
    found = [(0 if m[0] == "<image>" else ord(m[0]), m.span()) for m in TOKEN.finditer(text)]
    return [token for token, _ in found], [span for _, span in found]


def rendered(chat_format, messages, **options):
    template = chat_template(chat_format)
    texts, _ = render_jinja_template([messages], chat_template=template, **options)
    return characters(texts[0])[0]


def messages_of(turns, roles):
    found = []
    for (asked, answered), role in zip(turns, roles, strict=True):
        found.append({"role": role, "content": [{"type": "text", "text": asked}]})
        found.append({"role": "assistant", "content": [{"type": "text", "text": answered}]})
    if found:
        found[0]["content"].insert(0, {"type": "image"})
    return found


@pytest.mark.parametrize("talk", TALKS, ids=["one turn", "three turns"])
@pytest.mark.parametrize("chat_format", [*FORMATS.values(), IN_TURN], ids=lambda f: f.name)
def test_the_template_renders_what_chat_renders(chat_format, talk):
    chat = Chat(chat_format, characters, 0, 1)
    turns = [Turn(question=q, answer=a) for q, a in talk]
    by_user = messages_of(talk, ["user"] * len(talk))
    last = by_user[:-1]
    assert rendered(chat_format, last, add_generation_prompt=True) == (
        chat.prompt(turns, "assistant").ids
    )
    assert rendered(chat_format, by_user, add_generation_prompt=True, speaker="asker") == (
        chat.prompt(turns, "asker").ids
    )
    for asked in ([False] * len(talk), [True] * len(talk), [j > 0 for j in range(len(talk))]):
        roles = ["asker" if by_asker else "user" for by_asker in asked]
        assert rendered(chat_format, messages_of(talk, roles)) == chat.training(turns, asked).ids


@pytest.mark.parametrize("chat_format", [STLLAVA, IN_TURN], ids=lambda f: f.name)
def test_the_template_opens_the_askers_turn_on_a_picture_alone(chat_format):
    picture = [{"role": "user", "content": [{"type": "image"}]}]
    found = rendered(chat_format, picture, add_generation_prompt=True, speaker="asker")
    assert found == Chat(chat_format, characters, 0, 1).prompt([], "asker").ids


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": "no picture"}],
        [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
        [{"role": "system", "content": "Be kind."}, *question()],
    ],
    ids=["none", "two", "system"],
)
def test_the_template_refuses_what_chat_cannot_say(messages):
    with pytest.raises(jinja2.TemplateError, match=r"exactly one image|roles are"):
        rendered(STLLAVA, messages)


def test_the_prototype_policy_loads_with_the_package(tmp_path, picture):
    made = run_stages(tmp_path / "run", "base-prototype", ["prepare", "sft"])
    found = exporting.export(job_of(made), tmp_path / "out", "sft")
    assert names_in(found.path) == sorted(PROTOTYPE_NAMES)
    model, report = AutoModelForImageTextToText.from_pretrained(
        found.path, output_loading_info=True
    )
    assert not any(report.values()), report
    policy = Policy.load(made / "sft/checkpoint")
    inputs = AutoProcessor.from_pretrained(found.path)(
        images=picture, text="<image>\nUSER: What is it? ASSISTANT:", return_tensors="pt"
    )
    with torch.inference_mode():
        assert torch.equal(model(**inputs).logits, policy.core(**inputs).logits)
    assert "import stllava" in (found.path / "README.md").read_text()
    assert "vllm serve" not in (found.path / "README.md").read_text()


def test_shards_stay_shards_and_the_index_names_every_weight(run, exported, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    model = Policy.load(run / "dpo/checkpoint").model
    model.save_pretrained(tmp_path / "in", max_shard_size="2MB")
    write_weights(tmp_path / "in", tmp_path / "out")
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert sorted(index["weight_map"]) == sorted(MLP_NAMES)
    whole = load_file(exported.path / "model.safetensors")
    shards = {
        name: load_file(tmp_path / "out" / name) for name in set(index["weight_map"].values())
    }
    assert len(shards) > 2
    assert all(torch.equal(whole[n], shards[shard][n]) for n, shard in index["weight_map"].items())
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in whole.values())


def test_a_checkpoint_unlike_its_adapter_is_refused_and_nothing_is_written(run, tmp_path):
    damaged = shutil.copytree(run, tmp_path / "run")
    file = damaged / "dpo/adapter/adapter_model.safetensors"
    tensors = {n: t + 0.5 if "lora_B" in n else t for n, t in load_file(file).items()}
    save_file(tensors, file, metadata={"format": "pt"})
    with pytest.raises(PolicyError, match=r"exported and adapted dpo differ by .* nats a token"):
        exporting.export(job_of(damaged), tmp_path / "exported/out", "dpo")
    assert list((tmp_path / "exported").iterdir()) == []


def test_a_tokenizer_that_writes_other_tokens_than_chat_is_told_of(run, tmp_path):
    """It puts <s> before every text, which the format of this project does not begin with."""
    other = shutil.copytree(run, tmp_path / "run")
    folder = other / "dpo/checkpoint"
    policy = Policy.load(folder)
    policy.tokenizer.add_special_tokens({"bos_token": "<vusr>"})
    begin = TemplateProcessing("<vusr> $A", special_tokens=[("<vusr>", 3)])
    policy.tokenizer._tokenizer.post_processor = begin
    policy.tokenizer.save_pretrained(folder)
    found = exporting.export(job_of(other), tmp_path / "out", "dpo")
    assert not found.same_tokens
    assert "writes other tokens" in (found.path / "README.md").read_text()


def test_an_unfinished_stage_is_refused_before_anything_is_written(run, tmp_path):
    part = shutil.copytree(run, tmp_path / "run")
    (part / "dpo/stage.json").unlink()
    with pytest.raises(RunError, match="dpo: this stage is not complete; run it first"):
        exporting.export(job_of(part), tmp_path / "out", "dpo")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("here", "there"), [('"llava"', '"qwen2_vl"'), ('"clip_vision_model"', '"pixtral"')]
)
def test_a_family_without_fixed_names_is_refused(here, there, run, tmp_path):
    other = shutil.copytree(run, tmp_path / "run")
    file = other / "dpo/checkpoint/config.json"
    file.write_text(file.read_text().replace(here, there))
    with pytest.raises(PolicyError, match=r"cannot be exported: its weights have no fixed names"):
        exporting.export(job_of(other), tmp_path / "out", "dpo")


def command(monkeypatch, capsys, *args):
    """The command line in this process: (exit code, stdout, stderr)."""
    monkeypatch.setattr(sys, "argv", ["stllava", *map(str, args)])
    with pytest.raises(SystemExit) as left:
        cli.main()
    return left.value.code or 0, *capsys.readouterr()


def assert_one_line(done, *words):
    code, out, err = done
    assert (code, out, err.count("\n")) == (2, "", 1)
    for word in words:
        assert word in err


def test_a_folder_in_use_is_refused_in_one_line(run, tmp_path, monkeypatch, capsys):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine.txt").write_text("keep")
    done = command(monkeypatch, capsys, "export", run, "--out", tmp_path / "out")
    assert_one_line(done, "out: exists already; delete it or choose another --out")
    assert [f.name for f in (tmp_path / "out").iterdir()] == ["mine.txt"]


def test_what_is_no_run_is_refused_in_one_line(tmp_path, monkeypatch, capsys):
    done = command(monkeypatch, capsys, "export", tmp_path, "--out", tmp_path / "out")
    assert_one_line(done, "not a run directory")
    assert not (tmp_path / "out").exists()


def test_the_card_says_recipe_data_scores_licence_and_limits(run, exported):
    card = (exported.path / "README.md").read_text()
    for word in ("**Not for clinical use.**", "Recipe `demo`", "seed 0", "synthetic pictures",
                 "## Licence", "## Limitations", "`base-mlp`", "vllm serve"):  # fmt: skip
        assert word in card
    scores = json.loads((run / "eval/dpo/phantom-test/image/scores.json").read_text())
    closed = scores["closed"]
    low, high = closed["ci95"]["accuracy"]
    row = f"| {closed['n']} | {closed['accuracy']:.1f} [{low:.1f}, {high:.1f}] |"
    assert row in next(line for line in card.splitlines() if line.startswith("| dpo "))


def test_no_path_of_the_machine_leaves_it(run, exported):
    for file in exported.path.iterdir():
        assert str(run.parent).encode() not in file.read_bytes(), file.name
        assert str(exporting.__file__.rpartition("/src/")[0]).encode() not in file.read_bytes()
        assert file.stat().st_mode & 0o044 == 0o044, file.name  # others may serve it


def test_the_card_of_the_policy_goes_on_and_says_what_was_compared(exported):
    card = json.loads((exported.path / "stllava.json").read_text())
    assert (card["chat_format"], card["stage"], card["made_by"]) == (
        "stllava", "dpo", "scripts/phantom_base.py",
    )  # fmt: skip
    assert card["exported"]["difference_max_nats"] == exported.largest


class FakeHub:
    """Notes what it is asked for."""

    asked: list[tuple] = []  # noqa: RUF012
    refusal: Exception | None = None

    def __init__(self, **fields):
        assert not fields, "a token was handed over"

    def create_repo(self, repo_id, **fields):
        FakeHub.asked.append(("create", repo_id, fields))
        if FakeHub.refusal:
            raise FakeHub.refusal
        return f"https://hub.example.org/{repo_id}"

    def upload_folder(self, **fields):
        FakeHub.asked.append(("upload", fields["repo_id"], fields))


@pytest.fixture
def hub(monkeypatch):
    monkeypatch.setattr(FakeHub, "asked", [])
    monkeypatch.setattr(FakeHub, "refusal", None)
    monkeypatch.setattr("huggingface_hub.HfApi", FakeHub)
    monkeypatch.setenv("HF_TOKEN", "hf_SENTINEL")
    return FakeHub


def test_export_pushes_only_when_told_to(run, hub, tmp_path, monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "export", run, "--out", tmp_path / "a")
    assert (code, hub.asked) == (0, [])
    assert f"exported: {tmp_path / 'a'}" in out
    assert "nats at most" in out
    code, out, err = command(
        monkeypatch, capsys, "export", run, "--out", tmp_path / "b", "--model", "sft",
        "--push", "me/small",
    )  # fmt: skip
    assert code == 0
    assert [(what, who) for what, who, _ in hub.asked] == [
        ("create", "me/small"), ("upload", "me/small"),
    ]  # fmt: skip
    assert hub.asked[0][2]["private"] is True
    assert hub.asked[1][2]["folder_path"] == tmp_path / "b"
    assert "pushed: https://hub.example.org/me/small" in out
    assert "SENTINEL" not in out + err
    for file in (tmp_path / "b").iterdir():
        assert b"SENTINEL" not in file.read_bytes()


def test_a_failed_push_is_one_line_without_what_the_hub_said(exported, hub, monkeypatch):
    hub.refusal = OSError("401 for Bearer hf_SENTINEL")
    with pytest.raises(PolicyError, match="is complete, but could not be pushed") as error:
        exporting.push(exported.path, "me/small")
    assert "SENTINEL" not in str(error.value)
    assert "\n" not in str(error.value)


def test_a_bad_repository_name_is_said_before_anything_is_computed(
    run, hub, tmp_path, monkeypatch, capsys
):
    done = command(
        monkeypatch, capsys, "export", run, "--out", tmp_path / "out", "--push", "me/a b/c"
    )
    assert_one_line(done, "--push me/a b/c: not a repository name")
    assert not (tmp_path / "out").exists()
    assert hub.asked == []


def test_help_teaches(monkeypatch, capsys):
    code, out, _ = command(monkeypatch, capsys, "export", "--help")
    assert code == 0
    out = " ".join(out.split())
    for word in ("--out", "--model", "--push", "vllm serve", "hf auth login"):
        assert word in out


def test_a_hub_status_is_named():
    error = SimpleNamespace(response=SimpleNamespace(status_code=403))
    assert uploading.reason(error) == "the hub answered 403"

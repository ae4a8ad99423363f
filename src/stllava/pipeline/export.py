"""export: a trained policy of a run as a folder that other software loads.

Weights get the key names of the files on the hub, whatever the installed transformers calls them;
processor, chat template and model card are written beside them. Before the folder appears, what it
computes is compared with the adapted model on records of the run.
"""

from __future__ import annotations

import os
import re
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from stllava import __version__
from stllava.config import Recipe
from stllava.errors import MissingExtra, PolicyError, RunError
from stllava.files import disk_errors, read_json, write_json, write_text
from stllava.pipeline.job import Job
from stllava.records import Conversation, Preference, Turn

if TYPE_CHECKING:
    from stllava.chat import ChatFormat
    from stllava.policy.policy import Policy
    from stllava.tree import TreeBatch

PROBE = 8  # records that the comparison looks at
ORDER = {"base": 0, "sft": 1, "dpo": 2}  # of the rows in a table of scores
START: dict[str, str] = {"sft": "base", "dpo": "sft"}  # what each adapter is laid over

# From names of transformers 4 and 5 to those of llava-hf's files; first match wins.
# SQ-LLaVA keeps the names that its class has: the library's renaming knows only LLaVA.
HUB_NAMES = {
    "llava": (
        (r"^(?:model\.)?language_model\.(?:model\.|(?!lm_head\.))", "language_model.model."),
        (r"^(?:language_model\.)?lm_head\.", "language_model.lm_head."),
        (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?", "vision_tower.vision_model."),
        (r"^(?:model\.)?multi_modal_projector\.", "multi_modal_projector."),
    ),
    "sqllava": (
        (r"^(?:model\.)?language_model\.(?:model\.|(?!lm_head\.))", "model.language_model."),
        (r"^(?:language_model\.)?lm_head\.", "lm_head."),
        (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?", "model.vision_tower."),
        (r"^(?:model\.)?multi_modal_projector\.", "model.multi_modal_projector."),
    ),
}
VISION = ("clip_vision_model", "siglip_vision_model")  # whose names the rules above are


class Exported(NamedTuple):
    """What was written, and how far it is from the adapted model."""

    path: Path
    mean: float  # nats a token
    largest: float  # nats, of one token
    tokens: int  # compared
    same_tokens: bool  # processor and template write what the policy was trained on


def export(job: Job, out: Path, model: Literal["sft", "dpo"] = "dpo") -> Exported:
    """Write a policy of the run to `out`. Nothing appears there unless the comparison passes.

    Raises RunError if the stage is not complete or `out` is in use, PolicyError for a family that
    cannot be exported or a model that differs from the adapted one.
    """
    checkpoint, adapter = job.file(model, "checkpoint"), job.file(model, "adapter")
    config = read_json(checkpoint / "config.json")
    kinds = config.get("model_type"), config.get("vision_config", {}).get("model_type")
    if kinds[0] not in HUB_NAMES or kinds[1] not in VISION:
        raise PolicyError(
            f"{checkpoint}: {kinds[0]} with {kinds[1]} cannot be exported: its weights have no "
            "fixed names here. The folder itself loads with transformers"
        )
    _check_free(out)
    try:
        import peft  # noqa: F401  (brings the others along)
    except ImportError as error:
        raise MissingExtra(error.name or "peft", "train") from error
    temporary = out.parent / f".{out.name}.{os.getpid()}"
    with disk_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            write_weights(checkpoint, temporary, HUB_NAMES[config["model_type"]])
            write_configs(checkpoint, temporary, config)
            found = compare(job, model, adapter, temporary)
            _write_card(job, temporary, model, config, found)
            temporary.rename(out)  # also onto an empty folder
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    return found._replace(path=out)


def _check_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists():
        raise RunError(f"{out}: exists already; delete it or choose another --out")


def hub_name(name: str, rules: tuple[tuple[str, str], ...]) -> str:
    """The key of one tensor in the exported files."""
    for pattern, replacement in rules:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    raise PolicyError(f"{name}: a weight that this version cannot export; see docs/export.md")


def write_weights(source: Path, target: Path, rules: tuple[tuple[str, str], ...]) -> None:
    """Rewrite every shard under its fixed names; one shard is in memory at a time."""
    from safetensors.torch import load_file, save_file

    placed: dict[str, str] = {}
    total = 0
    for shard in sorted(source.glob("*.safetensors")):
        tensors = {hub_name(n, rules): t.contiguous() for n, t in load_file(shard).items()}
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        (target / shard.name).chmod(0o644)  # safetensors leaves it to the owner alone
        placed |= dict.fromkeys(sorted(tensors), shard.name)
        total += sum(t.nbytes for t in tensors.values())
    if len(set(placed.values())) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        write_json(target / "model.safetensors.index.json", index)


def write_configs(source: Path, target: Path, config: dict[str, Any]) -> None:
    """Configs, tokenizer, processor, chat template, as transformers 4 and 5 and vLLM read them."""
    from stllava.chat import FORMATS, IMAGE

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


TEMPLATE = """\
{#- Written by stllava. Roles: user, assistant, asker (a question that the model asks itself).
One image, which comes first. speaker="asker" with add_generation_prompt opens the asker's turn. -#}
{%- macro clean(text) -%}{{ text @REPLACE@| trim }}{%- endmacro -%}
{%- set ns = namespace(images=0, place=@PLACE@, text='') -%}
{%- for message in messages if message['content'] is not string -%}
{%- for part in message['content'] if part['type'] in ['image', 'image_url'] -%}
{%- set ns.images = ns.images + 1 -%}
{%- endfor -%}
{%- endfor -%}
{%- if ns.images != 1 -%}
{{- raise_exception('a conversation must hold exactly one image') -}}
{%- endif -%}
{{- @OPENING@ -}}
{%- for message in messages -%}
{%- if message['content'] is string -%}
{%- set ns.text = message['content'] -%}
{%- else -%}
{%- set ns.text = '' -%}
{%- for part in message['content'] if part['type'] == 'text' -%}
{%- set ns.text = ns.text + part['text'] -%}
{%- endfor -%}
{%- endif -%}
{%- if message['role'] == 'assistant' -%}
{{- @ASSISTANT@ + ' ' + clean(ns.text) + @END@ -}}
{%- elif message['role'] not in ['user', 'asker'] -%}
{{- raise_exception('roles are user, assistant and asker') -}}
{%- elif ns.text | trim -%}
{{- (@USER@ if message['role'] == 'user' else @ASKER@) + (ns.place or ' ') -}}
{{- clean(ns.text) + (@END@ if message['role'] == 'asker' else '') -}}
{%- set ns.place = '' -%}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- @ASKER@ + ns.place if speaker is defined and speaker == 'asker' else @ASSISTANT@ -}}
{%- endif -%}
"""


def chat_template(chat_format: ChatFormat) -> str:
    """The format as a Jinja template: renders what `chat.Chat` tokenises."""
    from stllava.chat import IMAGE

    controls = (IMAGE, *chat_format.control)
    first = chat_format.image_first
    values = {
        "REPLACE": "".join(f"| replace({_jinja(token)}, ' ') " for token in controls),
        "OPENING": _jinja(chat_format.system + (f"{IMAGE}\n" if first else "")),
        "PLACE": _jinja("" if first else f" {IMAGE}\n"),
        "USER": _jinja(chat_format.user),
        "ASKER": _jinja(chat_format.asker),
        "ASSISTANT": _jinja(chat_format.assistant),
        "END": _jinja(chat_format.gap + chat_format.end),
    }
    return re.sub(r"@([A-Z]+)@", lambda found: values[found[1]], TEMPLATE)


def _jinja(text: str) -> str:
    """A Jinja string literal."""
    escaped = text.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n")
    return f"'{escaped}'"


def compare(job: Job, model: str, adapter: Path, folder: Path) -> Exported:
    """Log-probabilities of the exported against the adapted model, on records of the run.

    Raises PolicyError above the tolerances that merging has. One model is in memory at a time.
    """
    import torch
    from peft import PeftModel

    from stllava.policy.adapters import MERGE_TOLERANCE_MAX, MERGE_TOLERANCE_MEAN
    from stllava.policy.policy import Policy
    from stllava.policy.scorer import TokenScorer

    policy = job.load(START[model])
    with warnings.catch_warnings():  # as in adapters.adapt
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing.*", FutureWarning)
        policy.model = PeftModel.from_pretrained(policy.model, adapter).eval()
    batch = _records(job, policy, model)
    with torch.inference_mode():
        adapted = TokenScorer.of(policy)(batch)
    rules, backend = policy.rules, policy.backend
    del policy
    exported = Policy.load(folder, device=job.device)
    same_tokens = writes_same_tokens(exported, folder)
    exported.rules, exported.backend = rules, backend
    with torch.inference_mode():
        change = (adapted - TokenScorer.of(exported)(batch)).abs()
    mean, largest = change.mean().item(), change.max().item()
    if not (mean <= MERGE_TOLERANCE_MEAN and largest <= MERGE_TOLERANCE_MAX):
        raise PolicyError(
            f"exported and adapted {model} differ by {mean:.2g} nats a token, at most "
            f"{largest:.2g} (allowed {MERGE_TOLERANCE_MEAN:g} and {MERGE_TOLERANCE_MAX:g}); "
            f"nothing was written: was {START[model]} changed after the training?"
        )
    return Exported(folder, mean, largest, len(change), same_tokens)


def writes_same_tokens(policy: Policy, folder: Path) -> bool:
    """Whether processor and template write what `chat` does: not every tokenizer lets them."""
    from PIL import Image
    from transformers import AutoProcessor

    text = "Is it normal?"
    content = [
        {"type": "image", "image": Image.new("RGB", (16, 16))},
        {"type": "text", "text": text},
    ]
    found = AutoProcessor.from_pretrained(folder, local_files_only=True).apply_chat_template(
        [{"role": "user", "content": content}],
        add_generation_prompt=True,
        tokenize=True,
        return_dict=True,
    )["input_ids"][0]
    return list(found) == policy.chat.prompt([Turn(question=text)], "assistant").ids


def _records(job: Job, policy: Policy, model: str) -> TreeBatch:
    """The first records that the stage was trained on, their answers learned."""
    talks: list[tuple[str, tuple[Turn, ...]]]
    if model == "sft":
        conversations = job.stage("prepare").read("conversations.jsonl", Conversation)[:PROBE]
        talks = [(c.image, c.turns[:1]) for c in conversations]
    else:
        preferences = job.stage("prefer").read("preferences.jsonl", Preference)[:PROBE]
        talks = [
            (p.image, (Turn(question=p.question, answer=draw.text),))
            for p in preferences
            for draw in (p.chosen, p.rejected)
        ]
    texts = [policy.chat.training(turns, [False] * len(turns)) for _, turns in talks]
    batch = policy.pack(texts, [image for image, _ in talks], job.open_image)
    return batch.to(policy.device)


def _write_card(
    job: Job, folder: Path, model: str, config: dict[str, Any], found: Exported
) -> None:
    card = read_json(folder / "stllava.json")
    card["exported"] = {
        "stllava": __version__,
        "run": job.run.path.resolve().name,
        "recipe": job.recipe.name,
        "model": model,
        "difference_mean_nats": found.mean,
        "difference_max_nats": found.largest,
        "tokens_compared": found.tokens,
        "processor_writes_same_tokens": found.same_tokens,
    }
    write_json(folder / "stllava.json", card)
    write_text(folder / "README.md", model_card(job, model, config, found))


def model_card(job: Job, model: str, config: dict[str, Any], found: Exported) -> str:
    """README.md of the exported folder. Names no path: those belong to the machine of the run."""
    recipe = job.recipe
    stage = getattr(recipe, model)
    lora = stage.lora
    stages = "supervised stage 1" if model == "sft" else "stages 1 and 2 (self-training with DPO)"
    lines = [
        CARD_HEAD.format(name=job.run.path.resolve().name, stages=stages),
        "## How it was made\n",
        f"- Recipe `{recipe.name}`, seed {recipe.seed}, stllava {__version__}; model type "
        f"`{config['model_type']}`, started from `{Path(recipe.model.path).name}`.",
        f"- Last stage `{model}`: LoRA on the language model (rank {lora.llm_rank}, alpha "
        f"{lora.llm_alpha}) and the vision encoder (rank {lora.vit_rank}, alpha {lora.vit_alpha}), "
        f"projector {'trained' if stage.train_projector else 'frozen'}; {stage.epochs} epoch(s), "
        f"batch {stage.batch_size}; adapters merged into the weights.",
        f"- {_data(job)}",
        f"- Log-probabilities of {found.tokens} tokens of the run's own records differ from the "
        f"unmerged model's by {found.mean:.1e} nats on average and {found.largest:.1e} at most.\n",
        "## Scores\n",
        *_score_table(job),
        CARD_LIMITS,
        *([] if found.same_tokens else [CARD_OTHER_TOKENS]),
        CARD_USE if config["model_type"] == "llava" else CARD_USE_PROTOTYPE,
    ]
    return "\n".join(lines)


def _data(job: Job) -> str:
    recipe: Recipe = job.recipe
    counts = job.stage("prepare").summary
    what = {
        "phantom": "synthetic pictures drawn by stllava (no patient data)",
        "vqa-rad": "VQA-RAD",
        "llava": "conversations in LLaVA's format, given by the user",
        "folder": "images given by the user",
    }[recipe.data.source]
    judge = (
        f"; answers preferred by `{recipe.judge.model}`" if recipe.judge.kind == "openai" else ""
    )
    return (
        f"Data: {what}; {counts.get('conversations', 0)} conversations with "
        f"{counts.get('turns', 0)} turns{judge}."
    )


def _score_table(job: Job) -> Iterator[str]:
    """One line per complete evaluation of the run, controls left out."""
    files = sorted(job.run.path.glob("eval/*/*/*/scores.json"))
    files = [file for file in files if (file.parent / "stage.json").is_file()]
    files.sort(key=lambda file: ORDER.get(file.parts[-4], len(ORDER)))
    if not files:
        yield "This run has no complete evaluation.\n"
        return
    yield "Percent, with 95 % intervals over patients or cases; n questions.\n"
    yield "| model | benchmark / view | open n | open recall | closed n | closed accuracy |"
    yield "|---|---|---|---|---|---|"
    for file in files:
        scores = read_json(file)
        model, benchmark, view = file.parts[-4:-1]
        cells = [
            cell
            for kind, metric in (("open", "recall"), ("closed", "accuracy"))
            for cell in _score(scores.get(kind) or {}, metric)
        ]
        yield f"| {model} | {benchmark} / {view} | {' | '.join(cells)} |"
    yield ""


def _score(scores: dict[str, Any], metric: str) -> tuple[str, str]:
    value, interval = scores.get(metric), (scores.get("ci95") or {}).get(metric)
    if value is None:
        return "0", "-"
    text = f"{value:.1f}" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")
    return str(scores["n"]), text


CARD_HEAD = """\
---
library_name: transformers
pipeline_tag: image-text-to-text
license: other
license_name: see-base-model-and-data
tags: [medical, visual-question-answering, stllava]
---

# {name}

A medical vision-language model made with stllava: {stages} of the
STLLaVA-Med method (Sun et al. 2024).

**Not for clinical use.** What it writes is machine-generated text about an image, often wrong, and
never medical advice.
"""

CARD_LIMITS = """\
## Limitations

- It was trained on the data named above and measured as above; nothing is known about its answers
  to other questions, on other scanners, body parts or patients.
- It describes findings that are not there and misses ones that are.
- A judge preferred its answers and may have been wrong; no clinician checked the scores.
- Exactly one image per conversation.

## Licence

The weights inherit the terms of the base model and of the data they were trained on. State both
here, and in the first lines of this file, before you share it.

## Use
"""

CARD_OTHER_TOKENS = """\
**Its processor writes other tokens than it was trained on**, because of its tokenizer; scores above
were measured with the right ones. For the same answers load it with `stllava`.
"""

CARD_USE = """\
```python
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

model = AutoModelForImageTextToText.from_pretrained("FOLDER")
processor = AutoProcessor.from_pretrained("FOLDER")
question = {"type": "text", "text": "What is shown?"}
image = {"type": "image", "image": Image.open("IMAGE.png").convert("RGB")}
inputs = processor.apply_chat_template(
    [{"role": "user", "content": [image, question]}],
    add_generation_prompt=True, tokenize=True, return_dict=True, return_tensors="pt",
)
ids = model.generate(**inputs, max_new_tokens=64, do_sample=False)
print(processor.decode(ids[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))
```

```
vllm serve FOLDER --limit-mm-per-prompt '{"image": 1}'
```
"""

CARD_USE_PROTOTYPE = CARD_USE.split("```\n")[0].replace(
    "from PIL import Image\n",
    "import stllava.policy.sqllava  # registers the model; pip install 'stllava[train]'\n"
    "from PIL import Image\n",
) + ("```\n")


def check_repo_id(repo_id: str) -> None:
    """PolicyError if the hub would not take the name; said before anything is computed."""
    try:
        from huggingface_hub import errors, utils
    except ImportError as error:
        raise MissingExtra("huggingface_hub", "train") from error
    try:
        utils.validate_repo_id(repo_id)  # type: ignore[attr-defined]
    except errors.HFValidationError as error:
        raise PolicyError(f"--push {repo_id}: not a repository name: {error}") from None


def push(folder: Path, repo_id: str) -> str:
    """Upload a folder to a private repository of the hub. Returns its address.

    The token is huggingface_hub's business (`hf auth login` or HF_TOKEN): it is not seen here.
    """
    import huggingface_hub
    from huggingface_hub.errors import HfHubHTTPError

    hub = huggingface_hub.HfApi()
    try:
        url = hub.create_repo(repo_id, private=True, exist_ok=True)
        hub.upload_folder(
            repo_id=repo_id, folder_path=folder, commit_message=f"stllava {__version__}"
        )
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise PolicyError(
            f"{folder} is complete, but could not be pushed to {repo_id}: {reason(error)}; check "
            f"`hf auth login`, then `hf upload {repo_id} {folder}`"
        ) from None
    return str(url)


def reason(error: Any) -> str:
    """Why the hub refused, without its words: those may hold the token."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    return f"the hub answered {status}" if status else type(error).__name__

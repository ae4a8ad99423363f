"""The model card of an exported folder: README.md, and what stllava.json adds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stllava import __version__
from stllava.config import Recipe
from stllava.files import read_json, write_json, write_text
from stllava.pipeline.export.check import Exported
from stllava.pipeline.job import Job
from stllava.pipeline.judging.judges import models_asked

SOURCES = {
    "phantom": "synthetic pictures drawn by stllava (no patient data)",
    "vqa-rad": "VQA-RAD",
    "slake": "SLAKE",
    "path-vqa": "PathVQA",
    "llava": "conversations in LLaVA's format, given by the user",
    "messages": "conversations as chat messages, given by the user",
    "parquet": "questions in Parquet files, given by the user",
    "table": "a table of questions, given by the user",
    "labels": "images with a table of findings, given by the user",
    "reports": "images with reports, given by the user",
    "folder": "images given by the user",
}
ORDER = {"base": 0, "sft": 1, "dpo": 2}  # of the rows in a table of scores

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


def write_card(job: Job, folder: Path, model: str, config: dict[str, Any], found: Exported) -> None:
    """Write README.md, and into stllava.json what was compared."""
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
    sources = [recipe.data.source, *(also.source for also in recipe.data.also)]
    what = "; ".join(SOURCES[name] for name in dict.fromkeys(sources))
    models = ", ".join(f"`{model}`" for model in models_asked(recipe.judge))
    judge = f"; answers preferred by {models}" if models else ""
    return (
        f"Data: {what}; {counts.get('conversations', 0)} conversations with "
        f"{counts.get('turns', 0)} turns{judge}."
    )


def _score_table(job: Job) -> Iterator[str]:
    """One line per complete evaluation of the run, controls left out."""
    files = sorted(job.run.path.glob("eval/*/*/image/scores.json"))
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

"""Where the parts of a vision-language model lie: data of its family, or found by inspection.

Names are those of modules under `core.model`, as transformers has them; a layer list may lie deeper
in one release than in another, so it is looked for by its own name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from stllava.errors import PolicyError


@dataclass(frozen=True)
class Family:
    """Module names of one family's parts.

    `projector` are the modules between vision encoder and language model: trained in full.
    `inferred`: what was found by inspection, because the family is not listed.
    """

    vision: str
    blocks: str  # the list of the vision encoder's layers
    language: str
    layers: str  # the list of the language model's layers
    projector: tuple[str, ...]
    template_image: str = "<image>"  # what chat templates write for an image
    image_text: str = "<image>"  # what the model reads in its place, one placeholder a run
    image_side: int | None = None  # pixels; None: the processor brings every square to one size
    crops: bool = False  # the processor cuts a picture into numbered crops
    inferred: bool = False

    def part_of(self, name: str) -> str:
        """ "projector", "vision" or "language": the part that a parameter or module is in."""
        if any(_within(part, name) for part in self.projector):
            return "projector"
        return "vision" if _within(self.vision, name) else "language"

    def __str__(self) -> str:
        between = " and ".join(self.projector)
        return (
            f"vision encoder {self.vision}.{self.blocks}, projector {between}, "
            f"language model {self.language}.{self.layers}, pictures of {self.image_side} pixels "
            f"written as {self.image_text}"
        )


def _within(part: str, name: str) -> bool:
    return re.search(rf"(^|\.){re.escape(part)}(\.|$)", name) is not None


LLAVA = Family("vision_tower", "layers", "language_model", "layers", ("multi_modal_projector",))
TILED = replace(LLAVA, image_side=672)  # 2 x 2 tiles of 336 and the whole
GEMMA = replace(
    LLAVA,
    template_image="<start_of_image>",
    image_text="\n\n<start_of_image><image_soft_token><end_of_image>\n\n",
)
INTERNVL = replace(
    LLAVA,
    blocks="layer",
    template_image="<IMG_CONTEXT>",
    image_text="<img><IMG_CONTEXT></img>",
    image_side=448,  # one tile, also where the processor cuts larger pictures
)
IDEFICS = Family("vision_model", "layers", "text_model", "layers", ("connector",), crops=True)
_QWEN_IMAGE = "<|vision_start|><|image_pad|><|vision_end|>"
QWEN2 = Family(
    "visual",
    "blocks",
    "language_model",
    "layers",
    ("visual.merger",),
    template_image=_QWEN_IMAGE,
    image_text=_QWEN_IMAGE,
    image_side=448,
)
QWEN3 = replace(QWEN2, projector=("visual.merger", "visual.deepstack_merger_list"))

# By model_type of the whole model's config. https://huggingface.co/docs/transformers/model_doc
FAMILIES = {
    **dict.fromkeys(("llava", "sqllava"), LLAVA),
    **dict.fromkeys(("llava_next", "llava_onevision"), TILED),
    "gemma3": GEMMA,
    **dict.fromkeys(("idefics3", "smolvlm"), IDEFICS),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl"), QWEN2),
    "qwen3_vl": QWEN3,
    "internvl": INTERNVL,
}


def family_of(core: Any) -> Family:
    """The family of a Hugging Face vision-language model; by inspection if it is not listed."""
    return FAMILIES.get(core.config.model_type) or _inspect(core)


def _inspect(core: Any) -> Family:
    """The part with a convolution sees, the decoder speaks, what is left of the rest projects."""
    kind = core.config.model_type
    if not (hasattr(core, "model") and hasattr(core.config, "image_token_id")):
        raise PolicyError(
            f"{kind}: no module `model` or no token for images; this family is not supported"
        )
    children = dict(core.model.named_children())
    decoder = core.get_decoder()
    language = next((name for name, module in children.items() if module is decoder), None)
    seeing = [name for name, module in children.items() if _has_convolution(module)]
    if language is None or len(seeing) != 1:
        raise PolicyError(
            f"{kind}: cannot tell the vision encoder from the language model "
            f"among {', '.join(children)}; this family is not supported"
        )
    vision = seeing[0]
    projector = [
        name
        for name, module in children.items()
        if name not in (vision, language) and any(True for _ in module.parameters())
    ]
    inside = [
        f"{vision}.{name}"
        for name, _ in children[vision].named_children()
        if re.search("merger|project|connector", name)
    ]
    found = tuple(projector or inside)
    if not found:
        raise PolicyError(f"{kind}: no projector found; this family is not supported")
    return Family(
        vision,
        _longest_list(children[vision]),
        language,
        _longest_list(children[language]),
        found,
        image_side=448,  # not in the paper: a picture of any size takes equally many tokens
        inferred=True,
    )


def _has_convolution(module: nn.Module) -> bool:
    return any(isinstance(m, nn.Conv2d | nn.Conv3d) for m in module.modules())


def _longest_list(module: nn.Module) -> str:
    lists = {name: len(m) for name, m in module.named_modules() if isinstance(m, nn.ModuleList)}
    if not lists:
        raise PolicyError("no list of layers found; this family is not supported")
    return max(lists, key=lambda name: lists[name]).rpartition(".")[2]


def vision_layers(core: Any) -> list[nn.Module]:
    """The vision encoder's layers, in order."""
    family = family_of(core)
    return _layer_list(core.model.get_submodule(family.vision), family.blocks)


def language_layers(core: Any) -> list[nn.Module]:
    """The language model's layers, in order."""
    family = family_of(core)
    return _layer_list(core.model.get_submodule(family.language), family.layers)


def _layer_list(part: nn.Module, list_name: str) -> list[nn.Module]:
    for name, module in part.named_modules():
        if isinstance(module, nn.ModuleList) and name.rpartition(".")[2] == list_name:
            return list(module)
    raise PolicyError(f"{type(part).__name__}: no list of layers called {list_name}")


def num_vision_layers(core: Any) -> int:
    """Vision layers whose output reaches the language model; later ones would train nothing."""
    depth = len(vision_layers(core))
    layers = getattr(core.config, "vision_feature_layer", -1)
    chosen = layers if isinstance(layers, (list, tuple)) else [layers]
    return max(layer if layer >= 0 else depth + 1 + layer for layer in chosen)


def projector_modules(core: Any) -> list[str]:
    """Names of the modules that are trained in full; lists of modules one by one."""
    names = []
    for name in family_of(core).projector:
        module = core.model.get_submodule(name)
        parts = range(len(module)) if isinstance(module, nn.ModuleList) else None
        names += [f"{name}.{i}" for i in parts] if parts is not None else [name]
    return names


def lora_targets(core: Any, part: str) -> str:
    """A pattern of module names: the linear maps of "vision" or "language" that matter."""
    family = family_of(core)
    name, list_name = (family.vision, family.blocks)
    layers, numbers = vision_layers(core), r"\d+"
    if part == "language":
        name, list_name, layers = family.language, family.layers, language_layers(core)
    else:
        layers = layers[: num_vision_layers(core)]
        numbers = "|".join(map(str, range(len(layers))))
    inner = {n for layer in layers for n, m in layer.named_modules() if isinstance(m, nn.Linear)}
    linears = "|".join(map(re.escape, sorted(inner)))
    return rf"(?:.*\.)?{name}\.(?:.*\.)?{list_name}\.(?:{numbers})\.(?:{linears})"

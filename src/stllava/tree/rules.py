"""What differs between model families once texts share their beginnings. A family is data.

Causal attention over the ancestors with positions counted along the path is the default; it holds
for LLaVA 1.5/Next/OneVision, SQ-LLaVA, SmolVLM, Idefics3 and InternVL.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal


@dataclass(frozen=True)
class Rules:
    """How a token sees others and which position it has.

    `image_both_ways`: tokens of one image block see each other (Gemma 3).
    `window`: layers of type "sliding_attention" see so many tokens back along the path.
    `positions`: "path" counts ancestors; "mrope" asks the model for its (time, height, width).
    `share`: False where the family, or the probe, says that rows must stay separate.
    """

    image_both_ways: bool = False
    window: int | None = None
    positions: Literal["path", "mrope"] = "path"
    share: bool = True

    @property
    def plain(self) -> bool:
        """Only ancestors matter: attention needs nothing but `end`."""
        return not self.image_both_ways and self.window is None


CAUSAL = Rules()

# By model_type of the whole model's config. https://huggingface.co/docs/transformers/model_doc
FAMILIES = {
    **dict.fromkeys(("llava", "sqllava", "llava_next", "llava_onevision"), CAUSAL),
    **dict.fromkeys(("smolvlm", "idefics3", "internvl"), CAUSAL),
    **dict.fromkeys(("qwen2_vl", "qwen2_5_vl", "qwen3_vl"), Rules(positions="mrope")),
    "gemma3": Rules(image_both_ways=True),  # MedGemma, too
}

# Text models whose softmax has a learned sink, which our attention does not compute.
SINKS = {"gpt_oss", "granite_swa", "granitemoe_swa", "mimo_v2_flash"}


def rules_of(config: Any) -> Rules:
    """Rules for a model by its config. An unlisted family gets the default; the probe decides."""
    text = config.get_text_config()
    rules = FAMILIES.get(config.model_type, CAUSAL)
    kinds = set(getattr(text, "layer_types", None) or ())
    window = getattr(text, "sliding_window", None)
    if (
        kinds - {"full_attention", "sliding_attention"}  # recurrent or linear: state, not a mask
        or (window and not kinds)  # every layer has a window (Mistral 7B v0.1): takes no dict
        or text.model_type in SINKS
        or getattr(text, "attn_logit_softcapping", None)
        or getattr(text, "num_kv_shared_layers", None)  # decoding keeps keys by layer
    ):
        return replace(rules, share=False)
    if "sliding_attention" in kinds:
        return replace(rules, window=window)
    return rules

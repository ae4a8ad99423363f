"""Weights under the key names of the hub's files, whatever the installed library calls them."""

from __future__ import annotations

import re
from pathlib import Path

from stllava.errors import PolicyError
from stllava.files import write_json

# From names of transformers 4 and 5 to those of llava-hf's files; first match wins.
HUB_NAMES = (
    (r"^(?:model\.)?language_model\.(?:model\.|(?!lm_head\.))", "language_model.model."),
    (r"^(?:language_model\.)?lm_head\.", "language_model.lm_head."),
    (r"^(?:model\.)?vision_tower\.(?:vision_model\.)?", "vision_tower.vision_model."),
    (r"^(?:model\.)?multi_modal_projector\.", "multi_modal_projector."),
)
# Whose names the rules are, and which the library renames back; `policy.sqllava` registers itself.
FAMILIES = ("llava", "sqllava")
VISION = ("clip_vision_model", "siglip_vision_model")


def hub_name(name: str) -> str:
    """The key of one tensor in the exported files."""
    for pattern, replacement in HUB_NAMES:
        if re.search(pattern, name):
            return re.sub(pattern, replacement, name, count=1)
    raise PolicyError(f"{name}: a weight that this version cannot export; see docs/export.md")


def write_weights(source: Path, target: Path) -> None:
    """Rewrite every shard under its fixed names; one shard is in memory at a time."""
    from safetensors.torch import load_file, save_file

    placed: dict[str, str] = {}
    total = 0
    for shard in sorted(source.glob("*.safetensors")):
        tensors = {hub_name(n): t.contiguous() for n, t in load_file(shard).items()}
        save_file(tensors, target / shard.name, metadata={"format": "pt"})
        (target / shard.name).chmod(0o644)  # safetensors leaves it to the owner alone
        placed |= dict.fromkeys(sorted(tensors), shard.name)
        total += sum(t.nbytes for t in tensors.values())
    if len(set(placed.values())) > 1:
        index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
        write_json(target / "model.safetensors.index.json", index)

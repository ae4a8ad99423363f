"""Published tensor names, mapped to one set of names; every name is mapped, ignored or an error.

Canonical names: `language_model.*`, `lm_head.weight`, `vision_tower.*` without the
`vision_model.` of older libraries, `multi_modal_projector.*`. See docs/checkpoints.md.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from stllava.errors import PolicyError

Shape = tuple[int, ...]

# Tensors that carry nothing a model of this package could use.
IGNORED = (
    (re.compile(r"(^|\.)rotary_emb\.inv_freq$"), "rotary frequencies, computed from the config"),
    (re.compile(r"(^|\.)position_ids$"), "position numbers, a constant"),
    (
        re.compile(r"^(text_model\.|text_projection\.|visual_projection\.|logit_scale$)"),
        "CLIP's text half and its projections, unused by LLaVA",
    ),
)

RENAMED = (
    (re.compile(r"^(?:model\.)?(?:vision_tower\.)+(?:vision_model\.)?"), "vision_tower."),
    (re.compile(r"^vision_model\."), "vision_tower."),
    (
        re.compile(r"^(?:model\.)?(?:mm_projector|multi_modal_projector)\."),
        "multi_modal_projector.",
    ),
    (re.compile(r"^(?:language_model\.)?lm_head\."), "lm_head."),
    (re.compile(r"^(?:model\.language_model|language_model\.model|model)\."), "language_model."),
)

MLP = {"0": "linear_1", "2": "linear_2"}  # of mlp2x_gelu, an nn.Sequential with GELU at 1
BARE_PROJECTOR = re.compile(r"^(sim_alpha|sim_beta|[cvf]\.|ln_1\.|mlp\.|[02]\.)")
PARTS = ("language_model.", "lm_head.", "vision_tower.", "multi_modal_projector.")
VOCABULARY = ("language_model.embed_tokens.weight", "lm_head.weight")  # one row per token


def canonical(name: str, *, bare_projector: bool = False) -> str:
    """The canonical name, or the name as it is where no rule fits.

    `bare_projector`: names without any prefix are the projector's, as in a file of its own.
    """
    name = name.replace("base_model.model.", "")  # PEFT's wrapping, one level or several
    if bare_projector and BARE_PROJECTOR.match(name):
        name = f"mm_projector.{name}"
    for pattern, prefix in RENAMED:
        name, found = pattern.subn(prefix, name, count=1)
        if found:
            break
    head, _, rest = name.partition("multi_modal_projector.")
    first, dot, last = rest.partition(".")
    return (
        f"multi_modal_projector.{MLP[first]}.{last}" if not head and dot and first in MLP else name
    )


def ignored(name: str) -> str | None:
    """Why a tensor is not needed; None if it is."""
    return next((why for pattern, why in IGNORED if pattern.search(name)), None)


class Offer(NamedTuple):
    """What one source has, by published name, and which parts of it are wanted."""

    source: str
    shapes: Mapping[str, Shape]
    parts: tuple[str, ...] = PARTS  # prefixes; other tensors of the source are passed over
    bare_projector: bool = False


class Origin(NamedTuple):
    """The tensor that becomes one of ours."""

    offer: int  # number of the offer
    key: str  # published name


class Plan(NamedTuple):
    """For each canonical name where it comes from, and what was left out and why."""

    origins: dict[str, Origin]
    left_out: dict[str, int]  # number of tensors by reason


def account(expected: Mapping[str, Shape], offers: Sequence[Offer]) -> Plan:
    """Which published tensor becomes which of ours; a part is the first offer's that has it.

    Raises PolicyError that counts and names unexpected, missing and mis-shaped tensors.
    """
    origins: dict[str, Origin] = {}
    left_out: dict[str, int] = {}
    unexpected: list[str] = []
    wrong: list[str] = []
    for number, offer in enumerate(offers):
        given = tuple(p for p in PARTS if any(name.startswith(p) for name in origins))
        for key, shape in offer.shapes.items():
            name = canonical(key, bare_projector=offer.bare_projector)
            why = ignored(key) or _passed_over(name, offer, given)
            if why:
                left_out[why] = left_out.get(why, 0) + 1
            elif name not in expected or name in origins:
                unexpected.append(key)
            elif tuple(shape) != tuple(expected[name]):
                wrong.append(f"{key} {list(shape)} instead of {list(expected[name])}")
            else:
                origins[name] = Origin(number, key)
    complaints = {
        "unexpected": unexpected,
        "missing": [n for n in expected if n not in origins and not _named(n, wrong)],
        "mis-shaped": wrong,
    }
    _complain(", ".join(offer.source for offer in offers), complaints)
    return Plan(origins, left_out)


def _passed_over(name: str, offer: Offer, given: tuple[str, ...]) -> str | None:
    if name.startswith(PARTS) and not name.startswith(offer.parts):
        return f"other parts of {offer.source}"
    return f"in {offer.source}, replaced by a part given apart" if name.startswith(given) else None


def _named(name: str, wrong: Iterable[str]) -> bool:
    return any(canonical(line.split(" ")[0], bare_projector=True) == name for line in wrong)


def _complain(where: str, complaints: Mapping[str, Sequence[str]], shown: int = 3) -> None:
    parts = []
    for what, names in complaints.items():
        if names:
            more = f" and {len(names) - shown} more" if len(names) > shown else ""
            parts.append(f"{len(names)} {what}: {', '.join(names[:shown])}{more}")
    if parts:
        raise PolicyError(f"{where}: nothing was written; tensors {'; '.join(parts)}")

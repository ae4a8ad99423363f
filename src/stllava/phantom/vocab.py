"""The words of the two picture worlds, as data: picture types and the findings they can have.

`talk`, `claims` and `world` read only these tables, so one grammar serves both worlds. The last
word of a kind's name (its head) belongs to that kind alone: `claims` finds kinds by their heads.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

NUMBERS = ("no", "one", "two", "three")  # index is the count
SIDES = ("left", "right")
SIZES = ("small", "large")


@dataclass(frozen=True)
class Kind:
    """One kind of finding and the attributes it has."""

    name: str  # "nodule", "rib fracture", "enlarged heart"
    plural: str = ""  # equal to name where the kind has no singular
    organ: str = ""  # where it belongs, for the record
    place: str = ""  # the noun a place phrase uses; "" when the kind has no "where"
    prep: str = "in"
    sided: bool = False
    sized: bool = False
    max_count: int = 1
    state: str = ""  # "enlarged" or "big": the finding is a state of something always there

    @property
    def head(self) -> str:
        return self.name.split()[-1]

    @property
    def plural_head(self) -> str:
        return self.plural.split()[-1] if self.plural else self.head

    @property
    def only_plural(self) -> bool:
        return self.name == self.plural


@dataclass(frozen=True)
class PictureType:
    """A modality of the medical world or a scene of the general one."""

    name: str
    kinds: tuple[Kind, ...]


@dataclass(frozen=True)
class World:
    """A picture world: its types and the few words in which its talk differs."""

    name: str
    types: tuple[PictureType, ...]
    type_noun: str  # "modality": "Which modality is shown?"
    normal: str  # adjective of a picture without findings
    odd: str  # its opposite
    report: str  # what a text-only exercise quotes

    @cached_property
    def kinds(self) -> dict[str, Kind]:
        return {kind.name: kind for kind in self.all_kinds}

    @cached_property
    def all_kinds(self) -> tuple[Kind, ...]:
        return tuple(kind for picture in self.types for kind in picture.kinds)

    @cached_property
    def heads(self) -> dict[str, Kind]:
        """Head word, singular or plural -> kind."""
        return {word: kind for kind in self.all_kinds for word in (kind.head, kind.plural_head)}

    @cached_property
    def by_type(self) -> dict[str, PictureType]:
        return {picture.name: picture for picture in self.types}


def _blob(
    name: str,
    place: str,
    *,
    plural: str = "",
    prep: str = "in",
    sided: bool = True,
    sized: bool = True,
    max_count: int = 1,
    organ: str = "",
) -> Kind:
    return Kind(name, plural or f"{name}s", organ or place, place, prep, sided, sized, max_count)


def _state(state: str, noun: str, *, plural: bool = False) -> Kind:
    name = f"{state} {noun}"
    return Kind(name, name if plural else "", organ=noun, state=state)


MEDICAL = World(
    name="medical",
    types=(
        PictureType(
            "chest x-ray",
            (
                _blob("nodule", "lung", max_count=3),
                _state("enlarged", "heart"),
                _blob("rib fracture", "side", prep="on", sized=False, organ="rib"),
                _blob("pleural effusion", "side", prep="on", sized=False, organ="pleura"),
            ),
        ),
        PictureType(
            "abdominal ct",
            (
                _blob("lesion", "liver", sided=False, max_count=3),
                _state("enlarged", "spleen"),
                _blob("stone", "kidney", sized=False),
            ),
        ),
        PictureType(
            "brain mri",
            (
                _blob("mass", "hemisphere", plural="masses"),
                _blob("hemorrhage", "hemisphere"),
                _state("enlarged", "ventricles", plural=True),
            ),
        ),
    ),
    type_noun="modality",
    normal="normal",
    odd="abnormal",
    report="report",
)

GENERAL = World(
    name="general",
    types=(
        PictureType(
            "house",
            (
                _blob("sun", "corner", sized=False),
                _blob("cloud", "sky", sided=False, max_count=3),
                _blob("flower", "garden", max_count=3),
                _state("big", "door"),
            ),
        ),
        PictureType(
            "face",
            (
                _blob("earring", "ear", sized=False),
                _blob("spot", "cheek", max_count=3),
                Kind("hat", "hats", "head", "head", "on"),
                _state("big", "mouth"),
            ),
        ),
        PictureType(
            "pond",
            (
                _blob("bird", "sky", max_count=3),
                _blob("duck", "water"),
                Kind("sail", "sails", "mast", "mast", "on"),
                _state("big", "boat"),
            ),
        ),
        PictureType(
            "plate",
            (
                _blob("tomato", "side", plural="tomatoes", prep="on", max_count=3, organ="plate"),
                _blob("crack", "rim", sized=False),
                _blob("pea", "egg", sided=False, max_count=3),
                _state("big", "spoon"),
            ),
        ),
        PictureType(
            "window",
            (
                _blob("star", "pane", max_count=3),
                _blob("curtain", "side", prep="on", sized=False, organ="window"),
                _blob("scratch", "pane", plural="scratches", sized=False),
                _state("big", "lamp"),
            ),
        ),
        PictureType(
            "tree",
            (
                _blob("apple", "branch", prep="on", max_count=3),
                _blob("nest", "branch", prep="on"),
                _state("big", "trunk"),
            ),
        ),
        PictureType(
            "butterfly",
            (
                _blob("dot", "wing", prep="on", max_count=3),
                _blob("hole", "wing"),
                _state("big", "body"),
            ),
        ),
    ),
    type_noun="scene",
    normal="plain",
    odd="special",
    report="story",
)

WORLDS = {world.name: world for world in (MEDICAL, GENERAL)}

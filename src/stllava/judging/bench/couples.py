"""Two patients whose answers differ in one thing lend it to each other.

What is the wrong answer of one is then a true answer of the other, so that whatever can be said of
two answers without an image (which is longer, larger, more common, a yes) is right of one of them
and wrong of the other. Where possible both were asked the same, which holds it for each question.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from itertools import islice
from typing import NamedTuple

from stllava.judging.bench.wrong import Facet, Known, asked, excluding, facets
from stllava.metrics.text import words

PER_IMAGE = 2  # pairs about one image at most: more patients say more than more questions


class Couple(NamedTuple):
    one: Facet
    other: Facet


def couples(known: Sequence[Known]) -> dict[str, list[Couple]]:
    """By category, those that were asked the same first. An item is in one couple at most.

    What finds no partner in the category that says most about it may find one in the next. In
    order of `known`, and a function of that order.
    """
    by_category: dict[str, list[Facet]] = defaultdict(list)
    for item in known:
        for facet in facets(item):
            by_category[facet.category].append(facet)
    taken: set[str] = set()
    found: dict[str, list[Couple]] = {}
    for category in ("presence", "side", "modality", "number", "size", "other patient"):
        free = [facet for facet in by_category[category] if facet.item.id not in taken]
        found[category] = _coupled(free)
        taken |= {facet.item.id for couple in found[category] for facet in couple}
    return found


def _coupled(free: Sequence[Facet]) -> list[Couple]:
    """Asked the same and answered in the same words but for one, then with less in common."""
    found: list[Couple] = []
    for alike in (
        lambda facet: (asked(facet.item.question), facet.frame),
        lambda facet: (_opening(facet.item.question), facet.frame),
        lambda facet: facet.frame,
        lambda facet: asked(facet.item.question),
        lambda facet: None,
    ):
        more, free = _matched(free, alike)
        found += more
    return found


def _matched(
    free: Sequence[Facet], alike: Callable[[Facet], Hashable]
) -> tuple[list[Couple], list[Facet]]:
    """Each with the earliest that fits; and those left over."""
    waiting: dict[Hashable, dict[str, list[Facet]]] = defaultdict(lambda: defaultdict(list))
    found, used = [], set()
    for facet in free:
        queues = waiting[facet.axis, alike(facet)]
        others = (o for value, queue in queues.items() if value != facet.value for o in queue)
        partner = next((other for other in others if excluding(other, facet)), None)
        if partner is None:
            queues[facet.value].append(facet)
            continue
        queues[partner.value].remove(partner)
        if not queues[partner.value]:
            del queues[partner.value]
        found.append(Couple(partner, facet))
        used |= {partner.item.id, facet.item.id}
    return found, [facet for facet in free if facet.item.id not in used]


def _opening(question: str) -> str:
    return " ".join(words(question)[:2])


def chosen_couples(known: Sequence[Known], number: int) -> list[Couple]:
    """Up to `number` // 2 couples: categories in turn, at most two pairs about an image.

    Whose partner's image has had its pairs looks for another partner, until none finds one.
    """
    used: Counter[str] = Counter()
    chosen: list[Couple] = []
    rest = list(known)
    while 2 * (len(chosen) + 1) <= number:
        more = list(islice(_in_turn(couples(rest), used), number // 2 - len(chosen)))
        if not more:
            break
        chosen += more
        taken = {facet.item.id for couple in more for facet in couple}
        rest = [k for k in rest if k.id not in taken and used[k.image] < PER_IMAGE]
    return chosen


def _in_turn(found: dict[str, list[Couple]], used: Counter[str]) -> Iterator[Couple]:
    """`used` counts the pairs about each image."""
    queues = {category: iter(queue) for category, queue in sorted(found.items())}
    while queues:
        for category in list(queues):
            couple = next((c for c in queues[category] if _has_room(c, used)), None)
            if couple is None:
                del queues[category]
                continue
            used.update(facet.item.image for facet in couple)
            yield couple


def _has_room(couple: Iterable[Facet], used: Counter[str]) -> bool:
    return all(used[facet.item.image] < PER_IMAGE for facet in couple)

"""Words by which a known answer can be made wrong, and those that make it unfit for that.

Sides, modalities, sizes, yes and no are of English and Chinese; of other languages there are
numbers and other patients' answers.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple

from stllava.judging.questions import question_type
from stllava.metrics.closed import is_yes_no
from stllava.metrics.text import normalise, overlap_of, words


class Axis(NamedTuple):
    """Values that exclude each other, each with the ways it is written, in lower case."""

    category: str
    values: tuple[tuple[str, ...], ...]


_SIZES = (
    "small/large smaller/larger mild/severe mildly/severely minimal/extensive thin/thick "
    "increased/decreased high/low narrow/wide hyperdense/hypodense hyperintense/hypointense"
)
AXES = (
    Axis("side", (("left",), ("right",))),
    Axis("side", (("left-sided",), ("right-sided",))),
    Axis("side", (("左",), ("右",))),
    Axis(
        "modality",
        (
            ("computed tomography", "ct", "cat", "计算机断层扫描"),
            ("magnetic resonance imaging", "mri", "mr", "核磁共振", "磁共振"),
            ("x-ray", "xray", "x ray", "radiograph", "x光", "x射线"),
            ("ultrasound", "超声"),
            ("pet",),
            ("fluoroscopy",),
        ),
    ),
    Axis("modality", (("t1",), ("t2",))),
    *(Axis("size", tuple((word,) for word in pair.split("/"))) for pair in _SIZES.split()),
)
_SIDES = frozenset(("left", "right", "左", "右"))
_BOWEL = r"(?!\s+(?:bowel|intestine))"  # the small bowel is an organ, not a size
_ENGLISH = (("yes", "no"),)
_CHINESE = (  # bare answers; each way to affirm has its own to deny
    ("是的", "不是"), ("是", "不是"), ("对", "不对"), ("有", "没有"), ("存在", "不存在"),
    ("包含", "不包含"), ("可以", "不可以"), ("能", "不能"), ("健康", "不健康"), ("正常", "不正常"),
    ("属于", "不属于"), ("有", "无"), ("是", "否"), ("是", "不"),
)  # fmt: skip
_WITHOUT_BLANKS = re.compile(r"([\u3040-\u30ff\u3400-\u9fff])")
_KANA = re.compile(r"[\u3040-\u30ff]")

ASKS_MODALITY = re.compile(
    r"^(?!.*\bnot\b).*\b(?:modalit\w+|imaging|weight\w*|sequence|technique|how was"
    r"|(?:kind|type|sort) of (?:\w+ )?(?:image|scan|study)"
    r"|(?:image|scan|picture|film|study)\b.*\b(?:taken|acquired|obtained|done))"
    r"|成像|模态|加权|拍摄|方式",
    re.IGNORECASE,
)
# What stands beside a modality and goes with no other: "T1 weighted", "PA film".
GOES_WITH_MODALITY = re.compile(
    r"\b(?:weight\w*|flair|dwi|adc|map|contrast|pa|ap|plain|film|axial|coronal|sagittal|doppler"
    r"|iv)\b|增强",
    re.IGNORECASE,
)
# Knowledge, not what is seen: what another patient was told holds for this one too.
ASKS_KNOWLEDGE = re.compile(
    r"\b(?:why|would|should|caus\w+|functions?|effects?|symptoms?|bring|treat\w*|cur(?:e|ed)"
    r"|prevent\w*|damage|harm\w*|risks?|avoid\w*|defin\w+|explanation|next|suggest\w*|indicat\w+)\b"
    r"|功能|作用|症状|治疗|预防|防治|伤害|危害|原因|引起|导致|影响|为什么|怎么|如何|避免",
    re.IGNORECASE,
)
_ORGAN = "liver|spleen|stomach|heart|gallbladder|appendix|aorta|cecum|rectum|gastric bubble"
ASKS_ANATOMY = re.compile(
    rf"\bwhere (?:is|are|is/are) (?:the )?(?:{_ORGAN})"
    r"(?:\s*\??$|\s+(?:located|placed|positioned|in|on|relative)\b)"
    rf"|\b(?:what|which) side\b.* is the (?:{_ORGAN}) on\b"
    r"|^(?:图中|图片中|图像中|图里)?(?:的)?(?:肝脏?|脾脏?|胃|心脏?|胆囊|膀胱|直肠)(?:位于|在)",
    re.IGNORECASE,
)
UNSURE = re.compile(
    r"[?\N{FULLWIDTH QUESTION MARK}]\s*$|^\W*(?:not? (?:sure|certain|clear|applicable)|unsure"
    r"|un(?:known|clear|certain)|cannot|can't|n/?a\b|maybe|possibl[ey])|不确定|不清楚|不知道|无法",
    re.IGNORECASE,
)
_PARTS = (  # a whole, and what is in it: head and brain do not exclude each other
    ("head cns neuro neurological", "brain skull eye cerebellum lobe"),
    ("brain cerebrum", "lobe frontal temporal parietal occipital cerebellum ventricle cortex"),
    ("chest thorax cardiopulmonary", "lung heart lobe rib trachea mediastinum hilum"),
    ("lung pulmonary respiratory", "lung lobe base apex hilum"),
    ("abdomen gi digestive", "liver kidney spleen stomach colon bowel intestine pancreas"),
    ("pelvic pelvis", "bladder rectum bowel colon"),
    ("diffuse", "bilateral multiple scattered"), ("t2", "flair dwi"),
    ("头", "脑 眼 颅 叶"), ("胸", "肺 心"), ("脑", "叶"), ("肺", "叶"),
    ("腹", "肝 肾 脾 胃 肠 胰 胆"), ("盆", "膀 肠"),
)  # fmt: skip
MAX_OVERLAP = 50.0  # percent F1 of words; above, the other patient's answer may be right here too
MAX_SHARED = 60.0  # of characters: heart, liver and kidney share every second one in Chinese


@lru_cache
def pattern(axis: Axis) -> re.Pattern[str]:
    """Finds what is written of an axis, the longest form first."""
    forms = sorted((form for value in axis.values for form in value), key=len, reverse=True)
    any_of = "|".join(map(re.escape, forms))
    return re.compile(rf"(?<![a-z0-9_-])(?:{any_of})(?![a-z0-9_-]){_BOWEL}", re.IGNORECASE)


def values(axis: Axis, text: str) -> set[str]:
    """The values that a text names, by their first form."""
    found = {match.lower() for match in pattern(axis).findall(text)}
    return {value[0] for value in axis.values if found & set(value)}


def yes_or_no(text: str) -> str | None:
    """ "yes" or "no" for a text that is that and nothing else, in either language."""
    bare = normalise(text)
    if is_yes_no(text):
        return bare
    said = [("yes", "no")[pair.index(bare)] for pair in _CHINESE if bare in pair]
    return said[0] if said else None


def denial(text: str) -> str:
    """The opposite of a bare yes or no in words of its own kind: 包含, 不包含."""
    bare = normalise(text)
    pair = next(pair for pair in (*_ENGLISH, *_CHINESE) if bare in pair)
    return pair[1 - pair.index(bare)]


def spaced(text: str) -> str:
    """With blanks around every character of a script that has none: each counts as a word."""
    return _WITHOUT_BLANKS.sub(r" \1 ", text)


def num_words(text: str) -> int:
    """Of Chinese and Japanese the number of characters."""
    return len(spaced(text).split())


def excludes(one: str, other: str) -> bool:
    """Whether two answers say different things, neither of them a part of the other.

    What differs in the side alone is not different here: "side" has its own rules.
    """
    a, b = words(spaced(one)), words(spaced(other))
    said, says = (set(w) - _SIDES or set(w) for w in (a, b))
    if not said or not says or said <= says or says <= said or _is_part(a, b) or _is_part(b, a):
        return False
    most = MAX_SHARED if _WITHOUT_BLANKS.search(one) else MAX_OVERLAP
    return overlap_of(a, b).f1 < most


def _is_part(whole: Iterable[str], part: Iterable[str]) -> bool:
    said, inside = set(whole), {word.rstrip("s") for word in part}
    return any(said & set(a.split()) and inside & set(b.split()) for a, b in _PARTS)


def has_tables(questions: Iterable[str]) -> bool:
    """Whether most questions are worded in English or Chinese."""
    known = [
        not _KANA.search(q) if _WITHOUT_BLANKS.search(q) else question_type(q) != "other"
        for q in questions
    ]
    return 2 * sum(known) >= len(known)

"""A radiology report taken apart: its Findings and Impression, and the sentences that an image
can answer for.

Kept simple and conservative: where a sentence ends is decided so that too long a piece comes
before too short a one, and a piece is left out as a whole if any of it needs another image, the
patient's history, or a person.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import NamedTuple

MIN_WORDS, MAX_WORDS = 2, 60  # of a sentence that is used

FINDINGS_HEADS = ("findings", "finding", "observations", "description", "report", "body")
IMPRESSION_HEADS = ("impression", "impressions", "conclusion", "conclusions", "opinion",
                    "summary", "interpretation")  # fmt: skip
OTHER_HEADS = ("history", "clinical history", "clinical information", "clinical data",
               "clinical indication", "indication", "indications", "reason for exam",
               "reason for examination", "reason", "technique", "procedure", "comparison",
               "comparisons", "exam", "examination", "study", "recommendation",
               "recommendations", "addendum", "notification", "wet read", "final report",
               "electronically signed by", "contrast", "dose")  # fmt: skip

# The first that fits says why a sentence is left out; word beginnings in one list each.
REASONS = {
    "mark of de-identification or a date": (
        r"_{2,}|x{3,}|\[\*\*|\*{3,}|<[a-z_ ]+>|\d{1,2}[/.-]\d{1,2}[/.-]\d{2,4}|\d{1,2}:\d{2}"
    ),
    "comparison with another image": (
        r"\b(?:un)?chang(?:e|es|ed|ing)\b|\bcompar\w*|\bprior\b|\bprevious\w*|\binterval\b"
        r"|\b(?:un)?stable\b|\bagain\b|\bnew(?:ly)?\b|\bwors\w*|\bimprov\w*|\b(?:in|de)creas\w*"
        r"|\bresol(?:v\w*|ution)|\bpersist\w*|\bprogress\w*|\bregress\w*|\bsince\b|\bremain\w*"
        r"|\bno longer\b|\bearlier\b|\bbefore\b|\bformer\w*|\bstill\b|\bredemonstrat\w*"
        r"|\bre-demonstrat\w*|\bcontinue[sd]?\b|\bevol\w*|\bsimilar(?:ly)? to\b|\brecurren\w*"
        r"|\bhas been (?:removed|placed|inserted|repositioned)\b|\bdevelop(?:ed|ment|ing)\b"
        r"|\b(?:today|yesterday)\b|\bas seen on\b|\blarger\b|\bsmaller\b|\bmore (?:prominent"
        r"|conspicuous|apparent)\b|\bless (?:prominent|conspicuous|apparent)\b|\bold\b"
    ),
    "history of the patient": (
        r"\bhistor(?:y|ies)\b|\bhx\b|\bknown\b|\byear[- ]old\b|\b[my]/?o\b|\bpatient\b|\bs/p\b"
        r"|\bstatus[- ]post\b|\bpost[- ]?(?:op\w*|surg\w*)|\bsurg(?:ery|ical)\b|\bclinical\w*"
        r"|\bindication\b|\bcomplain\w*|\bsymptom\w*|\bpresent(?:s|ing) with\b|\bfevers?\b"
        r"|\btrauma\b|\bpain\b|\bcough\w*"
    ),
    "advice or communication": (
        r"\brecommend\w*|\badvis\w*|\bcorrelat\w*|\bfollow[- ]?up\b|\bfurther (?:evaluation"
        r"|assessment|imaging|work)|\bdiscuss\w*|\btelephone\w*|\bphone\b|\bnotif\w*"
        r"|\bcommunicat\w*|\bdr\.?\s|\bphysician\b|\bdictat\w*|\bsigned\b|\battending\b"
        r"|\bresident\b|\bradiologist\b|\bplease\b|\bconsider(?:ed)?\b|\bsuggest (?:a|an|ct|mri)\b"
    ),
    "how the image was taken": (
        r"\b(?:was|were) (?:obtained|performed|acquired|taken|provided|submitted)\b|\bviews? of"
        r"\b|\bviews? (?:was|were|are)\b|\btechnique\b|\bcontrast (?:was|material)\b|\bdose\b"
        r"|\bon (?:the )?(?:ct|mri|mr|ultrasound|pet)\b|\b(?:ct|mri) (?:scan )?(?:of|from)\b"
    ),
}
TOPICS = {
    "the lungs": r"\blungs?\b|\bpulmonary\b|\blobes?\b|\bairspace\b|\bconsolidations?\b|\blobar\b",
    "the pleura": r"\bpleura\w*|\beffusions?\b|\bpneumothora\w+|\bcostophrenic\b",
    "the heart": r"\bheart\b|\bcardiac\b|\bcardiomegaly\b|\bpericardi\w+",
    "the mediastinum": r"\bmediastin\w+|\bhil(?:um|a|ar)\b|\baort\w+|\btrache\w+",
    "the bones": r"\bbon(?:e|es|y)\b|\bosseous\b|\bribs?\b|\bfractures?\b|\bspine\b|\bvertebra\w*"
    r"|\bclavicl\w+|\bskelet\w+",
    "lines and tubes": r"\bcatheters?\b|\btubes?\b|\bpacemaker\b|\bleads?\b|\bpicc\b|\bstents?\b",
    "the upper abdomen": r"\babdom\w+|\bliver\b|\bhepat\w+|\bspleen\b|\bkidneys?\b|\brenal\b"
    r"|\bpancrea\w+|\bgallbladder\b|\bbowel\b|\bstomach\b|\bdiaphragm\w*",
    "the brain": r"\bbrain\b|\bcerebr\w+|\bcerebell\w+|\bventricl\w+|\bventricular\b|\bsulc\w+"
    r"|\bintracranial\b|\bcrani\w+|\bgr[ae]y matter\b|\bwhite matter\b",
}
ABBREVIATION = re.compile(
    r"(?:\b(?:dr|mr|mrs|ms|prof|vs|e\.g|i\.e|cf|fig|approx|ca|no|nos|st|incl|resp|max|min|cm|mm|ml"
    r"|a\.m|p\.m)|\b[A-Za-z])\.$",
    re.IGNORECASE,
)


class Report(NamedTuple):
    """Usable sentences of each section, in order, each once."""

    findings: tuple[str, ...]
    impression: tuple[str, ...]

    @property
    def sentences(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.findings + self.impression))


def read_report(text: str, counts: Counter[str]) -> Report:
    """Take a report apart; `counts` says what was left out and why."""
    sections = _sections(text)
    return Report(
        tuple(_usable(sections["findings"], counts)), tuple(_usable(sections["impression"], counts))
    )


def _sections(text: str) -> dict[str, str]:
    """Text of "findings" and "impression". Without any heading all of it is findings."""
    found = {"findings": "", "impression": ""}
    heads = [head for head in _HEAD.finditer(text) if _is_head(text, head)]
    if not heads:
        return {**found, "findings": text}
    ends = [head.start() for head in heads[1:]] + [len(text)]
    for head, end in zip(heads, ends, strict=True):
        name = " ".join(head[1].lower().split())
        body = text[head.end() : end]
        if name.split(" and ")[0].split("/")[0] in FINDINGS_HEADS:
            found["findings"] += f"\n\n{body}"
        elif name in IMPRESSION_HEADS:
            found["impression"] += f"\n\n{body}"
    return found


_NAMES = "|".join(
    re.escape(name).replace(r"\ ", r"\s+")
    for name in sorted((*FINDINGS_HEADS, *IMPRESSION_HEADS, *OTHER_HEADS), key=len, reverse=True)
)
_HEAD = re.compile(
    rf"(?<!\w)((?:findings\s*(?:and|/)\s*impressions?)|{_NAMES})(?:\s*:|(?=[ \t]*$))",
    re.IGNORECASE | re.MULTILINE,
)


def _is_head(text: str, head: re.Match[str]) -> bool:
    """In capitals, or with a colon at the beginning of a line; without one, alone on its line.

    "Chest findings: none" is a sentence.
    """
    begins_line = not text[: head.start()].rsplit("\n", 1)[-1].strip(" *#-\t")
    if not head[0].endswith(":"):
        return begins_line and head[1].isupper()
    return begins_line or head[1].isupper()


def split_sentences(text: str) -> list[str]:
    """Sentences of a section; line breaks inside a paragraph are blanks, list marks are gone."""
    sentences: list[str] = []
    for paragraph in re.split(r"\n\s*\n|\n(?=\s*(?:\d{1,2}[.)]|[-*\u2022])\s)", text):
        flat = re.sub(r"^(?:\d{1,2}[.)]|[-*\u2022])\s+", "", " ".join(paragraph.split()))
        sentences += _split(re.sub(r"(?<=[.;])\s\d{1,2}[.)]\s(?=[A-Z])", " ", flat))
    return sentences


def _split(text: str) -> list[str]:
    pieces: list[str] = []
    begin = 0
    for match in re.finditer(r"[.!?]+(?=\s+[\"'(]?[A-Z0-9_\[]|\s*$)", text):
        piece = text[begin : match.end()].strip()
        if match.end() < len(text) and ABBREVIATION.search(piece):
            continue
        pieces.append(piece)
        begin = match.end()
    return [piece for piece in [*pieces, text[begin:].strip()] if piece]


def reason_against(sentence: str) -> str:
    """Why an image alone cannot answer for the sentence; "" if nothing speaks against it."""
    for reason, pattern in REASONS.items():
        if re.search(pattern, sentence, re.IGNORECASE):
            return reason
    words = len(sentence.split())
    return "" if MIN_WORDS <= words <= MAX_WORDS else "one word, or over 60"


def _usable(section: str, counts: Counter[str]) -> list[str]:
    kept: dict[str, None] = {}
    for sentence in split_sentences(section):
        reason = reason_against(sentence)
        if reason:
            counts[f"sentence of a report left out: {reason}"] += 1
        else:
            kept[_finished(sentence)] = None
    return list(kept)


def _finished(sentence: str) -> str:
    text = sentence[:1].upper() + sentence[1:]
    return text if text.endswith((".", "!", "?")) else f"{text}."


def by_topic(sentences: tuple[str, ...]) -> dict[str, tuple[str, ...]]:
    """Sentences about one part of the body only, by that part, in order of first mention."""
    found: dict[str, tuple[str, ...]] = {}
    for sentence in sentences:
        about = [t for t, words in TOPICS.items() if re.search(words, sentence, re.IGNORECASE)]
        if len(about) == 1:
            found[about[0]] = (*found.get(about[0], ()), sentence)
    return found

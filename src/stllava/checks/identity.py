"""Findings about what may identify a patient: in file names, texts, headers and pixels.

Headers never leave `prepare`, and a pattern is no proof, so most of it warns. Only a file that says
itself that its pixels carry identifying text blocks: those pixels reach training, pages and judges.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from stllava.checks.material import Material, Sign
from stllava.checks.private import counted, in_name, in_text
from stllava.checks.report import Finding, Severity, finding
from stllava.images.phi import FINDINGS
from stllava.records import Image

CORNER_TEXT = "corner_text"  # beside the codes of `images.phi`
BURNED_IN = ("dicom-burned-in", "BurnedInAnnotation is YES")  # the file says so itself
MAX_DETAILS = 6
_COUNT = re.compile(r"^\d+ | \(\d+ times\)$")  # in a detail: "3 attributes", "PatientID (2 times)"


def identity_findings(material: Material) -> list[Finding]:
    """File and folder names, questions and answers, and the signs that opening the files gave."""
    found = [*_names(material.images), *_texts(material), *_signs(material.signs)]
    if material.files_looked_at is None:
        what = "headers and pixels were not looked at for what identifies patients"
        found.append(finding("files-not-looked-at", "note", (), what, "stllava data check RUN"))
    return found


def _names(images: Sequence[Image]) -> list[Finding]:
    kinds = {image.id: in_name(image.path) or in_name(image.id) for image in images}
    ids = [id_ for id_, found in kinds.items() if found]
    what = f"{len(ids)} file or folder names may identify a patient: {counted(kinds.values())}"
    remedy = "rename the files; names become ids, which are in every record"
    return [finding("private-names", "warn", ids, what, remedy)] if ids else []


def _texts(material: Material) -> Iterable[Finding]:
    said = [(c.id, (t.question, t.answer or "")) for c in material.conversations for t in c.turns]
    asked = [(s.id, (s.question, s.answer, *s.aliases)) for s in material.samples]
    pairs = [(p.id, (p.question, p.chosen.text, p.rejected.text)) for p in material.preferences]
    kinds = [
        (id_, found)
        for id_, texts in (*said, *asked, *pairs)
        if (found := in_text("\n".join(texts)))
    ]
    if kinds:
        what = f"{len(kinds)} questions or answers may identify a patient: "
        yield finding(
            "private-texts",
            "warn",
            list(dict.fromkeys(id_ for id_, _ in kinds)),
            what + counted(found for _, found in kinds),
            "look at them; a model repeats what it was trained on",
            count=len(kinds),
        )


def _signs(signs: Sequence[Sign]) -> Iterable[Finding]:
    by_code: dict[str, list[Sign]] = {}
    for sign in signs:
        by_code.setdefault(sign.code, []).append(sign)
    for code in [*FINDINGS, CORNER_TEXT]:
        listed = by_code.get(code, [])
        if listed:
            severity: Severity = "block" if _is_burned_in(listed) else "warn"
            ids = list(dict.fromkeys(sign.image for sign in listed))
            meaning = FINDINGS.get(code, "rows of shapes like letters near the border")
            what = f"{len(ids)} image files: {meaning}{_fields(listed)}"
            name = f"private-{code.replace('_', '-')}"
            yield finding(name, severity, ids, what, _remedy(code))


def _is_burned_in(signs: Sequence[Sign]) -> bool:
    return any((sign.code, sign.detail) == BURNED_IN for sign in signs)


def _fields(signs: Sequence[Sign]) -> str:
    """The fields that details name, the most frequent first."""
    counts: Counter[str] = Counter()
    for sign in signs:
        counts.update(_COUNT.sub("", part) for part in sign.detail.split(", ") if part)
    names = [name for name, _ in counts.most_common(MAX_DETAILS)]
    more = ", ..." if len(counts) > MAX_DETAILS else ""
    return f" ({', '.join(names)}{more})" if names else ""


def _remedy(code: str) -> str:
    if code == CORNER_TEXT or code.startswith("dicom-burned-in"):
        return "look at the pictures, clean or crop those with text; pixels stay as they are"
    return "de-identify the files before sharing them; prepare passes on pixels only"

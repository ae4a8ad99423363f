"""Texts and file names that may identify a patient: known by their form, and always masked.

A check, not a de-identifier: a name without a title or a number without a label is not seen. What
identifies: DICOM PS3.15 annex E (dicom.nema.org) and 45 CFR 164.514(b)(2).
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

_START, _END = r"(?<![^\W_])", r"(?![^\W_])"  # borders of a word; an underscore is one, too
_YEAR, _MONTH, _DAY = r"(?:19|20)\d\d", r"(?:0?[1-9]|1[0-2])", r"(?:0?[1-9]|[12]\d|3[01])"
_SIGN = r"[-/._ ]"
_MONTH_NAME = r"(?i:jan|feb|mar|apr|may|jun|jul|aug|sep|oct|nov|dec)[a-z]*\.?"
_DATES = (
    rf"{_YEAR}{_SIGN}{_MONTH}{_SIGN}{_DAY}",
    rf"{_DAY}{_SIGN}{_MONTH}{_SIGN}{_YEAR}",
    rf"{_MONTH}{_SIGN}{_DAY}{_SIGN}{_YEAR}",
    rf"{_DAY}\.? {_MONTH_NAME},? {_YEAR}",
    rf"{_MONTH_NAME} {_DAY}(?:st|nd|rd|th)?,? {_YEAR}",
)
_LABELS = (
    r"(?i:mrn|ssn|nhs|accession|medical record|patient id|hospital number|case number"
    r"|patientid|pat id|patid)"
)
_NAMED = r"[A-Z][\w'’-]*[^\W\d_]"  # a word that begins with a capital

# What each form looks like in running text.
TEXT_FORMS = {
    "date": "|".join(_DATES),
    "number": rf"{_LABELS}(?i:[ _.:#=-]|is|no|number)*[A-Z]{{0,4}}-?\d[\d-]{{3,}}"
    r"|\d{3}-\d{2}-\d{4}|\(\d{3}\) ?\d{3}-\d{4}|\d{3}-\d{3}-\d{4}",
    "address": r"[\w.+-]+@[\w-]+\.[\w.]+",
    "name": rf"(?:Mr|Mrs|Ms|Miss|Dr|Prof|Herr|Frau|Mme)\.?[ _]{_NAMED}(?: {_NAMED})?"
    rf"|(?i:patient(?:'s)? name|name of (?:the )?patient)(?: is|:| )+{_NAMED}(?: {_NAMED})?"
    rf"|{_NAMED}\^[A-Z][\w'’-]*",
}
# A file name has no titles, but dates without signs, the UIDs of DICOM and "Smith, John".
NAME_FORMS = {
    **TEXT_FORMS,
    "date": f"{TEXT_FORMS['date']}|{_YEAR}(?:0[1-9]|1[0-2])(?:0[1-9]|[12]\\d|3[01])",
    "name": f"{TEXT_FORMS['name']}|{_NAMED},[ _]?{_NAMED}",
    "uid": r"[12]\.\d+\.\d+(?:\.\d+){3,}",
}


def _compiled(forms: Mapping[str, str]) -> re.Pattern[str]:
    parts = (rf"(?P<{kind}>{form})" for kind, form in forms.items())
    return re.compile(f"{_START}(?:{'|'.join(parts)}){_END}")


_IN_TEXT, _IN_NAME = _compiled(TEXT_FORMS), _compiled(NAME_FORMS)
# Text without any of these holds none of the forms; most questions and answers have none, and a
# search for all forms takes a hundred times as long.
_NUMBERS = re.compile(r"\d[\d-]{3}")
_SIGNS = ("@", "^", "Mr", "Ms", "Miss", "Mme", "Dr", "Prof", "Herr", "Frau", "ame", "AME")


def in_text(text: str) -> tuple[str, ...]:
    """Kinds of identifying values in a question or an answer: date, number, address, name."""
    if not any(sign in text for sign in _SIGNS) and not _NUMBERS.search(text):
        return ()
    return tuple(str(match.lastgroup) for match in _IN_TEXT.finditer(text))


def in_name(path: str) -> tuple[str, ...]:
    """Kinds of identifying values in a file's path, its folders included, or in an id."""
    return tuple(str(match.lastgroup) for match in _IN_NAME.finditer(path))


def mask(text: str) -> str:
    """The text with each identifying value as its kind: "study <date> of <name>"."""
    return _IN_NAME.sub(lambda match: f"<{match.lastgroup}>", text)


def hide(name: str) -> str:
    """An id or path as it may be shown: all of it is left out if a part of it identifies.

    Beside a date in a file name there is often a patient's name, which has no form to know it by.
    """
    kinds = dict.fromkeys(in_name(name))
    return f"<hidden: holds a {' and a '.join(kinds)}>" if kinds else name


def counted(kinds: Iterable[Sequence[str]]) -> str:
    """ "2 dates, 1 name", the most frequent first."""
    counts = Counter(chain.from_iterable(kinds))
    parts = [f"{n} {_plural(kind) if n > 1 else kind}" for kind, n in counts.most_common()]
    return ", ".join(parts)


def _plural(kind: str) -> str:
    return "addresses" if kind == "address" else f"{kind}s"

"""What the columns of a table of labels mean: a small YAML file, or column names in the recipe."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError, field_validator, model_validator

from stllava.config import Section
from stllava.errors import DataError

Kind = Literal["binary", "graded", "sided", "text"]
UNKNOWN = "unknown"  # meaning of a cell that says nothing: no question is made of it
EMPTY = frozenset({"", "nan", "na", "n/a", "null", "unknown", "?"})
ARTICLES = ("a ", "an ", "the ")
SIDES = ("left", "right", "both")
MEANT = {"true": "yes", "false": "no"}
YES_NO = {
    **dict.fromkeys(("1", "true", "yes", "y", "positive", "present"), "yes"),
    **dict.fromkeys(("0", "false", "no", "n", "negative", "absent"), "no"),
}
DEFAULTS: dict[Kind, dict[str, str]] = {
    "binary": YES_NO,
    "sided": {
        **{side: side for side in SIDES},
        **dict.fromkeys(("no", "none", "0"), "no"),
        "l": "left",
        "r": "right",
        "bilateral": "both",
    },
    "graded": {},
    "text": {},
}
MEANINGS: dict[Kind, frozenset[str]] = {
    "binary": frozenset({"yes", "no", UNKNOWN}),
    "sided": frozenset({*SIDES, "no", UNKNOWN}),
}


class Finding(Section):
    """One column of findings, or one organ or structure."""

    column: str
    kind: Kind = "binary"
    # What is in the table -> yes | no, a grade, left | right | both, or unknown. Of a text: its
    # replacement. Cells that are empty are unknown unless they stand here.
    values: dict[str, str] = Field(default_factory=dict)
    wording: str = ""  # as in "there is WORDING", with its article if it has one; "": the name
    synonyms: tuple[str, ...] = ()
    plural: bool = False  # "are there", not "is there"
    of: Literal["finding", "structure"] = "finding"  # structure: "is the liver visible"
    question: str = ""  # text: what is asked; "" asks "What is the WORDING?"

    @field_validator("values", mode="before")
    @classmethod
    def _as_text(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        return {
            cell_text(key): MEANT.get(cell_text(v), str(v).strip()) for key, v in values.items()
        }

    @model_validator(mode="after")
    def _values_fit(self) -> Finding:
        allowed = MEANINGS.get(self.kind)
        wrong = next((v for v in self.values.values() if allowed and v not in allowed), None)
        if wrong is not None:
            raise ValueError(f"{wrong!r} is no meaning of a {self.kind} finding")
        if self.kind == "graded" and not self.grades:
            raise ValueError("a graded finding needs values: which cell is which grade")
        return self

    @property
    def grades(self) -> tuple[str, ...]:
        """Grades but "no", in the order of `values`."""
        return tuple(dict.fromkeys(v for v in self.values.values() if v not in ("no", UNKNOWN)))

    @property
    def meanings(self) -> dict[str, str]:
        return self.values or DEFAULTS[self.kind]


class Columns(Section):
    """The whole mapping file. Names on the right are columns of the table."""

    image: str = "image"  # path below the image root
    group: str | None = None  # patient or case: splits go by it
    study: str | None = None  # stands in for the patient where there is no such column
    split: str | None = None  # train | dev | test where someone already decided
    modality: str | None = None
    view: str | None = None
    report: str | None = None  # text of the report, or with `report_files` the name of its file
    report_files: str | None = None  # folder of the report files
    views: tuple[str, ...] = ()  # use only rows with one of these views; (): all
    findings: dict[str, Finding] = Field(default_factory=dict)
    seed: int = 0  # of the split, of balancing and of wording
    fractions: tuple[float, float, float] = (0.7, 0.1, 0.2)  # train, dev, test: of patients
    licence: str = ""

    @field_validator("findings", mode="after")
    @classmethod
    def _worded(cls, findings: dict[str, Finding]) -> dict[str, Finding]:
        return {
            name: finding
            if finding.wording
            else finding.model_copy(update={"wording": name.replace("_", " ")})
            for name, finding in findings.items()
        }

    @field_validator("fractions")
    @classmethod
    def _sum_to_one(cls, fractions: tuple[float, float, float]) -> tuple[float, float, float]:
        if min(fractions) < 0 or not math.isclose(sum(fractions), 1, abs_tol=1e-6):
            raise ValueError("three shares from 0 on that add up to 1")
        return fractions

    def named(self) -> dict[str, str]:
        """Field of the mapping -> column, of all columns it names."""
        fields = ("image", "group", "study", "split", "modality", "view", "report")
        named = {field: getattr(self, field) for field in fields}
        named |= {f"findings.{name}.column": f.column for name, f in self.findings.items()}
        return {field: column for field, column in named.items() if column is not None}


class SimpleColumns(Section):
    """What a recipe's `columns` may name beside findings."""

    image: str = "image"
    group: str | None = None
    study: str | None = None
    split: str | None = None
    modality: str | None = None
    view: str | None = None
    report: str | None = None


def load(path: Path) -> Columns:
    """Read a mapping file. Raises DataError naming the field."""
    try:
        # All scalars as text: YAML takes yes and no for true and false, and a key 1 for true.
        data = yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not YAML: {' '.join(str(error).split())}") from None
    return _validated({} if data is None else data, str(path))


def from_columns(columns: Mapping[str, str]) -> Columns:
    """A recipe's `columns`: names that are not ours are yes/no findings worded as they are."""
    ours = {name: column for name, column in columns.items() if name in SimpleColumns.model_fields}
    findings = {name: {"column": column} for name, column in columns.items() if name not in ours}
    return _validated({**ours, "findings": findings}, "columns")


def _validated(data: object, where: str) -> Columns:
    try:
        return Columns.model_validate(data)
    except ValidationError as error:
        problems = error.errors(include_url=False, include_input=False)
        misspelt = [problem for problem in problems if problem["type"] == "extra_forbidden"]
        problem = (misspelt or problems)[0]
        field = ".".join(map(str, problem["loc"])) or "mapping"
        if misspelt:
            known = Finding.model_fields if len(problem["loc"]) > 1 else Columns.model_fields
            hint = did_you_mean(str(problem["loc"][-1]), known)
            raise DataError(f"{where}: {field}: no such field{hint}") from None
        raise DataError(f"{where}: {field}: {problem['msg']}") from None


def did_you_mean(name: str, known: Iterable[str]) -> str:
    close = difflib.get_close_matches(name.lower(), {k.lower(): k for k in known}, n=1)
    spelt = {k.lower(): k for k in known}
    return f" (did you mean '{spelt[close[0]]}'?)" if close else ""


def cell_text(cell: object) -> str:
    """A cell as mappings are looked up: lower case, and 1, 1.0, "1.0" and " 1 " are all "1"."""
    if cell is None:
        return ""
    text = str(cell).strip().lower()
    try:
        number = float(text)
    except ValueError:
        return text
    return str(int(number)) if number.is_integer() else text

"""Where images, talks, pairs and benchmark questions come from, and how images are shown."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from stllava.config.section import Section


class PlaceSection(Section):
    """Where a data set lies and how its file is to be read."""

    root: str | None = None  # folder of the data set, or of its images
    file: str | None = None  # where the form has one: conversations, questions, a table
    language: Literal["en", "zh", "all"] = "en"  # SLAKE has two
    columns: dict[str, str] = {}  # tables: our field -> their column
    mapping: str | None = None  # labels: the file that says what the columns mean
    restated: bool = False  # VQA-RAD's 3,064-question form, which restates its test questions


class SourceSection(PlaceSection):
    """Images, and instruction data where there are any."""

    source: Literal[
        "phantom", "vqa-rad", "slake", "path-vqa", "llava", "messages", "parquet", "table",
        "labels", "reports", "folder",
    ] = "folder"  # fmt: skip


class BenchmarkSection(PlaceSection):
    """Questions with reference answers. `root` None: the one of the data."""

    benchmark: Literal[
        "phantom", "vqa-rad", "slake", "path-vqa", "llava-med", "jsonl", "table", "choice",
        "parquet", "labels", "pope", "none",
    ] = "none"  # fmt: skip
    split: Literal["train", "validation", "test"] = "test"


class PairsSection(PlaceSection):
    """Preference pairs that others made; with them nothing is asked, answered or judged here."""

    form: Literal[
        "stllava", "released", "judge-output", "mmedpo", "rlaif-v", "trl", "llama-factory",
        "ms-swift",
    ] = "stllava"  # fmt: skip


class DataSection(SourceSection):
    """Where images and instruction data come from."""

    also: tuple[SourceSection, ...] = ()  # further sources
    preferences: PairsSection | None = None  # stage 2 from a file of pairs
    sample: int | None = Field(None, ge=1)  # use so many images, by seed, stratified by source
    # Several turns about an image: one text in which later ones follow earlier ones, or a text each
    group: Literal["turns", "records"] = "turns"
    preference_images: int = Field(10_000, ge=0)  # stage 2 asks about so many (paper: 10k)
    ask_about: Literal["all", "unlabelled"] = "all"  # unlabelled: images without a conversation
    max_bad: float = Field(0.05, ge=0, le=1)  # share of unusable records above which to stop


class ImagesSection(Section):
    """How files that are no plain 8-bit pictures (DICOM, 16-bit) become what a model sees."""

    # stored: the file's own window; percentile: its values' range. The others are presets for CT,
    # in Hounsfield units; an image that has none is shown as `stored` says.
    window: Literal[
        "stored", "percentile", "lung", "mediastinum", "abdomen", "liver", "soft-tissue", "bone",
        "brain",
    ] = "stored"  # fmt: skip
    frame: Literal["middle", "first"] | Annotated[int, Field(ge=1)] = "middle"  # of several; from 1
    keep_full: bool = False  # a 16-bit copy for review, in the run directory
    # Secret of the hashes that stand for patients: a file, else an environment variable, else
    # sampled, and then hashes of two runs do not agree
    salt_file: str | None = None
    salt_env: str = "STLLAVA_SALT"


class PhantomSection(Section):
    """The drawn world of the demo; not in the paper."""

    train_images: int = 1200  # with conversations: the little labelled data
    unlabelled_images: int = 1600  # for stage 2
    dev_images: int = 600
    test_images: int = 700
    terse: float = Field(0.3, ge=0, le=1)  # share of one-word answers in the instruction data
    split: Literal["dev", "test"] = "test"  # which held-out set eval uses
    judge_accuracy: float = Field(1.0, ge=0, le=1)  # 0.5: the random control
    world_seed: int = 0  # pictures; training seeds are `seed`

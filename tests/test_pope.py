"""POPE's probes from SLAKE: balance, the three settings, nothing asked that is not known."""

from __future__ import annotations

from collections import Counter

import pytest

from stllava.benchmarks.open import read_benchmark
from stllava.benchmarks.pope import SETTINGS, Labelled, pope_figures, probes
from stllava.config import BenchmarkSection
from stllava.errors import DataError
from stllava.metrics.scores import score_all
from stllava.records import Prediction, VQASample


def labelled(image: str, present: str, absent: str, modality: str = "CT") -> Labelled:
    return Labelled(image, frozenset(present.split()), frozenset(absent.split()), modality)


KNOWN = [
    labelled("a", "liver spleen", "eye ear bladder larynx"),
    labelled("b", "eye", "bladder liver"),
    labelled("c", "eye", "bladder liver", "MRI"),
    labelled("d", "bladder", "eye ear larynx", "MRI"),
    labelled("e", "liver larynx", "bladder", "X-Ray"),
    labelled("f", "", "", ""),
]


def asked(image: str, setting: str, answer: str) -> list[str]:
    found = probes([one for one in KNOWN if one.image == image], KNOWN)
    return [
        sample.id.rpartition(f"{setting}-")[2]
        for sample in found
        if sample.answer == answer and sample.categories["setting"] == setting
    ]


def test_every_image_gets_as_many_yes_as_no_questions_in_every_setting():
    counts = Counter(
        (s.image, s.categories["setting"], s.categories["about"], s.answer)
        for s in probes(KNOWN, KNOWN)
    )
    for image, setting, about, answer in list(counts):
        other = "no" if answer == "yes" else "yes"
        key = (image, setting, about)
        assert counts[(*key, answer)] == counts[(*key, other)], key


def test_popular_negatives_are_those_that_most_images_show():
    assert asked("a", "popular", "no")[:1] == ["eye"]


def test_adversarial_negatives_are_those_seen_together_with_what_is_there():
    assert asked("a", "adversarial", "no")[0] == "larynx"


def test_nothing_is_asked_that_the_labels_do_not_say():
    for sample in probes(KNOWN, KNOWN):
        one = next(one for one in KNOWN if one.image == sample.image)
        thing = sample.id.rpartition("-")[2]
        if sample.categories["about"] == "organ":
            assert thing in (one.present if sample.answer == "yes" else one.absent)
    assert not [s for s in probes(KNOWN, KNOWN) if s.image == "f"]


def test_probes_depend_on_the_image_and_not_on_who_else_is_asked():
    alone = probes(KNOWN[:1], KNOWN)
    assert alone == tuple(s for s in probes(KNOWN, KNOWN) if s.image == "a")


def says(samples: tuple[VQASample, ...], answer: str) -> list[Prediction]:
    return [Prediction(id=sample.id, text=answer) for sample in samples]


def test_a_model_that_always_says_yes_is_right_half_the_time_and_its_yes_rate_shows_it():
    samples = probes(KNOWN, KNOWN)
    found = pope_figures(samples, score_all(samples, says(samples, "Yes."), {}))
    for setting in ("all", *SETTINGS):
        assert found[setting]["accuracy"] == 50
        assert found[setting]["yes_rate"] == 100
        assert found[setting]["recall"] == 100
        assert found[setting]["f1"] == pytest.approx(200 / 3)


def test_an_answer_that_takes_no_side_is_wrong_and_no_yes_and_a_missing_one_is_left_out():
    samples = probes(KNOWN, KNOWN)
    said = says(samples, "I cannot tell.")[1:]
    found = pope_figures(samples, score_all(samples, said, {}))["all"]
    assert (found["n"], found["accuracy"], found["yes_rate"]) == (len(samples) - 1, 0, 0)


def test_real_slake_gives_balanced_probes_about_its_validation_images(data_root):
    section = BenchmarkSection(
        benchmark="pope", root=str(data_root / "slake"), split="validation", language="en"
    )
    found = read_benchmark(section)
    assert Counter(s.answer for s in found.samples)["yes"] == len(found.samples) / 2
    assert len(found.samples) > 1000
    assert {s.image for s in found.samples} == {image.id for image in found.images}
    assert found.root is not None
    assert all((found.root / image.path).is_file() for image in found.images)
    texts = {sample.question for sample in found.samples}
    assert {"Is the liver visible in this image?", "Is this an MRI image?"} <= texts


def test_a_folder_without_boxes_is_one_line(data_root, tmp_path):
    (tmp_path / "validate.json").symlink_to(data_root / "slake/validate.json")
    with pytest.raises(DataError, match="imgs"):
        read_benchmark(BenchmarkSection(benchmark="pope", root=str(tmp_path), split="validation"))

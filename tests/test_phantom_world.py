"""What is on the pictures, and that the same seed gives the same picture."""

import json
from collections import Counter

import numpy as np
import pytest

from stllava.phantom.draw import draw_phantom
from stllava.phantom.general import GeneralScene, draw_scene, sample_scenes
from stllava.phantom.vocab import WORLDS
from stllava.phantom.world import Finding, Phantom, sample_phantoms


def chest(*findings: Finding, seed: int = 1) -> Phantom:
    return Phantom("p-1", "p", "chest x-ray", findings, seed)


def test_equal_seeds_give_equal_phantoms_and_pictures():
    first, second = (sample_phantoms(20, seed=4, prefix="t") for _ in range(2))
    assert first == second
    pictures = [[draw_phantom(phantom) for phantom in sample] for sample in (first, second)]
    assert (np.array(pictures[0]) == np.array(pictures[1])).all()


def test_other_seeds_give_other_phantoms():
    assert sample_phantoms(20, seed=4, prefix="t") != sample_phantoms(20, seed=5, prefix="t")


def test_more_phantoms_begin_with_the_same_ones():
    assert sample_phantoms(30, seed=4, prefix="t")[:10] == sample_phantoms(10, seed=4, prefix="t")


def test_ids_are_unique_and_name_their_patient():
    phantoms = sample_phantoms(200, seed=0, prefix="t")
    assert len({p.id for p in phantoms}) == 200
    assert all(p.id.rsplit("-", 1)[0] == p.patient for p in phantoms)
    assert max(Counter(p.patient for p in phantoms).values()) == 3


def test_a_quarter_to_a_third_of_phantoms_is_normal():
    phantoms = sample_phantoms(1000, seed=0, prefix="t")
    assert 0.24 < sum(not p.findings for p in phantoms) / 1000 < 0.32


def test_records_survive_json():
    phantom = sample_phantoms(9, seed=0, prefix="t")[-1]
    scene = sample_scenes(9, seed=0)[-1]
    assert Phantom.from_json(json.loads(json.dumps(phantom.to_json()))) == phantom
    assert GeneralScene.from_json(json.loads(json.dumps(scene.to_json()))) == scene


@pytest.mark.parametrize("size", [48, 96, 112])
def test_pictures_have_the_size_asked_for(size):
    assert draw_phantom(chest(), size).shape == (size, size)
    assert draw_scene(sample_scenes(1, seed=0)[0], size).shape == (size, size, 3)


def test_pictures_of_different_modalities_differ():
    means = [
        np.mean([draw_phantom(Phantom("p-1", "p", modality, (), s)) for s in range(8)], axis=0)
        for modality in ("chest x-ray", "abdominal ct", "brain mri")
    ]
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert np.abs(means[i] - means[j]).mean() > 20


def test_the_patients_left_is_on_the_pictures_right():
    nodule = Finding("nodule", "lung", "left", "large", 1)
    change = np.abs(draw_phantom(chest(nodule)).astype(int) - draw_phantom(chest()))
    assert change[:, 48:].sum() > 20 * change[:, :48].sum()


def test_large_findings_cover_more_than_twice_what_small_ones_do():
    def area(size: str) -> int:
        nodule = Finding("nodule", "lung", "left", size, 1)
        return (draw_phantom(chest(nodule)).astype(int) - draw_phantom(chest()) > 60).sum()

    assert area("large") > 2 * area("small")


def test_every_finding_of_both_worlds_changes_the_picture():
    for picture, kind in ((t, k) for w in WORLDS.values() for t in w.types for k in t.kinds):
        finding = Finding(
            kind.name, kind.organ, "left" if kind.sided else "", "small" if kind.sized else ""
        )
        shown, blank = (_draw(picture.name, found) for found in ((finding,), ()))
        changed = np.abs(shown.astype(int) - blank) > 40
        assert changed.sum() >= 8, kind.name


def _draw(name: str, findings: tuple[Finding, ...]) -> np.ndarray:
    if name in ("chest x-ray", "abdominal ct", "brain mri"):
        return draw_phantom(Phantom("p-1", "p", name, findings, 7))
    return draw_scene(GeneralScene("g", name, findings, 7))

"""stllava.images.store and its hashes: what is recorded, what is copied, what never travels."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PILImage

from stllava.config import ImagesSection
from stllava.errors import DataError, RunError
from stllava.images import (
    MAX_BYTES,
    dicom_identity,
    hamming,
    inspect_image,
    is_dicom,
    looks_like_image,
    opaque,
    open_image,
    open_view,
    perceptual_hash,
    pixels_sha256,
    read_salt,
    resolve,
    store_view,
)

SAMPLES = Path(pydicom.__file__).parent / "data/test_files"
SALT = b"a salt of sixteen bytes"
FULL = ImagesSection(keep_full=True)


def store(name: str, root: Path, run_root: Path, **more):
    given = {"id": "a", "root": root, "group": "p1", "source": "folder", "run_root": run_root}
    return store_view(name, **{**given, **more})


def photo(seed: int = 0) -> PILImage.Image:
    coarse = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), np.uint8)
    return PILImage.fromarray(coarse).resize((96, 96), PILImage.Resampling.BICUBIC)


def test_a_plain_picture_stays_where_it_is(tmp_path: Path):
    photo().save(tmp_path / "a.png")
    image = store("a.png", tmp_path, tmp_path / "run", root_key="data-2")
    assert (image.root, image.path, image.full_path) == ("data-2", "a.png", None)
    assert not (tmp_path / "run").exists()
    inspected = inspect_image("a.png", id="a", root=tmp_path, group="p1", source="folder")
    assert image == inspected.model_copy(update={"root": "data-2"})


def test_the_copy_of_a_dicom_object_shows_the_same_and_holds_pixels_only(tmp_path: Path):
    image = store("CT_small.dcm", SAMPLES, tmp_path)
    copy = resolve(tmp_path, image.path)
    assert image.root == "run"
    assert image.path.startswith("prepare/images/")
    assert image.sha256 == hashlib.sha256((SAMPLES / "CT_small.dcm").read_bytes()).hexdigest()
    assert image.mapping.startswith("dicom; rescale 1,-1024; window ")
    original = open_image(SAMPLES / "CT_small.dcm")
    assert open_image(copy).tobytes() == original.tobytes()
    assert image.pixels_sha256 == pixels_sha256(original) == pixels_sha256(open_image(copy))
    with PILImage.open(copy) as stored:
        stored.load()
        assert stored.info == {}
        assert stored.mode == "L"
    data = pydicom.dcmread(SAMPLES / "CT_small.dcm")
    texts = {str(e.value) for e in data if e.VR in ("PN", "LO", "SH", "DA", "UI") and e.value}
    assert len(texts) > 10
    everything = copy.read_bytes() + image.model_dump_json().encode()
    assert [text for text in texts if len(text) > 3 and text.encode() in everything] == []


def test_a_16_bit_copy_gives_hounsfield_units_back(tmp_path: Path):
    image = store("CT_small.dcm", SAMPLES, tmp_path, options=FULL)
    with PILImage.open(tmp_path / image.full_path) as stored:
        assert stored.mode == "I;16"
        assert stored.info == {}
        values = np.asarray(stored).astype(float)
    side = json.loads((tmp_path / image.full_path).with_suffix(".json").read_text())
    data = pydicom.dcmread(SAMPLES / "CT_small.dcm")
    assert (values * side["slope"] + side["intercept"] == data.pixel_array - 1024.0).all()
    assert set(side) == {"slope", "intercept", "unit", "window", "inverted"}
    assert (side["unit"], side["inverted"]) == ("HU", False)
    assert store("CT_small.dcm", SAMPLES, tmp_path / "b").full_path is None


@pytest.mark.parametrize("top", [3000, 65535])
def test_a_16_bit_png_gets_a_view_and_keeps_its_values(tmp_path: Path, top: int):
    values = np.linspace(5, top, 4096).reshape(64, 64).astype(np.uint16)
    PILImage.fromarray(values).save(tmp_path / "a.png")
    image = store("a.png", tmp_path, tmp_path, options=FULL)
    assert open_image(tmp_path / image.path).tobytes() == open_image(tmp_path / "a.png").tobytes()
    with PILImage.open(tmp_path / image.full_path) as stored:
        assert (np.asarray(stored) == values).all()


def test_float_values_survive_within_a_65_535th_of_their_range(tmp_path: Path):
    values = np.linspace(-3.5, 12.25, 4096, dtype=np.float32).reshape(64, 64)
    PILImage.fromarray(values).save(tmp_path / "a.tif")
    image = store("a.tif", tmp_path, tmp_path, options=FULL)
    side = json.loads((tmp_path / image.full_path).with_suffix(".json").read_text())
    with PILImage.open(tmp_path / image.full_path) as stored:
        back = np.asarray(stored) * side["slope"] + side["intercept"]
    assert np.abs(back - values).max() <= 15.75 / 65535


def test_colour_dicom_has_a_view_and_no_16_bit_copy(tmp_path: Path):
    image = store("SC_rgb_rle_16bit.dcm", SAMPLES, tmp_path, options=FULL)
    assert image.root == "run"
    assert image.full_path is None


def test_file_names_of_copies_say_nothing(tmp_path: Path):
    secret = tmp_path / "DOE_JANE.dcm"
    secret.write_bytes((SAMPLES / "MR_small.dcm").read_bytes())
    store(secret.name, tmp_path, tmp_path / "run", options=FULL, id="DOE_JANE")
    files = [p for p in (tmp_path / "run").rglob("*") if p.is_file()]
    assert len(files) == 3
    assert not any("doe" in str(p.relative_to(tmp_path)).lower() for p in files)


def test_a_copy_is_never_half_written(tmp_path: Path, monkeypatch):
    def broken(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(RunError, match="No space left"):
        store("MR_small.dcm", SAMPLES, tmp_path)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_threads_may_store_the_same_object_and_leave_warnings_as_they_were(tmp_path: Path):
    store("MR_small.dcm", SAMPLES, tmp_path)  # libraries that it loads have filters of their own
    level, filters = logging.getLogger("pydicom").level, list(warnings.filters)
    names = ["MR_small.dcm", "badVR.dcm", "CT_small.dcm", "examples_overlay.dcm"] * 12

    def one(name: str) -> str:
        try:
            return store(name, SAMPLES, tmp_path, options=FULL).pixels_sha256
        except DataError as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(one, names))
    assert len(set(results)) == 4
    assert (logging.getLogger("pydicom").level, list(warnings.filters)) == (level, filters)
    assert len([p for p in tmp_path.rglob("*") if p.is_file()]) == 9


def test_patients_are_grouped_by_a_salted_hash(tmp_path: Path):
    data = pydicom.dcmread(SAMPLES / "MR_small.dcm")
    for name, patient, study in (("a", "P1", "1.2"), ("b", "P1 ", "1.3"), ("c", "P2", "1.2")):
        data.PatientID, data.StudyInstanceUID = patient, study
        data.save_as(tmp_path / f"{name}.dcm")
    a, b, c = (dicom_identity(tmp_path / f"{name}.dcm", SALT) for name in "abc")
    assert a.group == b.group != c.group
    assert a.study == c.study != b.study
    assert a.group != dicom_identity(tmp_path / "a.dcm", b"another salt of 16 bytes").group
    assert "P1" not in str((a, b, c))
    image = store("a.dcm", tmp_path, tmp_path, group=None, salt=SALT)
    assert image.group == a.group
    assert store("a.dcm", tmp_path, tmp_path, group="given", salt=SALT).group == "given"


def test_the_issuer_tells_equal_numbers_apart_and_a_missing_number_falls_back(tmp_path: Path):
    data = pydicom.dcmread(SAMPLES / "MR_small.dcm")
    data.PatientID, data.IssuerOfPatientID = "7", "A"
    data.save_as(tmp_path / "a.dcm")
    data.IssuerOfPatientID = "B"
    data.save_as(tmp_path / "b.dcm")
    data.PatientID = ""
    data.save_as(tmp_path / "none.dcm")
    a, b, none = (dicom_identity(tmp_path / f"{n}.dcm", SALT) for n in ("a", "b", "none"))
    assert a.group != b.group
    assert none.group is None
    assert store("none.dcm", tmp_path, tmp_path, group=None, salt=SALT).group == none.study
    del data.StudyInstanceUID
    data.save_as(tmp_path / "none.dcm")
    assert dicom_identity(tmp_path / "none.dcm", SALT) == (None, None)
    assert store("none.dcm", tmp_path, tmp_path, group=None, salt=SALT).group == "a"
    assert store("a.dcm", tmp_path, tmp_path, group=None).group == "a"


def test_the_salt_comes_from_a_file_a_variable_or_chance(tmp_path: Path, monkeypatch):
    (tmp_path / "salt").write_bytes(SALT + b"\n")
    monkeypatch.delenv("STLLAVA_SALT", raising=False)
    assert read_salt(ImagesSection(salt_file=str(tmp_path / "salt"))) == SALT
    first, second = read_salt(ImagesSection()), read_salt(ImagesSection())
    assert first != second
    assert len(first) == 32
    monkeypatch.setenv("STLLAVA_SALT", SALT.decode())
    assert read_salt(ImagesSection()) == SALT
    monkeypatch.setenv("STLLAVA_SALT", "short")
    with pytest.raises(DataError, match="STLLAVA_SALT: a salt of 5 bytes; give 16 or more"):
        read_salt(ImagesSection())
    with pytest.raises(DataError, match="give 16"):
        opaque(b"", "patient", "7")


def test_equal_pictures_in_different_files_have_equal_pixel_hashes(tmp_path: Path):
    for suffix in ("png", "bmp", "tif"):
        photo().save(tmp_path / f"a.{suffix}")
    images = [
        inspect_image(f"a.{s}", id=s, root=tmp_path, group="g", source="folder")
        for s in ("png", "bmp", "tif")
    ]
    assert len({image.sha256 for image in images}) == 3
    assert len({image.pixels_sha256 for image in images}) == 1
    assert len({image.perceptual_hash for image in images}) == 1
    assert pixels_sha256(photo(1)) != images[0].pixels_sha256
    wide, tall = PILImage.new("RGB", (4, 2)), PILImage.new("RGB", (2, 4))
    assert pixels_sha256(wide) != pixels_sha256(tall)


def test_near_duplicates_differ_in_few_bits_and_other_pictures_in_many(tmp_path: Path):
    photo().save(tmp_path / "a.jpg", quality=40)
    worse = open_image(tmp_path / "a.jpg").resize((70, 70))
    assert len(perceptual_hash(photo())) == 16
    assert hamming(perceptual_hash(photo()), perceptual_hash(worse)) <= 4
    others = [hamming(perceptual_hash(photo()), perceptual_hash(photo(n))) for n in range(1, 20)]
    assert min(others) > 10


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_hamming_counts_the_bits_that_differ(a: int, b: int):
    assert hamming(f"{a:016x}", f"{b:016x}") == bin(a ^ b).count("1")


def test_content_says_what_is_dicom(tmp_path: Path):
    (tmp_path / "IM0001").write_bytes((SAMPLES / "MR_small.dcm").read_bytes())
    (tmp_path / "notes").write_text("x")
    photo().save(tmp_path / "a.PNG")
    assert is_dicom(tmp_path / "IM0001")
    assert looks_like_image(tmp_path / "IM0001")
    assert looks_like_image(tmp_path / "a.PNG")
    assert not is_dicom(tmp_path / "a.PNG")
    assert not looks_like_image(tmp_path / "notes")
    assert not is_dicom(tmp_path / "nothing")
    assert not is_dicom(tmp_path)


def test_a_file_over_the_byte_cap_is_refused_from_its_size(tmp_path: Path):
    with (tmp_path / "a.png").open("wb") as file:
        file.truncate(MAX_BYTES + 1)
    with pytest.raises(DataError, match="more than 512 MB"):
        open_view(tmp_path / "a.png")


def test_a_file_without_permission_or_that_is_a_folder_is_one_line(tmp_path: Path):
    photo().save(tmp_path / "a.png")
    (tmp_path / "a.png").chmod(0)
    if os.access(tmp_path / "a.png", os.R_OK):  # as root nothing is forbidden
        (tmp_path / "a.png").chmod(stat.S_IRUSR)
    else:
        with pytest.raises(DataError, match=r"cannot be read .Permission denied"):
            open_view(tmp_path / "a.png")
    with pytest.raises(DataError, match=r"cannot be read .Is a directory"):
        open_view(tmp_path)

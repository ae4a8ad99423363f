"""stllava.images.phi and burned_in: what identifies a person is named, and never repeated."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import ExifTags, ImageDraw, PngImagePlugin
from PIL import Image as PILImage
from pydicom.config import disable_value_validation
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from stllava.errors import DataError
from stllava.images import open_image
from stllava.images.burned_in import corner_text_evidence
from stllava.images.phi import FINDINGS, metadata_findings
from stllava.images.phi_table import EXIF, IDENTIFYING

SAMPLES = Path(pydicom.__file__).parent / "data/test_files"
SECRET = "Jane Doe"


def codes(path: Path) -> dict[str, str]:
    found = metadata_findings(path)
    assert SECRET not in str(found)
    return dict(found)


def dicom(path: Path, **fields) -> Path:
    data = pydicom.dcmread(SAMPLES / "MR_small.dcm")
    for tag in [tag for tag in data.keys() if tag.group not in (0x0028, 0x7FE0)]:  # noqa: SIM118
        del data[tag]
    with disable_value_validation():
        for keyword, value in fields.items():
            setattr(data, keyword, value)
        data.save_as(path)
    return path


CLEAN = {"PatientIdentityRemoved": "YES", "BurnedInAnnotation": "NO"}


def test_every_keyword_of_the_table_is_one_of_the_standard():
    assert [k for k in IDENTIFYING if pydicom.datadict.tag_for_keyword(k) is None] == []
    known = set(ExifTags.TAGS.values())
    assert {name for names in EXIF.values() for name in names} <= known


def test_a_de_identified_object_yields_nothing(tmp_path: Path):
    assert codes(dicom(tmp_path / "a.dcm", **CLEAN)) == {}


@pytest.mark.parametrize(
    ("keyword", "code"),
    [
        *(("PatientName", "dicom-patient"), ("AccessionNumber", "dicom-number")),
        *(("ReferringPhysicianName", "dicom-person"), ("InstitutionName", "dicom-place")),
        *(("StudyDate", "dicom-date"), ("ImageComments", "dicom-text")),
    ],
)
def test_a_filled_attribute_is_named_and_an_empty_one_is_not(tmp_path: Path, keyword, code):
    value = "20240131" if keyword == "StudyDate" else SECRET
    assert codes(dicom(tmp_path / "a.dcm", **CLEAN, **{keyword: value})) == {code: keyword}
    assert codes(dicom(tmp_path / "b.dcm", **CLEAN, **{keyword: ""})) == {}


def test_attributes_in_sequences_are_found_however_deep(tmp_path: Path):
    inner, outer = Dataset(), Dataset()
    inner.PatientID = SECRET
    outer.ReferencedPatientSequence = Sequence([inner, inner])
    path = dicom(tmp_path / "a.dcm", **CLEAN, ReferencedStudySequence=Sequence([outer]))
    assert codes(path) == {"dicom-patient": "PatientID (2 times)"}


def test_burned_in_annotation_that_is_absent_does_not_mean_no():
    found = codes(SAMPLES / "CT_small.dcm")
    assert found["dicom-burned-in"] == "BurnedInAnnotation is absent"
    assert found["dicom-identity-not-removed"] == "PatientIdentityRemoved is absent"
    assert found["dicom-private"] == "179 attributes"


def test_an_odd_answer_is_not_repeated(tmp_path: Path):
    path = dicom(tmp_path / "a.dcm", PatientIdentityRemoved=SECRET, BurnedInAnnotation="YES")
    assert codes(path) == {
        "dicom-identity-not-removed": "PatientIdentityRemoved is odd",
        "dicom-burned-in": "BurnedInAnnotation is YES",
    }


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"Modality": "US"}, "Modality"),
        ({"ConversionType": "WSD"}, "ConversionType"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, "ImageType"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, "SOPClassUID"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7.4"}, "SOPClassUID"),
    ],
)
def test_kinds_of_objects_that_often_hold_text_are_a_risk(tmp_path: Path, fields, names: str):
    path = dicom(tmp_path / "a.dcm", **CLEAN, **fields)
    assert codes(path) == {"dicom-burned-in-risk": names}


def test_overlays_and_faces_are_said(tmp_path: Path):
    assert codes(SAMPLES / "examples_overlay.dcm")["dicom-overlay"] == "1 overlays"
    path = dicom(tmp_path / "a.dcm", **CLEAN, RecognizableVisualFeatures="YES")
    assert codes(path) == {"dicom-face": "RecognizableVisualFeatures is YES"}


def test_every_sample_object_yields_known_codes_or_a_data_error():
    read = 0
    for path in sorted(SAMPLES.glob("*.dcm")):
        try:
            assert set(codes(path)) <= set(FINDINGS)
            read += 1
        except DataError:
            continue
    assert read > 60


def test_exif_is_found_by_kind(tmp_path: Path):
    exif = PILImage.Exif()
    exif[0x010E], exif[0x013B], exif[0x0132] = SECRET, SECRET, "2024:01:31 10:00:00"
    exif.get_ifd(0x8769).update({0x9286: b"ASCII\0\0\0" + SECRET.encode(), 0xA431: SECRET})
    exif.get_ifd(0x8825)[1] = "N"
    for suffix in ("jpg", "png", "webp"):
        PILImage.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}", exif=exif)
        assert codes(tmp_path / f"a.{suffix}") == {
            "exif-gps": "GPSInfo",
            "exif-person": "Artist",
            "exif-text": "ImageDescription, UserComment",
            "exif-number": "BodySerialNumber",
            "exif-date": "DateTime",
        }


def test_text_beside_the_pixels_is_found_and_free_keywords_are_not_repeated(tmp_path: Path):
    image, text = PILImage.new("RGB", (8, 8)), PngImagePlugin.PngInfo()
    text.add_text("Author", SECRET)
    text.add_itxt(SECRET, "x", zip=True)
    text.add_itxt("XML:com.adobe.xmp", f"<x>{SECRET}</x>")
    image.save(tmp_path / "a.png", pnginfo=text)
    assert codes(tmp_path / "a.png") == {
        "text": "Author, text under a keyword of its own",
        "xmp": "XMP packet",
    }
    image.save(tmp_path / "a.jpg", comment=SECRET.encode(), xmp=SECRET.encode())
    assert codes(tmp_path / "a.jpg") == {"text": "comment", "xmp": "XMP packet"}
    image.save(tmp_path / "a.gif", comment=SECRET.encode())
    assert codes(tmp_path / "a.gif") == {"text": "comment"}


def test_png_text_after_the_pixels_is_found(tmp_path: Path):
    PILImage.new("RGB", (8, 8)).save(tmp_path / "a.png")
    whole, body = (tmp_path / "a.png").read_bytes(), b"tEXtComment\0" + SECRET.encode()
    chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
    (tmp_path / "a.png").write_bytes(whole[:-12] + chunk + whole[-12:])
    assert codes(tmp_path / "a.png") == {"text": "Comment"}


def test_iptc_is_found_in_tiff_and_jpeg(tmp_path: Path):
    image = PILImage.new("RGB", (8, 8))
    image.save(tmp_path / "a.tif", tiffinfo={33723: SECRET.encode(), 315: SECRET})
    assert codes(tmp_path / "a.tif") == {"exif-person": "Artist", "iptc": "IPTC or Photoshop block"}
    image.save(tmp_path / "a.jpg")
    block = b"Photoshop 3.0\x008BIM\x04\x04\0\0" + struct.pack(">I", 8) + SECRET.encode()
    segment = b"\xff\xed" + struct.pack(">H", len(block) + 2) + block
    whole = (tmp_path / "a.jpg").read_bytes()
    (tmp_path / "a.jpg").write_bytes(whole[:2] + segment + whole[2:])
    assert codes(tmp_path / "a.jpg") == {"iptc": "IPTC or Photoshop block"}


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "tif", "webp", "gif"])
def test_a_plain_picture_yields_nothing(tmp_path: Path, suffix: str):
    PILImage.new("RGB", (8, 8)).save(tmp_path / f"a.{suffix}")
    assert codes(tmp_path / f"a.{suffix}") == {}


def test_what_is_no_image_is_a_data_error(tmp_path: Path):
    (tmp_path / "a.png").write_text(SECRET)
    with pytest.raises(DataError, match="not an image"):
        metadata_findings(tmp_path / "a.png")


@pytest.mark.parametrize(("ground", "ink"), [(0, 255), (60, 255), (255, 0)])
def test_a_line_of_text_in_a_corner_is_evidence(ground: int, ink: int):
    image = PILImage.new("L", (512, 512), ground)
    assert not corner_text_evidence(image).found
    ImageDraw.Draw(image).text((10, 8), "DOE JANE 1970-01-31", fill=ink, font_size=16)
    found = corner_text_evidence(image)
    assert found.num_lines >= 1
    assert found.num_glyphs >= 8


def test_a_side_marker_noise_and_a_small_picture_are_no_evidence():
    image = PILImage.new("L", (512, 512))
    ImageDraw.Draw(image).text((20, 20), "L", fill=255, font_size=40)
    assert not corner_text_evidence(image).found
    noise = np.random.default_rng(0).normal(100, 15, (512, 512)).clip(0, 255).astype(np.uint8)
    assert not corner_text_evidence(PILImage.fromarray(noise)).found
    assert not corner_text_evidence(PILImage.new("L", (5, 300))).found


def test_text_is_found_where_it_is_and_not_where_there_is_none_in_real_images(data_root: Path):
    """Every VQA-RAD picture has its uploader's name at its foot; SLAKE's CT slices have no text."""
    named = sorted((data_root / "vqa_rad/VQA_RAD Image Folder").glob("*.jpg"))[::40]
    assert len(named) == 8
    assert all(corner_text_evidence(open_image(path)).found for path in named)
    clean = [data_root / f"slake/imgs/xmlab{n}/source.jpg" for n in (0, 1, 10, 100, 101, 104)]
    assert not any(corner_text_evidence(open_image(path)).found for path in clean)

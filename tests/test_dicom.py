"""stllava.images.dicom: what DICOM objects look like to a model, and which are refused."""

from __future__ import annotations

import contextlib
import io
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pydicom
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing
from pydicom.sequence import Sequence
from pydicom.uid import CTImageStorage, DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian

from stllava.config import ImagesSection
from stllava.errors import DataError, MissingExtra
from stllava.images import open_image, open_view
from stllava.images.dicom.pixels import codestream
from stllava.images.windows import PRESETS, Window, apply_window

SAMPLES = Path(pydicom.__file__).parent / "data/test_files"
RAMP = np.arange(64 * 64).reshape(64, 64)  # 0..4095: 12 bits


def write(
    path: Path, stored: np.ndarray = RAMP, *, syntax=ExplicitVRLittleEndian, **fields
) -> Path:
    """A CT slice of 12 bits, with `fields` set (None: left out)."""
    data = Dataset()
    data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, "1.2.3"
    data.Modality, data.PhotometricInterpretation = "CT", "MONOCHROME2"
    data.SamplesPerPixel, data.BitsAllocated, data.BitsStored, data.HighBit = 1, 16, 12, 11
    data.PixelRepresentation = 0
    data.Rows, data.Columns = stored.shape[-2:]
    data.PixelData = stored.astype("<u2").tobytes()
    for keyword, value in fields.items():
        if value is None:
            delattr(data, keyword)
        else:
            setattr(data, keyword, value)
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID, data.file_meta.MediaStorageSOPInstanceUID = "1.2", "1.3"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def gray(path: Path, **options) -> np.ndarray:
    return np.asarray(open_image(path, options=ImagesSection(**options)))[..., 0]


def mapping(path: Path, **options) -> str:
    return open_view(path, options=ImagesSection(**options)).mapping


def lut(first: int, entries: list[int], bits: int) -> Sequence:
    item = Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.LUTData = entries
    item["LUTDescriptor"].VR = "US"
    item["LUTData"].VR = "US"
    return Sequence([item])


def oracle(path: Path, *, low: float, high: float) -> np.ndarray:
    """pydicom's own modality and VOI steps, scaled from their known output range."""
    data = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    return np.rint((values - low) / (high - low) * 255)


@pytest.mark.parametrize("function", ["LINEAR", "LINEAR_EXACT", "SIGMOID"])
@pytest.mark.parametrize("window", [(40, 400), (300, 1500), (-600.5, 1200.25)])
def test_windows_agree_with_pydicom(tmp_path: Path, function: str, window: tuple[float, float]):
    path = write(
        tmp_path / "a.dcm",
        RescaleSlope=1,
        RescaleIntercept=-1024,
        WindowCenter=window[0],
        WindowWidth=window[1],
        VOILUTFunction=function,
    )
    expected = oracle(path, low=-1024, high=3071)
    assert np.abs(gray(path) - expected).max() <= 1  # a half rounds either way
    assert (gray(path) == expected).mean() > 0.999


@given(
    center=st.floats(-3000, 3000),
    width=st.floats(1, 5000),
    function=st.sampled_from(["LINEAR", "LINEAR_EXACT", "SIGMOID"]),
    values=st.lists(st.integers(-2048, 4095), min_size=2, max_size=30),
)
def test_any_sound_window_agrees_with_pydicom_and_rises(center, width, function, values):
    assume(function != "LINEAR" or width > 1.001)  # pydicom divides by the width less 1
    data = Dataset()
    data.PhotometricInterpretation, data.BitsStored, data.PixelRepresentation = "MONOCHROME2", 16, 0
    data.WindowCenter, data.WindowWidth, data.VOILUTFunction = center, width, function
    ordered = np.sort(np.array(values, dtype=np.float64))
    shown = apply_window(
        ordered, Window(float(data.WindowCenter), float(data.WindowWidth), function)
    )
    with np.errstate(over="ignore"):  # exp, in a narrow sigmoid
        expected = apply_windowing(ordered, data) / 65535
    assert shown == pytest.approx(expected, abs=1e-6)
    assert (np.diff(shown) >= 0).all()
    assert ((shown >= 0) & (shown <= 1)).all()


def test_a_modality_lut_and_a_voi_lut_agree_with_pydicom(tmp_path: Path):
    squares = [min(65535, n * n // 256) for n in range(4096)]
    falling = [1023 - n // 32 for n in range(30_000)]
    path = write(tmp_path / "a.dcm", ModalityLUTSequence=lut(0, squares, 16))
    data = pydicom.dcmread(path)
    assert (gray(path, window="percentile").max(), gray(path, window="percentile").min()) == (
        255,
        0,
    )
    assert mapping(path).startswith("dicom; modality LUT; window ")
    path = write(
        tmp_path / "b.dcm",
        ModalityLUTSequence=lut(0, squares, 16),
        VOILUTSequence=lut(100, falling, 10),
        WindowCenter=1,
        WindowWidth=1,
    )
    data = pydicom.dcmread(path)
    values = apply_voi_lut(apply_modality_lut(data.pixel_array, data), data)
    assert (gray(path) == np.rint(np.clip(values.astype(np.int16), 0, 1023) / 1023 * 255)).all()
    assert mapping(path) == "dicom; modality LUT; VOI LUT"


def test_values_outside_a_lut_take_its_ends(tmp_path: Path):
    path = write(tmp_path / "a.dcm", VOILUTSequence=lut(1000, list(range(1024)), 10))
    assert (gray(path)[RAMP <= 1000] == 0).all()
    assert (gray(path)[RAMP >= 2023] == 255).all()


def test_monochrome1_is_inverted_after_the_window(tmp_path: Path):
    window = {"WindowCenter": 1000, "WindowWidth": 500}
    plain = write(tmp_path / "a.dcm", **window)
    inverse = write(tmp_path / "b.dcm", **window, PhotometricInterpretation="MONOCHROME1")
    assert (gray(inverse).astype(int) == 255 - gray(plain).astype(int)).mean() > 0.999
    assert mapping(inverse) == "dicom; window 1000/500; MONOCHROME1 inverted"


def test_monochrome1_with_an_inverse_presentation_is_inverted_once(tmp_path: Path):
    shape = {"PresentationLUTShape": "INVERSE", "WindowCenter": 1000, "WindowWidth": 500}
    both = write(tmp_path / "a.dcm", PhotometricInterpretation="MONOCHROME1", **shape)
    alone = write(tmp_path / "b.dcm", **shape)
    assert gray(both)[0, 0] == gray(alone)[0, 0] == 255
    assert gray(both)[-1, -1] == gray(alone)[-1, -1] == 0
    assert mapping(alone).endswith("presentation LUT INVERSE")


def test_the_first_of_several_windows_is_taken(tmp_path: Path):
    path = write(tmp_path / "a.dcm", WindowCenter=[1000, 2000], WindowWidth=[500, 900])
    assert mapping(path) == "dicom; window 1000/500 (first of 2)"


@pytest.mark.parametrize("absurd", [(1000, 0), (1000, -5), (50_000, 400), (2000, 1e9)])
def test_an_absurd_window_gives_way_to_the_next_or_to_percentiles(tmp_path: Path, absurd):
    center, width = absurd
    alone = write(tmp_path / "a.dcm", WindowCenter=center, WindowWidth=width)
    assert (
        mapping(alone)
        == "dicom; window 20.475..4074.53 (percentiles; no sound window in the header)"
    )
    two = write(tmp_path / "b.dcm", WindowCenter=[center, 900], WindowWidth=[width, 500])
    assert mapping(two) == "dicom; window 900/500 (second of 2)"


def test_a_window_that_shows_a_slice_of_air_black_is_kept(tmp_path: Path):
    air = np.full((8, 8), 20) + np.arange(8)
    path = write(
        tmp_path / "a.dcm",
        air,
        RescaleIntercept=-1024,
        RescaleSlope=1,
        WindowCenter=40,
        WindowWidth=400,
    )
    assert gray(path).max() == 0


def test_without_a_window_percentiles_show_the_picture_and_padding_does_not_count(tmp_path: Path):
    stored = RAMP % 512 + 1000
    stored[:32] = 0
    with_padding = write(tmp_path / "a.dcm", stored, PixelPaddingValue=0)
    without = write(tmp_path / "b.dcm", stored)
    assert mapping(with_padding) == "dicom; window 1002..1509 (percentiles)"
    assert mapping(without).startswith("dicom; window 0..")
    assert gray(with_padding)[32:].min() == 0
    limit = write(tmp_path / "c.dcm", stored, PixelPaddingValue=0, PixelPaddingRangeLimit=1200)
    assert mapping(limit).startswith("dicom; window 1202")


def test_8_bit_values_without_a_window_stay_as_they_are(tmp_path: Path):
    path = write(tmp_path / "a.dcm", RAMP % 200, BitsStored=8, HighBit=7)
    assert (gray(path) == RAMP % 200).all()
    assert mapping(path) == "dicom"


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_for_ct_alone(tmp_path: Path, name: str):
    rescale = {"RescaleSlope": 1, "RescaleIntercept": -1024, "WindowCenter": 1, "WindowWidth": 500}
    ct, mr = (
        write(tmp_path / "a.dcm", **rescale),
        write(tmp_path / "b.dcm", **rescale, Modality="MR"),
    )
    assert f"window {name} " in mapping(ct, window=name)
    assert mapping(mr, window=name) == mapping(mr)
    center = PRESETS[name][0]
    assert gray(ct, window=name)[center - PRESETS[name][1] > (RAMP - 1024)].max(initial=0) == 0


def test_rescale_that_makes_no_sense_is_ignored_and_said(tmp_path: Path):
    path = write(tmp_path / "a.dcm", RescaleSlope=0, RescaleIntercept=5)
    assert mapping(path).startswith("dicom; absurd rescale ignored; window 20")


@pytest.mark.parametrize(("policy", "number"), [("middle", 3), ("first", 1), (5, 5)])
def test_of_several_frames_one_is_shown_and_said(tmp_path: Path, policy, number: int):
    frames = np.stack([RAMP * 0 + 500 * n for n in range(1, 6)])
    frames[:, 0, 0] = 0
    path = write(tmp_path / "a.dcm", frames, NumberOfFrames=5, WindowCenter=2000, WindowWidth=4000)
    shown = gray(path, frame=policy)[1, 1]
    assert shown == round((500 * number - 1999.5) / 3999 * 255 + 127.5)
    assert mapping(path, frame=policy).endswith(f"frame {number} of 5")


def test_a_frame_that_is_not_there_is_an_error(tmp_path: Path):
    with pytest.raises(DataError, match="has 1 frames"):
        open_image(write(tmp_path / "a.dcm"), options=ImagesSection(frame=2))


def test_enhanced_objects_keep_rescale_and_window_of_each_frame(tmp_path: Path):
    def groups(intercept: int, center: int) -> Dataset:
        item, values, window = Dataset(), Dataset(), Dataset()
        values.RescaleIntercept, values.RescaleSlope = intercept, 1
        window.WindowCenter, window.WindowWidth = center, 100
        item.PixelValueTransformationSequence = Sequence([values])
        item.FrameVOILUTSequence = Sequence([window])
        return item

    path = write(
        tmp_path / "a.dcm",
        np.stack([RAMP, RAMP]),
        NumberOfFrames=2,
        PerFrameFunctionalGroupsSequence=Sequence([groups(-100, 200), groups(-1000, 300)]),
    )
    assert mapping(path, frame=1) == "dicom; rescale 1,-100; window 200/100; frame 1 of 2"
    assert mapping(path, frame=2) == "dicom; rescale 1,-1000; window 300/100; frame 2 of 2"


@pytest.mark.parametrize("name", ["CT_small", "MR_small", "MR_small_RLE", "MR_small_bigendian"])
def test_content_decides_and_not_the_name(tmp_path: Path, name: str):
    for copy in ("IM0001", "a.png", "a.dcm"):
        (tmp_path / copy).write_bytes((SAMPLES / f"{name}.dcm").read_bytes())
        assert open_view(tmp_path / copy).mapping == open_view(SAMPLES / f"{name}.dcm").mapping


@pytest.mark.parametrize(
    "name",
    [
        *("SC_rgb_dcmtk_+eb+cy+n1", "SC_rgb_dcmtk_+eb+cy+np", "SC_rgb_jpeg_dcmtk", "SC_rgb_rle"),
        *("SC_ybr_full_422_uncompressed", "SC_rgb_small_odd_big_endian", "examples_jpeg2k"),
    ],
)
def test_colour_agrees_with_pydicom(name: str):
    expected = pydicom.dcmread(SAMPLES / f"{name}.dcm").pixel_array
    assert (np.asarray(open_image(SAMPLES / f"{name}.dcm")) == expected).all()


def test_red_stays_red_whatever_the_colour_space_and_plane_order():
    names = [
        "rle",
        "dcmtk_+eb+cr",
        "dcmtk_+eb+cy+np",
        "gdcm_KY",
        "rle_16bit",
        "rle_32bit",
        "jpeg_dcmtk",
    ]
    for name in names:
        red, green, blue = open_image(SAMPLES / f"SC_rgb_{name}.dcm").getpixel((5, 5))
        assert red > 250, name
        assert max(green, blue) < 5, name


def test_palette_colour_is_looked_up():
    data = pydicom.dcmread(SAMPLES / "examples_palette.dcm")
    expected = apply_color_lut(data.pixel_array, data) >> 8
    assert (np.asarray(open_image(SAMPLES / "examples_palette.dcm")) == expected).all()
    assert (
        mapping(SAMPLES / "examples_palette.dcm") == "dicom; from PALETTE COLOR; high 8 of 16 bits"
    )


def test_overlays_are_not_drawn(tmp_path: Path):
    data = pydicom.dcmread(SAMPLES / "examples_overlay.dcm")
    del data[0x60003000]
    data.save_as(tmp_path / "without.dcm")
    assert (gray(tmp_path / "without.dcm") == gray(SAMPLES / "examples_overlay.dcm")).all()


def test_bits_above_those_stored_do_not_count(tmp_path: Path):
    window = {"WindowCenter": 2048, "WindowWidth": 4096}
    clean, dirty = (
        write(tmp_path / "a.dcm", **window),
        write(tmp_path / "b.dcm", RAMP + 0x8000, **window),
    )
    assert (gray(clean) == gray(dirty)).all()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("JPEG-lossy", "12-bit lossy JPEG Extended .* is not read; store it uncompressed"),
        ("MR_small_jpeg_ls_lossless", "nothing installed decodes JPEG-LS .* pip install pyjpegls"),
        ("SC_rgb_jpeg_gdcm", "JPEG Lossless, .* pip install pylibjpeg-libjpeg .GPL"),
        ("MR_truncated", "Explicit VR Little Endian.* cut short"),
        ("rtplan", "without pixel data .RT Plan Storage.; leave it out"),
        ("test-SR", "without pixel data .Comprehensive SR Storage.; leave it out"),
        ("waveform_ecg", "without pixel data"),
        ("ExplVR_LitEndNoMeta", "DICOM without its preamble"),
        ("badVR", "NumberOfFrames of the header is no number"),
        ("JPEG2000-embedded-sequence-delimiter", "not 256 x 1024 as the header says"),
    ],
)
def test_what_cannot_be_read_is_one_line_that_says_why(name: str, message: str):
    with pytest.raises(DataError, match=message) as error:
        open_image(SAMPLES / f"{name}.dcm")
    assert "\n" not in str(error.value)
    assert str(error.value).startswith(str(SAMPLES / f"{name}.dcm"))


@pytest.mark.parametrize("name", ["JPEG2000", "SC_rgb_jpeg_dcmtk", "MR_small_RLE", "CT_small"])
def test_pixel_data_that_end_early_are_an_error_and_not_gray(tmp_path: Path, name: str):
    whole = (SAMPLES / f"{name}.dcm").read_bytes()
    for share in (0.6, 0.8, 0.95):
        (tmp_path / "a.dcm").write_bytes(whole[: int(len(whole) * share)])
        with pytest.raises(DataError):
            open_image(tmp_path / "a.dcm")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"Rows": 9000, "Columns": 9000}, "9000 x 9000 pixels, more than 64,000,000"),
        ({"NumberOfFrames": 100_000}, "100000 frames of 64 x 64 are 819 MB, more than 512"),
        ({"Rows": None}, "header lacks Rows"),
        ({"Rows": 0}, "Rows of the header is 0"),
        ({"PhotometricInterpretation": "HSV"}, "PhotometricInterpretation is none of"),
        ({"SamplesPerPixel": 3}, "3 samples per pixel do not fit MONOCHROME2"),
    ],
)
def test_what_the_header_says_is_checked_before_decoding(tmp_path: Path, fields, message: str):
    with pytest.raises(DataError, match=message):
        open_image(write(tmp_path / "a.dcm", **fields))


def test_a_compressed_frame_larger_than_the_header_says_is_not_decoded(tmp_path: Path):
    data = pydicom.dcmread(SAMPLES / "JPEG2000.dcm")
    data.Rows = 512
    data.save_as(tmp_path / "a.dcm")
    with pytest.raises(DataError, match="of 256 x 1024 pixels, not 256 x 512"):
        open_image(tmp_path / "a.dcm")


def test_a_deflated_bomb_is_refused_without_inflating_it(tmp_path: Path, monkeypatch):
    monkeypatch.setattr("stllava.images.dicom.header.MAX_BYTES", 5000)
    path = write(tmp_path / "a.dcm", syntax=DeflatedExplicitVRLittleEndian)
    with pytest.raises(DataError, match="when inflated"):
        open_image(path)


def test_a_deflated_object_is_read(tmp_path: Path):
    path = write(tmp_path / "a.dcm", syntax=DeflatedExplicitVRLittleEndian)
    assert (gray(path) == gray(write(tmp_path / "b.dcm"))).all()


def test_codestreams_tell_their_size():
    buffer = io.BytesIO()
    PILImage.new("L", (30, 20)).save(buffer, "JPEG")
    assert codestream(buffer.getvalue()) == (30, 20, 8)
    buffer = io.BytesIO()
    PILImage.new("L", (30, 20)).save(buffer, "JPEG2000")
    assert codestream(buffer.getvalue()) == (30, 20, 8)
    assert codestream(b"\xff\xd8" + struct.pack(">H", 0xFFD9)) is None
    assert codestream(zlib.compress(b"neither")) is None


def test_no_message_and_no_warning_quotes_the_header(tmp_path: Path, caplog, recwarn):
    secret = "DOE^JANE"
    for keyword in ("RescaleSlope", "WindowCenter", "NumberOfFrames", "BitsAllocated"):
        data = pydicom.dcmread(write(tmp_path / "a.dcm"))
        data.PatientName = secret
        data.add_new(keyword, "LO", secret)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data.save_as(tmp_path / "a.dcm")
        recwarn.clear()
        view = message = ""
        try:
            view = mapping(tmp_path / "a.dcm")
        except DataError as error:
            message = str(error)
        assert view or message
        assert secret not in view + message + caplog.text + str([w.message for w in recwarn])


def test_a_missing_pydicom_is_answered_with_the_install_line(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    with pytest.raises(MissingExtra, match=r"stllava\[dicom\]"):
        open_image(SAMPLES / "CT_small.dcm")


@settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    name=st.sampled_from(["CT_small", "MR_small_RLE", "JPEG2000", "SC_rgb_jpeg_dcmtk", "rtdose"]),
    data=st.data(),
)
def test_damaged_headers_give_a_picture_or_a_data_error(tmp_path: Path, name: str, data):
    whole = bytearray((SAMPLES / f"{name}.dcm").read_bytes())
    for _ in range(data.draw(st.integers(1, 6))):
        whole[data.draw(st.integers(132, min(len(whole) - 1, 6500)))] = data.draw(
            st.integers(0, 255)
        )
    if data.draw(st.booleans()):
        del whole[data.draw(st.integers(140, len(whole))) :]
    (tmp_path / "damaged").write_bytes(whole)
    with contextlib.suppress(DataError):
        assert open_image(tmp_path / "damaged", max_pixels=4_000_000).mode == "RGB"

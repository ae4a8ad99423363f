"""stllava.images: what each kind of file looks like to a model, and what is refused."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image as PILImage

from stllava.errors import DataError
from stllava.images import (
    data_uri,
    encode_jpeg_base64,
    inspect_image,
    open_image,
    open_view,
    pad_to_square,
    resolve,
)


def gradient_16_bit(top: int) -> np.ndarray:
    return np.linspace(0, top, 64 * 64).reshape(64, 64).astype(np.uint16)


def png(width: int, height: int, *, depth: int, color: int, pixels: bytes) -> bytes:
    """A PNG of kinds that Pillow does not write."""
    header = struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(pixels)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    )


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "webp", "gif"])
def test_every_format_opens_as_rgb(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    PILImage.new("RGB", (6, 4), (250, 10, 10)).save(path)
    image = open_image(path)
    assert (image.mode, image.size) == ("RGB", (6, 4))
    assert image.getpixel((1, 1))[0] > 200


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [900, 4095, 65535])
def test_16_bit_values_are_windowed_not_clipped_to_white(tmp_path: Path, suffix: str, top: int):
    path = tmp_path / f"a.{suffix}"
    PILImage.fromarray(gradient_16_bit(top)).save(path)
    image, mapping = open_view(path)
    gray = np.asarray(image)[..., 0]
    assert len(np.unique(gray)) > 200
    assert (gray == 255).mean() < 0.02
    assert mapping.startswith("window ")


def test_a_16_bit_mask_keeps_its_rare_bright_pixels(tmp_path: Path):
    values = np.zeros((64, 64), np.uint16)
    values[3, 3] = 700
    PILImage.fromarray(values).save(tmp_path / "a.png")
    gray = np.asarray(open_image(tmp_path / "a.png"))[..., 0]
    assert gray[3, 3] == 255
    assert gray.sum() == 255


def test_16_bit_white_is_zero_tiff_is_inverted(tmp_path: Path):
    PILImage.fromarray(gradient_16_bit(4095)).save(tmp_path / "a.tif", tiffinfo={262: 0})
    with PILImage.open(tmp_path / "a.tif") as stored:
        assert stored.tag_v2[262] == 0
    image, mapping = open_view(tmp_path / "a.tif")
    assert image.getpixel((0, 0)) == (255, 255, 255)
    assert mapping.endswith("inverted")


def test_float_image_with_nan_is_windowed(tmp_path: Path):
    values = np.linspace(-1, 1, 100, dtype=np.float32).reshape(10, 10)
    values[0, 0] = np.nan
    PILImage.fromarray(values).save(tmp_path / "a.tif")
    gray = np.asarray(open_image(tmp_path / "a.tif"))[..., 0]
    assert gray[0, 0] == 0
    assert gray[9, 9] == 255


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_pixels_are_black(tmp_path: Path, mode: str):
    color = (200, 100, 50, 0) if mode == "RGBA" else (200, 0)
    PILImage.new(mode, (4, 4), color).save(tmp_path / "a.png")
    image, mapping = open_view(tmp_path / "a.png")
    assert image.getpixel((0, 0)) == (0, 0, 0)
    assert mapping == "alpha on black"


def test_palette_with_transparency_is_black_where_transparent(tmp_path: Path):
    palette = PILImage.new("P", (4, 4), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    palette.save(tmp_path / "a.png", transparency=bytes([255, 0]))
    assert open_image(tmp_path / "a.png").getpixel((0, 0)) == (0, 0, 0)


def test_cmyk_becomes_rgb(tmp_path: Path):
    PILImage.new("CMYK", (4, 4), (0, 255, 255, 0)).save(tmp_path / "a.jpg")
    image, mapping = open_view(tmp_path / "a.jpg")
    red, green, blue = image.getpixel((0, 0))
    assert red > 200
    assert max(green, blue) < 60
    assert mapping == "from CMYK"


def test_exif_orientation_is_applied(tmp_path: Path):
    exif = PILImage.Exif()
    exif[0x0112] = 6
    PILImage.new("RGB", (6, 4)).save(tmp_path / "a.jpg", exif=exif)
    image, mapping = open_view(tmp_path / "a.jpg")
    assert image.size == (4, 6)
    assert mapping == "exif orientation applied"


def test_first_frame_of_an_animation_is_read_and_noted(tmp_path: Path):
    frames = [PILImage.new("RGB", (4, 4), color) for color in ("red", "blue")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    image, mapping = open_view(tmp_path / "a.gif")
    assert image.getpixel((0, 0)) == (255, 0, 0)
    assert mapping == "first of 2 frames"


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "gif"])
def test_truncated_file_is_an_error_in_one_line(tmp_path: Path, suffix: str):
    path = tmp_path / f"a.{suffix}"
    pixels = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    PILImage.fromarray(pixels).save(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError) as error:
        open_image(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_missing_file_folder_and_text_file_are_errors_that_name_them(tmp_path: Path):
    (tmp_path / "a.png").write_text("not an image")
    for path in (tmp_path / "a.png", tmp_path / "none.png", tmp_path):
        with pytest.raises(DataError, match=str(path)):
            open_image(path)


def test_pixel_cap_is_checked_before_decoding(tmp_path: Path):
    path = tmp_path / "a.png"
    PILImage.new("L", (200, 100)).save(path)
    header_only = path.read_bytes()[:33]  # signature and IHDR: decoding would fail
    path.write_bytes(header_only + path.read_bytes()[33:60])
    with pytest.raises(DataError, match="200 x 100 pixels, more than 10,000"):
        open_image(path, max_pixels=10_000)


@pytest.mark.parametrize("side", [9000, 12_000, 20_000])
def test_decompression_bomb_is_refused(tmp_path: Path, side: int):
    (tmp_path / "bomb.png").write_bytes(png(side, side, depth=1, color=0, pixels=b""))
    with pytest.raises(DataError, match="scale it down"):
        open_image(tmp_path / "bomb.png")


@pytest.mark.parametrize(("top", "is_refused"), [(65535, False), (4095, True)])
def test_16_bit_colour_is_shown_unless_it_would_be_dark(tmp_path, top: int, is_refused: bool):
    rows = 4 * (b"\0" + np.full(12, top, ">u2").tobytes())
    (tmp_path / "a.png").write_bytes(png(4, 4, depth=16, color=2, pixels=rows))
    with pytest.raises(DataError, match="less than 13") if is_refused else contextlib.nullcontext():
        assert open_view(tmp_path / "a.png").mapping == "high byte of 16-bit colour"


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kind=st.sampled_from(["PNG", "JPEG", "TIFF", "BMP", "WEBP", "GIF"]), data=st.data())
@pytest.mark.filterwarnings("ignore")
def test_damaged_bytes_give_an_image_or_a_data_error(
    tmp_path: Path, kind: str, data: st.DataObject
):
    buffer = io.BytesIO()
    PILImage.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3)).save(buffer, format=kind)
    damaged = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "damaged"
    path.write_bytes(damaged)
    with contextlib.suppress(DataError):
        assert open_image(path, max_pixels=1_000_000).mode == "RGB"


def test_record_holds_the_hash_of_the_bytes_and_the_shown_size(tmp_path: Path):
    (tmp_path / "sub").mkdir()
    PILImage.fromarray(gradient_16_bit(4095)).save(tmp_path / "sub/a.png")
    image = inspect_image("sub/a.png", id="a", root=tmp_path, group="p1", source="folder")
    assert image.sha256 == hashlib.sha256((tmp_path / "sub/a.png").read_bytes()).hexdigest()
    assert (image.path, image.width, image.height, image.group) == ("sub/a.png", 64, 64, "p1")
    assert image.mapping.startswith("window 20")


@pytest.mark.parametrize(
    "relative",
    [
        *("/etc/passwd", "../a.png", "x/../../a.png", "..\\a.png", "x/..", "C:/a.png", "C:a.png"),
        *("\\\\host\\a\\b", "\\a.png", "", "  ", "a\0.png", "\ud800.png", "a" * 9000),
    ],
)
def test_paths_that_leave_the_root_are_refused(tmp_path: Path, relative: str):
    with pytest.raises(DataError, match="image path"):
        resolve(tmp_path, relative)


def test_links_out_of_the_root_and_loops_are_refused_and_inner_links_are_not(tmp_path: Path):
    root = tmp_path / "root"
    root.mkdir()
    (tmp_path / "secret.png").write_bytes(b"")
    (root / "real.png").write_bytes(b"")
    (root / "out.png").symlink_to(tmp_path / "secret.png")
    (root / "loop.png").symlink_to(root / "loop.png")
    (root / "inner.png").symlink_to(root / "real.png")
    for name in ("out.png", "loop.png"):
        with pytest.raises(DataError):
            resolve(root, name)
    assert resolve(root, "inner.png") == (root / "real.png").resolve()


@given(st.text())
def test_resolve_stays_inside_or_refuses(relative: str):
    root = Path("/nonexistent/root")
    with contextlib.suppress(DataError):
        assert resolve(root, relative).is_relative_to(root)


def test_padding_centres_the_image_on_the_colour():
    padded = pad_to_square(PILImage.new("RGB", (4, 2), "white"), (10, 20, 30))
    assert padded.size == (4, 4)
    rows = [padded.getpixel((0, y)) for y in range(4)]
    assert rows == [(10, 20, 30), (255, 255, 255), (255, 255, 255), (10, 20, 30)]


def test_what_a_remote_judge_receives_is_small_and_without_metadata(tmp_path: Path):
    exif = PILImage.Exif()
    exif[0x010E] = "JANE DOE"
    path = tmp_path / "a.jpg"
    PILImage.new("RGB", (3000, 1500)).save(
        path, exif=exif, comment=b"JANE DOE", icc_profile=b"JANE DOE"
    )
    prefix, encoded = data_uri(path, max_side=512).split(",")
    sent = base64.b64decode(encoded)
    assert prefix == "data:image/jpeg;base64"
    assert b"JANE DOE" in path.read_bytes()
    assert b"JANE DOE" not in sent
    with PILImage.open(io.BytesIO(sent)) as image:
        assert image.size == (512, 256)
        assert not image.getexif()


def test_encoding_drops_a_comment_and_leaves_the_image_as_it_was():
    image = PILImage.new("RGB", (8, 8))
    image.info["comment"] = b"JANE DOE"
    assert b"JANE DOE" not in base64.b64decode(encode_jpeg_base64(image))
    assert image.info["comment"] == b"JANE DOE"

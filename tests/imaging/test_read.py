import io
import struct
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from chestmap.errors import BadImage
from chestmap.imaging.exif import orientation_of
from chestmap.imaging.read import DEFAULTS, LIMITS, Limits, ReadSettings, read_radiograph
from chestmap.types import Radiograph
from imaging.dicom_samples import as_bytes, chest, radiograph
from imaging.picture_samples import chunk, grey_png, interlaced_png, png, rows, saved, segment, with_segment

GREY = chest(bits=8)
PILLOW = Image.fromarray(GREY)
COLOR = np.dstack([GREY, GREY[::-1], 255 - GREY])
LUMA = (COLOR @ np.array([0.299, 0.587, 0.114])) / 255


@pytest.fixture
def read(tmp_path: Path):
    def read(content: bytes, name: str = "00000013_005.png", settings: ReadSettings = DEFAULTS) -> Radiograph:
        path = tmp_path / name
        path.write_bytes(content)
        return read_radiograph(path, settings)

    return read


def by_pillow(content: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert("L"), np.float32) / 255


def exif(orientation: int) -> Image.Exif:
    tags = Image.Exif()
    tags[0x0112] = orientation
    return tags


def test_eight_bit_grey_is_divided_by_255(read, tmp_path: Path) -> None:
    image = read(saved(GREY))
    assert image.pixels.dtype == np.float32
    assert image.pixels[3, 5] == np.float32(GREY[3, 5] / 255)
    np.testing.assert_array_equal(np.rint(image.pixels * 255), GREY)
    assert (image.pixels.min(), image.pixels.max()) == (0, 1)
    assert image.done == ()
    assert (image.image_id, image.patient_id, image.view) == ("00000013_005", "", "")
    assert image.source == str(tmp_path / "00000013_005.png")
    assert image.size == (64, 48)


@pytest.mark.parametrize(
    ("mode", "done"),
    [
        ("1", ()),
        ("L", ()),
        ("LA", ("opaque alpha dropped",)),
        ("P", ("palette: three equal channels: one kept",)),
        ("RGB", ("three equal channels: one kept",)),
        ("RGBA", ("three equal channels: one kept", "opaque alpha dropped")),
    ],
)
def test_every_kind_of_png_is_what_pillow_makes_of_it(mode: str, done: tuple[str, ...], read) -> None:
    content = saved(PILLOW.convert(mode))
    image = read(content)
    np.testing.assert_allclose(image.pixels, by_pillow(content), atol=1e-6)
    assert image.done == done


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_bits_are_stretched_to_the_whole_range(bits: int, read) -> None:
    levels = (GREY >> (8 - bits)).astype(np.uint8)
    lines = np.packbits(np.unpackbits(levels[..., None], axis=-1)[..., 8 - bits :].reshape(len(levels), -1), axis=1)
    image = read(png(rows(lines), depth=bits))
    np.testing.assert_allclose(image.pixels, levels / (2**bits - 1), atol=1e-6)


def test_interlaced_png(read) -> None:
    np.testing.assert_array_equal(read(interlaced_png(GREY)).pixels, read(saved(GREY)).pixels)


def test_color_becomes_luma_and_says_so(read) -> None:
    image = read(saved(COLOR))
    np.testing.assert_allclose(image.pixels, LUMA, atol=1e-6)
    assert image.done == ("color turned to luma (Rec. 601)",)
    palette = PILLOW.convert("P")
    palette.putpalette([value for level in range(256) for value in (level, 255 - level, 7)])
    indexes = np.asarray(palette)
    np.testing.assert_allclose(
        read(saved(palette)).pixels, (0.299 * indexes + 0.587 * (255 - indexes.astype(int)) + 0.114 * 7) / 255, atol=1e-6
    )


@pytest.mark.parametrize("bits", [8, 16])
def test_what_is_not_opaque_is_laid_over_black(bits: int, read) -> None:
    scale = 257 if bits == 16 else 1
    alpha = np.full_like(GREY, 255)
    alpha[:12] = 51
    stored = np.dstack([GREY, GREY, GREY, alpha]).astype(f"u{bits // 8}") * np.array(scale, f"u{bits // 8}")
    image = read(png(rows(stored), depth=bits, color=6))
    np.testing.assert_allclose(image.pixels, GREY / 255 * (alpha / 255), atol=1e-6)
    assert image.done == ("three equal channels: one kept", "alpha: 25.0 % of the pixels are not opaque, laid over black")


def test_a_transparent_grey_level_or_palette_entry_is_black(read) -> None:
    grey = read(png(rows(GREY), before=chunk(b"tRNS", struct.pack(">H", 255))))
    np.testing.assert_allclose(grey.pixels, np.where(GREY == 255, 0, GREY) / 255, atol=1e-6)
    entries = bytes(value for level in range(256) for value in (level, level, level))
    before = chunk(b"PLTE", entries) + chunk(b"tRNS", b"\xff" * 200 + b"\x00" * 56)
    palette = read(png(rows(GREY), color=3, before=before))
    np.testing.assert_allclose(palette.pixels, np.where(GREY >= 200, 0, GREY) / 255, atol=1e-6)


def test_sixteen_bits_keep_their_precision(read) -> None:
    stored = chest(bits=16)
    image = read(saved(stored))
    np.testing.assert_array_equal(np.rint(image.pixels.astype(np.float64) * 65535), stored)
    assert image.done == ()
    with_alpha = png(rows(np.dstack([stored, np.full_like(stored, 65535)])), depth=16, color=4)
    np.testing.assert_array_equal(read(with_alpha).pixels, image.pixels)


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_a_detectors_bits_saved_unscaled_are_not_left_in_the_dark(bits: int, read) -> None:
    stored = chest(bits=bits).astype(np.uint16)
    image = read(saved(stored))
    np.testing.assert_allclose(image.pixels, stored / (2**bits - 1), atol=1e-6)
    assert image.done == (f"16-bit values up to {2**bits - 1}: read as {bits}-bit",)


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"quality": 30}, {"subsampling": 2}])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_jpeg_is_what_pillow_makes_of_it(options: dict[str, object], mode: str, read) -> None:
    content = saved(PILLOW.convert(mode), "jpeg", **options)
    image = read(content, "x.jpg")
    np.testing.assert_allclose(image.pixels, by_pillow(content), atol=0.5 / 255)
    assert image.done == (() if mode == "L" else ("three equal channels: one kept",))


def test_twelve_bit_and_lossless_jpeg(read) -> None:
    stored = chest(bits=12)
    lossless = read(imagecodecs.jpeg8_encode(stored, lossless=True, bitspersample=12))
    np.testing.assert_array_equal(np.rint(lossless.pixels * 4095), stored)
    lossy = read(imagecodecs.jpeg8_encode(stored, level=99, bitspersample=12))
    np.testing.assert_allclose(lossy.pixels, stored / 4095, atol=4 / 4095)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["png", "jpeg"])
def test_a_turned_picture_stands_upright(orientation: int, kind: str, read) -> None:
    content = saved(PILLOW, kind, exif=exif(orientation))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))), np.float32) / 255
    image = read(content)
    np.testing.assert_allclose(image.pixels, expected, atol=1e-6)
    assert image.size == (expected.shape[1], expected.shape[0])
    assert image.done == (() if orientation == 1 else (f"turned upright (EXIF orientation {orientation})",))


@pytest.mark.parametrize(
    "tiff", [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", b"XX*\0" + bytes(20), b"MM\0*\0\0\0\x08\xff\xff" + bytes(30)]
)
def test_damaged_exif_leaves_the_picture_as_it_is(tiff: bytes, read) -> None:
    assert orientation_of(tiff) == 1
    content = with_segment(saved(GREY, "jpeg"), 0xE1, b"Exif\0\0" + tiff)
    assert read(content).done == ()


@pytest.mark.parametrize("name", ["image.png", "image.jpg", "image.dcm", "image.txt", "image", ".hidden"])
def test_content_decides_and_not_the_name(name: str, read) -> None:
    for content in (saved(GREY), saved(GREY, "jpeg", quality=100), as_bytes(radiograph(GREY))):
        np.testing.assert_allclose(read(content, name).pixels, GREY / 255, atol=2 / 255)


@pytest.mark.parametrize(
    ("name", "image_id"),
    [
        ("00000013_005.png", "00000013_005"),
        ("a.b.png", "a.b"),
        ("1.2.840.113619.2", "1.2.840.113619.2"),
        ("1.2.840.113619.2.dcm", "1.2.840.113619.2"),
        ("IM0001", "IM0001"),
    ],
)
def test_image_id_is_the_stem_and_a_uid_stays_whole(name: str, image_id: str, read) -> None:
    assert read(saved(GREY), name).image_id == image_id


def test_a_path_may_be_text_and_a_strange_name_stays_on_one_line(tmp_path: Path) -> None:
    path = tmp_path / "line\nbreak\x1b[31m\u202e.png"
    path.write_bytes(saved(GREY))
    assert read_radiograph(str(path)).source.isprintable()
    path.write_bytes(b"")
    with pytest.raises(BadImage) as problem:
        read_radiograph(path)
    assert str(problem.value).isprintable()


def test_what_is_around_the_pixels_is_never_opened(read) -> None:
    """A compressed text of 100 MB, an embedded profile, remarks and whatever follows the end."""
    plain = read(saved(GREY))
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(100 << 20))) + chunk(b"iCCP", b"x\0\0broken")
    np.testing.assert_array_equal(read(grey_png(before=bomb) + b"more").pixels, plain.pixels)
    jpeg = saved(GREY, "jpeg")
    noisy = jpeg[:2] + segment(0xE2, b"MPF\0broken") + segment(0xFE, bytes(60_000)) + jpeg[2:] + b"more"
    np.testing.assert_array_equal(read(noisy).pixels, read(jpeg).pixels)


def test_limits_are_settings(read) -> None:
    content = saved(GREY)
    small = ReadSettings(Limits(pixels=3000))
    with pytest.raises(BadImage, match=r"64 x 48 pixels; at most 3,000 pixels and 16,384 on a side"):
        read(content, settings=small)
    with pytest.raises(BadImage, match=r"at most 100 are read: resize or compress"):
        read(content, settings=ReadSettings(Limits(file_bytes=100)))
    assert LIMITS.shortest_side == 16
    read(saved(chest(16, 16, bits=8)))


def test_without_the_extra_the_message_names_it(read, monkeypatch: pytest.MonkeyPatch) -> None:
    content = as_bytes(radiograph(GREY))
    for name in [
        name
        for name in sys.modules
        if name.startswith(("pydicom", "chestmap.imaging.dicom", "chestmap.imaging.dicom_pixels"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    with pytest.raises(BadImage, match=r'DICOM; reading it needs pydicom.*: pip install "chestmap\[dicom\]"'):
        read(content)


def check_nih(path: Path) -> tuple[str, ...]:
    image = read_radiograph(path)
    assert image.pixels.shape in {(512, 512), (1024, 1024)}
    assert 0 <= image.pixels.min() < 0.3
    assert 0.6 < image.pixels.max() <= 1
    assert 0.1 < image.pixels.mean() < 0.9
    return image.done


def test_real_images_load(shared_data, capfd: pytest.CaptureFixture[str]) -> None:
    sample = sorted((shared_data("nih") / "images").glob("*.png"))[::25]
    assert len(sample) >= 40
    assert {check_nih(path) for path in sample} == {()}
    raw = {path.name: check_nih(path) for path in sorted(shared_data("raw").glob("*.png"))}
    assert len(raw) == 11
    colored = [name for name, done in raw.items() if done == ("three equal channels: one kept", "opaque alpha dropped")]
    assert len(colored) == 3
    assert capfd.readouterr() == ("", "")


def test_real_images_are_what_pillow_makes_of_them(shared_data) -> None:
    for path in sorted(shared_data("raw").glob("*.png")):
        np.testing.assert_allclose(read_radiograph(path).pixels, by_pillow(path.read_bytes()), atol=1e-6)


@pytest.mark.slow
def test_all_real_images_load(shared_data) -> None:
    paths = sorted((shared_data("nih") / "images").glob("*.png"))
    assert len(paths) == 1004
    assert {check_nih(path) for path in paths} == {()}
